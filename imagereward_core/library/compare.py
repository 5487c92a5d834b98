"""Which checkpoint, LoRA, sampler, guidance or number of steps scores higher, from the pictures in the library.

A table from history is called that: habits, such as trying the favourite first and switching when it disappoints, bias
what there is to compare. Only pictures that a plan asked for (`plan`) earn an unqualified claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import LibraryError
from . import find
from .conditions import EVERYTHING, Where
from .leaderboard import Leaderboard, Pair, cells_of, leaderboard
from .store import Library

# factor → the level a picture has of it, NULL where its file does not say; of checkpoints the id stands for the level
FACTORS = {
    "checkpoint": "i.checkpoint_id",
    "lora": "CASE WHEN i.prompt_id IS NULL THEN NULL ELSE i.loras END",
    "sampler": "i.sampler",
    "cfg": "i.cfg",
    "steps": "i.steps",
}
FROM_HISTORY, PLANNED = "from your history", "planned pairs"


@dataclass(frozen=True)
class Disagreement:
    """Another scorer that orders a pair the other way round, where at least one of the two claims it."""

    scorer: str
    first: int
    second: int
    difference: float
    claimed: bool


@dataclass(frozen=True)
class Comparison:
    """A leaderboard with the names of its levels. `board` is None where nothing can be said."""

    factor: str
    scorer: str
    planned: bool
    images: int
    prompts: int
    labels: tuple[str, ...]
    board: Leaderboard | None
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def source(self) -> str:
        """What the claims rest on."""
        return PLANNED if self.planned else FROM_HISTORY

    def sentence(self, pair: Pair) -> str:
        """What may be said of a pair."""
        better, worse = (pair.first, pair.second) if pair.difference >= 0 else (pair.second, pair.first)
        names = f"{self.labels[better]} and {self.labels[worse]}"
        if not pair.claimed:
            return f"{names}: cannot tell yet: about {pair.more:,} more paired prompts"
        label = "" if self.planned else f" ({FROM_HISTORY})"
        return f"{self.labels[better]} scores {abs(pair.difference):.2f} higher than {self.labels[worse]}{label}"


@dataclass(frozen=True)
class Rows:
    """One row per picture: number of its prompt, number of its level, its score."""

    prompt: list[int]
    level: list[int]
    score: list[float]


def compare(
    library: Library,
    factor: str,
    scorer: str | None = None,
    where: Where = EVERYTHING,
    *,
    planned: bool = False,
    others: bool = True,
) -> Comparison:
    """The table of a factor by one scorer (default: the most used); `others`: and what other scorers say against it,
    which takes as long again for each.
    """
    if factor not in FACTORS:
        raise LibraryError(f"compared are {', '.join(FACTORS)}, not {factor!r}")
    number, name = find.scorer_named(library, scorer)
    levels: dict[Any, int] = {}
    rows = _rows(library, factor, number, where, planned, levels)
    board = leaderboard(cells_of(rows.prompt, rows.level, rows.score))
    against: list[Disagreement] = []
    if others and board is not None:
        for other, called, _, used in find.scorers(library):
            if other != number and used:
                seen = _rows(library, factor, other, where, planned, levels)
                against += _against(board, leaderboard(cells_of(seen.prompt, seen.level, seen.score)), called)
    return Comparison(
        factor=factor,
        scorer=name,
        planned=planned,
        images=len(rows.score),
        prompts=len(set(rows.prompt)),
        labels=tuple(level_labels(library, factor, levels)),
        board=board,
        disagreements=tuple(against),
    )


def _rows(library: Library, factor: str, scorer: int, where: Where, planned: bool, levels: dict[Any, int]) -> Rows:
    """Scores of pictures whose prompt and level are known; copies of one picture count once. `levels` is filled.

    Scores and pictures are read apart and joined here: each then lies on the disk in the order in which it is read.
    """
    scores = find.scores_by_picture(library, scorer)
    found = library.query(
        f"SELECT i.id, i.prompt_id, {FACTORS[factor]} AS level, i.seed FROM images i"
        f" WHERE i.prompt_id IS NOT NULL AND level IS NOT NULL AND ({where.sql})",
        where.values,
    )
    same = dict(library.query("SELECT id, same FROM prompts"))
    called = find.checkpoints(library) if factor == "checkpoint" else {}
    copies = _copies(library)
    cells = [
        (same[prompt], called.get(level, level), scores[number], seed)
        for number, prompt, level, seed in found
        if number in scores and number not in copies
    ]
    if planned:
        cells = _complete(library, factor, cells)
    return Rows(
        prompt=[cell[0] for cell in cells],
        level=[levels.setdefault(cell[1], len(levels)) for cell in cells],
        score=[cell[2] for cell in cells],
    )


def _copies(library: Library) -> set[int]:
    """All but the first of pictures with the same pixels."""
    several = "SELECT pixels, MIN(id) AS first FROM images GROUP BY pixels HAVING COUNT(*) > 1"
    rows = library.query(f"SELECT i.id FROM images i JOIN ({several}) d ON i.pixels = d.pixels WHERE i.id <> d.first")
    return {number for (number,) in rows}


def _complete(library: Library, factor: str, cells: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The cells that a plan asked for, of prompts and seeds made with all the levels it asked for: one that was broken
    off because of what was seen must not count.
    """
    asked: dict[tuple[int, int], set[str]] = {}
    for prompt, seed, level in library.query(
        "SELECT p.same, q.seed, q.level FROM planned q JOIN prompts p ON p.id = q.prompt_id WHERE q.factor = ?",
        (factor,),
    ):
        asked.setdefault((prompt, seed), set()).add(level)
    made: dict[tuple[int, int], dict[str, tuple[Any, ...]]] = {}
    for cell in cells:
        place, level = (cell[0], cell[3]), str(cell[1])
        if level in asked.get(place, ()):
            made.setdefault(place, {}).setdefault(level, cell)
    return [cell for place, by_level in made.items() if set(by_level) == asked[place] for cell in by_level.values()]


