"""Pictures as the tab shows them: those in the host's own output folders, and no others, whatever the library knows."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from .. import host
from ..core import module as core_module
from ..core import registry

EDGE, QUALITY = 256, 85
PER_PAGE = 200


def library_place() -> Path:
    """The library's file: where the host keeps it, or where IMAGEREWARD_LIBRARY says."""
    return Path(core_module("library.place").library_place())


def known_folders() -> list[str]:
    """The host's output folders, as real paths."""
    return sorted({os.path.realpath(folder) for folder in host.output_folders()})


def is_shown(path: str) -> bool:
    """Whether a picture lies below a known folder, links followed."""
    real = os.path.realpath(path)
    return any(real.startswith(folder.rstrip(os.sep) + os.sep) for folder in known_folders())


def shown_only(where: Any) -> Any:
    """The condition, and that the path begins with a known folder. What a link hides is looked at when it is read."""
    names = sorted({*known_folders(), *map(os.path.abspath, host.output_folders())})
    prefixes = [name.rstrip(os.sep) + os.sep for name in names]
    condition = " OR ".join("substr(CAST(i.path AS TEXT), 1, ?) = ?" for _ in prefixes) or "0"
    return where.and_(condition, *(value for prefix in prefixes for value in (len(prefix), prefix)))


def listed(library: Any, by: str, text: str, offset: int) -> dict[str, Any]:
    """A page of pictures: the best of the scorer `by`, or the newest; only those that the question `text` names."""
    find, meaning = core_module("library.find"), core_module("library.meaning")
    where = shown_only(find.where_of(library, text))
    number, percentiles = None, None
    limit = offset + PER_PAGE + 1
    if by:
        number, by = find.scorer_named(library, by)
        percentiles = meaning.Percentiles(library, number)
        found = find.top(library, number, where, limit)
    else:
        found = find.newest(library, where, limit)
    part = found[offset : offset + PER_PAGE]
    return {
        "by": by,
        "caveat": registry.caveat(by),
        "more": len(found) > offset + PER_PAGE,
        "pictures": [described(picture, by, percentiles) for picture in part if is_shown(picture.path)],
    }


def described(picture: Any, by: str = "", percentiles: Any = None) -> dict[str, Any]:
    """A picture's line for the page."""
    score = picture.scores.get(by) if by else next(iter(picture.scores.values()), None)
    place = None
    if percentiles is not None and score is not None:
        place = percentiles.of(score, picture.made.checkpoint, picture.made.checkpoint_hash)
    return {
        "id": picture.id,
        "name": os.path.basename(picture.path),
        "prompt": picture.made.prompt or "",
        "checkpoint": picture.made.checkpoint or "",
        "score": score,
        "percentile": place.sentence if place else "",
        "mark": picture.mark,
        "stars": picture.stars,
    }


def thumbnail(picture: Any) -> Path:
    """A small JPEG of the picture, made once and kept beside the library."""
    atomic, preprocess = core_module("atomic"), core_module("preprocess")
    path = core_module("library.place").thumbnails_folder(library_place()) / f"{picture.pixels.hex()}.jpg"
    if not path.is_file():
        image = preprocess.to_rgb(preprocess.open_image(picture.path))
        image.thumbnail((EDGE, EDGE))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=QUALITY)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, data.getvalue())
    return path
