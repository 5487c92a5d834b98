"""Pairs to be made: the same prompts and seeds with two levels, so that a difference can be claimed without "but".

Which prompts, and with which seeds, is decided by the prompts' words alone, never by scores or by what exists: seeds
are new, so that no picture counts that was made for another reason. Asked again, a plan gives only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import atomic
from ..errors import LibraryError
from ..prompts import EXTRA_NETWORK
from . import find
from .compare import FACTORS, Comparison, compare, level_labels
from .conditions import EVERYTHING, Where
from .describe import LORAS
from .leaderboard import prompts_needed
from .records import Picture
from .store import Library

FEWEST, MOST = 20, 200  # prompts of a plan, unless they are asked for by number
USUAL = 0.3  # the difference a plan is made to find where history shows none
WITHOUT_TABLE = 53  # prompts that find USUAL with probability 0.8 at spreads as measured by our benchmark


@dataclass(frozen=True)
class Plan:
    """`missing`: what is to be made, one generation each. `prompts` of the plan, `made` pictures that exist already."""

    factor: str
    levels: tuple[str, ...]
    prompts: int
    made: int
    missing: tuple[dict[str, Any], ...]


def plan(
    library: Library,
    factor: str,
    levels: Sequence[str] = (),
    *,
    scorer: str | None = None,
    prompts: int | None = None,
    where: Where = EVERYTHING,
) -> Plan:
    """Pairs for two (or more) levels, by their names in the table; by default the two best of the history's table.

    prompts: how many; by default what finds the difference seen with probability 0.8, between FEWEST and MOST. The plan
    is remembered, so that `compare(planned=True)` knows its pictures. `where`: the pictures whose prompts may be taken.
    Raises LibraryError naming the levels there are.
    """
    known = _levels(library, factor)
    table = compare(library, factor, scorer, where, others=False)
    chosen = [_level(known, name) for name in levels] or _best(table, known)
    if len(set(chosen)) < 2:
        raise LibraryError(f"a plan needs two different levels of {factor}; there are {', '.join(known)}")
    wanted = prompts or _enough(table, chosen)
    texts = _texts(library, factor, [known[label] for label in chosen], where)[:wanted]
    if not texts:
        raise LibraryError(f"no picture with a prompt was made with {' or '.join(chosen)}")
    missing: list[dict[str, Any]] = []
    made = 0
    with library.transaction() as connection:
        for prompt_id, same, words, picture in texts:
            seed = _seed(words)
            for label in chosen:
                level = known[label]
                connection.execute(
                    "INSERT OR IGNORE INTO planned VALUES (?, ?, ?, ?, ?)",
                    (factor, prompt_id, seed, str(level), time.time()),
                )
                if _exists(library, factor, same, seed, level):
                    made += 1
                else:
                    missing.append(_generation(library, factor, level, picture, seed))
    return Plan(factor, tuple(chosen), len(texts), made, tuple(missing))


def plan_text(made: Plan) -> str:
    """The missing pictures as JSON lines."""
    return "".join(json.dumps(generation, ensure_ascii=False) + "\n" for generation in made.missing)


def write_plan(made: Plan, path: str | os.PathLike[str]) -> None:
    """The missing pictures as JSON lines. Raises LibraryError."""
    try:
        atomic.write_text(path, plan_text(made))
    except OSError as error:
        raise LibraryError(f"cannot write {path}: {error.strerror or error}") from error


def _levels(library: Library, factor: str) -> dict[str, Any]:
    """label → value of every level in the library, the most used first."""
    if factor not in FACTORS:
        raise LibraryError(f"compared are {', '.join(FACTORS)}, not {factor!r}")
    rows = library.query(
        f"SELECT {FACTORS[factor]} AS level FROM images i WHERE level IS NOT NULL AND i.prompt_id IS NOT NULL"
        " GROUP BY level ORDER BY COUNT(*) DESC"
    )
    called = find.checkpoints(library) if factor == "checkpoint" else {}
    values = {called.get(level, level): 0 for (level,) in rows}
    return dict(zip(level_labels(library, factor, values), values))


def _level(known: dict[str, Any], name: str) -> str:
    fits = [label for label in known if label.lower() == name.lower()]
    fits = fits or [label for label in known if label.lower().startswith(name.lower()) or f"[{name.lower()}]" in label]
    if len(fits) != 1:
        raise LibraryError(
            f"{name!r} is {'no level' if not fits else 'not one level only'}; there are {', '.join(known)}"
        )
    return fits[0]


def _best(table: Comparison, known: dict[str, Any]) -> list[str]:
    if table.board is None:
        return list(known)[:2]
    return [table.labels[row.level] for row in table.board.effects[:2]]


def _enough(table: Comparison, chosen: list[str]) -> int:
    if table.board is None:
        return WITHOUT_TABLE
    effect = {table.labels[row.level]: row.effect for row in table.board.effects}
    if any(label not in effect for label in chosen):
        difference = USUAL
    else:
        difference = abs(effect[chosen[0]] - effect[chosen[1]])
    least = 1e-3 * USUAL
    return min(max(prompts_needed(table.board.tau2, table.board.sigma2, max(difference, least)), FEWEST), MOST)


def _texts(library: Library, factor: str, levels: list[Any], where: Where) -> list[tuple[int, int, str, Picture]]:
    """(prompt, its words' id, its words, its newest picture) of every prompt made with one of the levels, in an order
    that knows nothing of scores.
    """
    condition, values = _of_levels(library, factor, levels)
    rows = library.query(
        "SELECT p.same, p.words, i.id, i.prompt_id, MAX(i.time) FROM images i JOIN prompts p ON p.id = i.prompt_id"
        f" WHERE {condition} AND p.words <> '' AND ({where.sql}) GROUP BY p.same",
        [*values, *where.values],
    )
    rows.sort(key=lambda row: _digest(row[1]))
    found = []
    for same, words, number, prompt_id, _ in rows:
        picture = find.by_id(library, number)
        if picture is not None:
            found.append((prompt_id, same, words, picture))
    return found


def _of_levels(library: Library, factor: str, levels: list[Any]) -> tuple[str, list[Any]]:
    """A condition on `images i`, and its values: made with one of these levels."""
    if factor == "checkpoint":
        levels = [number for number, called in find.checkpoints(library).items() if called in levels]
    return f"{FACTORS[factor]} IN ({', '.join('?' * len(levels))})", levels


def _digest(words: str) -> int:
    return int.from_bytes(hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _seed(words: str) -> int:
    """A seed of 32 bits, as every host takes it."""
    return _digest(words + "\n") & 0xFFFFFFFF


def _exists(library: Library, factor: str, same: int, seed: int, level: Any) -> bool:
    condition, values = _of_levels(library, factor, [level])
    rows = library.query(
        "SELECT 1 FROM images i JOIN prompts p ON p.id = i.prompt_id"
        f" WHERE p.same = ? AND i.seed = ? AND {condition} LIMIT 1",
        (same, seed, *values),
    )
    return bool(rows)


def _generation(library: Library, factor: str, level: Any, picture: Picture, seed: int) -> dict[str, Any]:
    """One generation's parameters: the picture's own, with the seed and the level of the plan."""
    made = picture.made
    generation: dict[str, Any] = {
        "prompt": made.prompt,
        "negative_prompt": made.negative or "",
        "seed": seed,
        "steps": made.steps,
        "sampler": made.sampler,
        "cfg_scale": made.cfg,
        "width": picture.width,
        "height": picture.height,
        "checkpoint": made.checkpoint,
        "checkpoint_hash": made.checkpoint_hash,
    }
    if factor == "checkpoint":
        rows = library.query(
            "SELECT name, hash FROM checkpoints WHERE hash = ? OR (hash = '' AND name = ?) ORDER BY id DESC LIMIT 1",
            (level, level),
        )
        generation["checkpoint"], generation["checkpoint_hash"] = rows[0][0] or None, rows[0][1] or None
    elif factor == "lora":
        generation["prompt"] = _with_loras(made.prompt or "", level)
    else:
        generation[{"sampler": "sampler", "cfg": "cfg_scale", "steps": "steps"}[factor]] = level
    return generation


def _with_loras(prompt: str, level: str) -> str:
    """The prompt with these LoRAs ("name:weight, …") in place of its own."""

    def without(match: Any) -> str:
        return "" if match.group()[1:].split(":")[0].lower() in LORAS else match.group()

    plain = EXTRA_NETWORK.sub(without, prompt).strip().rstrip(",")
    tags = [f"<lora:{part}>" for part in level.split(", ") if part]
    return " ".join([plain, *tags])
