"""Held-out pictures: for the gallery each prompt before training and now, cut out of the contact sheets of a run; for
the wall every sheet, small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..core import logger, measures
from ..core import runs as protocol

SHOWN = 8  # prompts
GAP = 4  # pixels between before and now
SMALL = 128  # pixels of a picture on the wall
Event = Mapping[str, Any]


def sheets(events: Sequence[Event]) -> list[str]:
    """File names of a run's contact sheets, oldest first; the first is the untrained model's."""
    paths = [event.get("path") for event in events if event["type"] == protocol.EventKind.SAMPLES]
    return list(dict.fromkeys(Path(path).name for path in paths if isinstance(path, str)))


def pairs(folder: Path, events: Sequence[Event], seeds: int) -> list[tuple[Any, str]]:
    """(picture, prompt) for the first prompts: before and newest side by side, the same seed. seeds: pictures of a
    prompt in a sheet's row. What cannot be read is left out.
    """
    from PIL import Image

    names = sheets(events)
    if not names:
        return []
    prompts: list[Any] = next((event["prompts"] for event in events if isinstance(event.get("prompts"), list)), [])
    opened = []
    for name in dict.fromkeys((names[0], names[-1])):
        try:
            with Image.open(folder / protocol.Name.SAMPLES / name) as sheet:
                opened.append(sheet.convert("RGB"))
        except OSError as error:
            logger.warning("the pictures %s of run %s cannot be read: %s", name, folder.name, error)
    return _cut(opened, max(seeds, 1), prompts)


def title(names: Sequence[str]) -> str:
    """What the gallery shows, by the sheets that there are."""
    step = int(names[-1][5:11]) if names else 0
    if not step:
        return "Held-out prompts, before training"
    return f"Held-out prompts: left before training, right after {step} update{'' if step == 1 else 's'}"


def small(path: Path, seeds: int) -> bytes:
    """A contact sheet as a JPEG whose pictures have at most SMALL pixels a side. RunError for one that is torn."""
    from PIL import Image

    made = BytesIO()
    try:
        with Image.open(path) as sheet:
            share = min(1.0, SMALL * max(seeds, 1) / sheet.width)
            size = (max(round(sheet.width * share), 1), max(round(sheet.height * share), 1))
            sheet.convert("RGB").resize(size).save(made, "JPEG", quality=85)
    except OSError as error:
        raise protocol.RunError(f"the pictures {path.name} cannot be read: {error}") from error
    return made.getvalue()


def wall(folder: Path, events: Sequence[Event], seeds: int) -> dict[str, Any] | None:
    """The wall of a run, for its page: `prompts`, a row each, and `columns`, a contact sheet each, with its update,
    what its evaluation says, whether its state is saved, and how far each prompt's scores have moved since the first.
    None before there is a sheet.
    """
    names = sheets(events)
    if not names:
        return None
    prompts: list[Any] = next((event["prompts"] for event in events if isinstance(event.get("prompts"), list)), [])
    if not prompts:  # a run from before they were told: how many rows its sheets have is not known
        return None
    states = {path.name for path in protocol.saved_states(folder)}
    evaluations = {event.get("step"): event for event in measures.of_run(events)[1]}
    moved = _moved(folder, seeds)
    columns = []
    for name in names:
        step = int(name[5:11])
        now = name.endswith("-now.png")
        told = measures.changes_in_words(evaluations.get(0, {}), evaluations[step]) if step in evaluations else ""
        columns.append(
            {
                "sheet": name,
                "step": step,
                "told": "" if now or not step else told,
                "saved": f"step-{step:06d}" in states,
                "moved": [] if now else moved.get(step, []),
            }
        )
    return {"prompts": [str(prompt) for prompt in prompts], "seeds": max(seeds, 1), "columns": columns}


def _moved(folder: Path, seeds: int) -> dict[int, list[list[list[Any]]]]:
    """update → for each prompt [score, change since the first evaluation], as the newest saved state tells; {} where
    none does.
    """
    for state in reversed(protocol.saved_states(folder)):
        try:
            told: Any = protocol.read_object(state / protocol.Name.STATE, finite=False)
            history = told["info"]["history"]
            base = history[0]["scores"]
            return {
                int(item["step"]): [list(row) for row in zip(*(_rows(*pair, seeds) for pair in _pairs(base, item)))]
                for item in history[1:]
            }
        except (protocol.RunDamaged, LookupError, TypeError, ValueError, AttributeError):
            continue  # torn, or of an earlier version: an older one may tell
    return {}


def _pairs(base: Mapping[str, Any], item: Mapping[str, Any]) -> list[tuple[str, list[float], list[float]]]:
    names = [measures.MIXED, *(name for name in item["judges"])]
    return [(name, base[name], item["scores"][name]) for name in names]


def _rows(name: str, before: Sequence[float], after: Sequence[float], seeds: int) -> list[list[Any]]:
    """[name, change] for each prompt, the mean over its pictures; None where it is no number."""
    shown = measures.REWARD if name == measures.MIXED else name
    change = [float(new) - float(old) for old, new in zip(before, after)]
    means = [sum(change[at : at + seeds]) / seeds for at in range(0, len(change), seeds)]
    return [[shown, round(mean, 4) if math.isfinite(mean) else None] for mean in means]


def _cut(opened: Sequence[Any], seeds: int, prompts: Sequence[Any]) -> list[tuple[Any, str]]:
    from PIL import Image

    if not opened:
        return []
    size = min(sheet.width // seeds for sheet in opened)
    rows = min(SHOWN, *(sheet.height // (sheet.width // seeds) for sheet in opened))
    found = []
    for row in range(rows):
        joined = Image.new("RGB", (len(opened) * (size + GAP) - GAP, size), "white")
        for column, sheet in enumerate(opened):
            own = sheet.width // seeds
            tile = sheet.crop((0, row * own, own, (row + 1) * own)).resize((size, size))
            joined.paste(tile, (column * (size + GAP), 0))
        found.append((joined, str(prompts[row]) if row < len(prompts) else f"held-out prompt {row + 1}"))
    return found