def level_labels(library: Library, factor: str, levels: dict[Any, int]) -> list[str]:
    if factor == "checkpoint":
        known = checkpoint_names(library)
        return [known.get(level, str(level)) for level in levels]
    if factor == "lora":
        return [level or "no LoRA" for level in levels]
    return [f"{level:g}" if isinstance(level, float) else str(level) for level in levels]


def checkpoint_names(library: Library) -> dict[str, str]:
    """What a checkpoint is called, by its hash, or by its name where it has none: the name it was last seen under."""
    named = {}
    for name, digest in library.query("SELECT name, hash FROM checkpoints ORDER BY id"):
        named[digest or name] = f"{name} [{digest}]".strip() if digest else name
    return named


def _against(board: Leaderboard, other: Leaderboard | None, name: str) -> list[Disagreement]:
    if other is None:
        return []
    says = {(pair.first, pair.second): pair for pair in other.pairs}
    found = []
    for pair in board.pairs:
        there = says.get((pair.first, pair.second))
        if there and there.difference * pair.difference < 0 and (there.claimed or pair.claimed):
            found.append(Disagreement(name, pair.first, pair.second, there.difference, there.claimed))
    return found


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON holds it: levels by name."""
    board = comparison.board
    labels = comparison.labels
    result: dict[str, Any] = {
        "by": comparison.factor,
        "scorer": comparison.scorer,
        "source": comparison.source,
        "images": comparison.images,
        "prompts": comparison.prompts,
        "levels": [],
        "pairs": [],
        "left_out": [],
        "disagreements": [],
    }
    if board is None:
        return result
    for row in board.effects:
        result["levels"].append(
            {
                "level": labels[row.level],
                "effect": row.effect,
                "low": row.low,
                "high": row.high,
                "prompts": row.prompts,
                "df": row.df,
            }
        )
    for pair in board.pairs:
        result["pairs"].append(
            {
                "first": labels[pair.first],
                "second": labels[pair.second],
                "difference": pair.difference,
                "p": pair.p,
                "claimed": pair.claimed,
                "shared_prompts": pair.shared,
                "more_prompts": pair.more,
            }
        )
    result["left_out"] = [labels[level] for level in board.left_out]
    result["disagreements"] = [
        {
            "scorer": found.scorer,
            "first": labels[found.first],
            "second": labels[found.second],
            "difference": found.difference,
            "claimed": found.claimed,
        }
        for found in comparison.disagreements
    ]
    return result
