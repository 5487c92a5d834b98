"""Pictures as the tab shows them: those in the known folders, and no others, whatever the library knows."""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import module as core_module
from ..core import registry
from .folders import Folders, known, short

EDGE, QUALITY = 256, 85
TOGETHER = 500  # pictures described at once
FRESH = 20.0  # seconds for which percentiles are not counted anew
DATE, STARS = "date", "stars"
BEST, WORST, RANK = "best", "worst", "rank"  # by score; by rank among those of the same checkpoint
_percentiles: dict[tuple[Any, ...], tuple[float, Any]] = {}


def library_place() -> Path:
    """The library's file: where the host keeps it, or where IMAGEREWARD_LIBRARY says."""
    return Path(core_module("library.place").library_place())


@dataclass(frozen=True)
class Asked:
    """What the grid shows: ordered `by` date, stars, or a scorer's name; `order` best, worst or, of a scorer, rank;
    `where` in the library's language; of a folder (or all); `least`: percentile from which on.
    """

    by: str = DATE
    order: str = BEST
    where: str = ""
    folder: str = ""
    least: int = 0


def found(library: Any, asked: Asked) -> dict[str, Any]:
    """The ids of all pictures that a question names, in order, and how many there are in all."""
    find = core_module("library.find")
    folders = known()
    where = folders.condition(find.where_of(library, asked.where), asked.folder)
    by: Any = asked.by or DATE
    name = by
    if by not in (DATE, STARS):
        by, name = find.scorer_named(library, by)
    rows = find.ordered(library, where, by, first_is_best=asked.order != WORST)
    rows = [row for row in rows if folders.holds(row[2])]
    if isinstance(by, int) and (asked.least or asked.order == RANK):
        rows = _by_rank(library, by, rows, asked)
    ((total,),) = library.query(f"SELECT COUNT(*) FROM images i WHERE i.missing = 0 AND ({where.sql})", where.values)
    caveat = registry.caveat(name) if isinstance(by, int) else ""
    return {"by": name, "caveat": caveat, "ids": [row[0] for row in rows], "total": total}


def _by_rank(library: Any, scorer: int, rows: list[Any], asked: Asked) -> list[Any]:
    """Those whose percentile is known and high enough; by it if that is asked for, the score deciding among equals."""
    percentiles = percentiles_of(library, scorer)
    made = {
        number: (name, digest)
        for number, name, digest in library.query(
            "SELECT i.id, c.name, c.hash FROM images i JOIN checkpoints c ON c.id = i.checkpoint_id"
        )
    }
    ranked = []
    for row in rows:
        place = percentiles.of(row[1], *made.get(row[0], (None, None)))
        if place is not None and place.percent >= asked.least:
            ranked.append((place.below / place.pictures, row))
    if asked.order == RANK:
        ranked.sort(key=lambda pair: (-pair[0], -pair[1][1], pair[1][0]))
    return [row for _, row in ranked]


def percentiles_of(library: Any, scorer: int) -> Any:
    """A scorer's percentiles, counted anew after a while: pages ask for them a hundred pictures at a time."""
    key, now = (library.identity, scorer), time.monotonic()
    if key not in _percentiles or now - _percentiles[key][0] > FRESH:
        _percentiles.clear()
        _percentiles[key] = (now, core_module("library.meaning").Percentiles(library, scorer))
    return _percentiles[key][1]


def described(library: Any, pictures: list[Any], by: str = "") -> list[dict[str, Any]]:
    """The pictures' lines for the page, with the score of `by`; without it, the score of any scorer."""
    folders = known()
    percentiles = None
    if by not in ("", DATE, STARS):
        number, by = core_module("library.find").scorer_named(library, by)
        percentiles = percentiles_of(library, number)
    else:
        by = ""
    return [_described(picture, by, percentiles, folders) for picture in pictures]


def _described(picture: Any, by: str, percentiles: Any, folders: Folders) -> dict[str, Any]:
    made = picture.made
    score = picture.scores.get(by) if by else next(iter(picture.scores.values()), None)
    place = None
    if percentiles is not None and score is not None:
        place = percentiles.of(score, made.checkpoint, made.checkpoint_hash)
    return {
        "id": picture.id,
        "name": os.path.basename(picture.path),
        "folder": short(os.path.dirname(picture.path), folders),
        "prompt": made.prompt or "",
        "negative": made.negative or "",
        "checkpoint": made.checkpoint or "",
        "loras": core_module("library.images").loras_text(made.loras),
        "sampler": made.sampler or "",
        "steps": made.steps,
        "cfg": made.cfg,
        "seed": None if made.seed is None else str(made.seed),  # 64 bits are more than a page's numbers hold
        "width": picture.width,
        "height": picture.height,
        "time": picture.time,
        "score": score,
        "scores": dict(picture.scores),
        "percent": place.percent if place else None,
        "percentile": place.sentence if place else "",
        "mark": picture.mark,
        "stars": picture.stars,
    }


def thumbnail(picture: Any) -> Path:
    """A small JPEG of the picture, made once and kept beside the library."""
    path = core_module("library.place").thumbnails_folder(library_place()) / f"{picture.pixels.hex()}.jpg"
    if not path.is_file():
        atomic, preprocess = core_module("atomic"), core_module("preprocess")
        image = preprocess.to_rgb(preprocess.open_image(picture.path))
        image.thumbnail((EDGE, EDGE))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=QUALITY)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, data.getvalue())
    return path
