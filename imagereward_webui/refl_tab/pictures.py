"""Held-out pictures for the gallery: each prompt before training and now, cut out of the contact sheets of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import logger
from ..core import runs as protocol

SHOWN = 8  # prompts
GAP = 4  # pixels between before and now
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
