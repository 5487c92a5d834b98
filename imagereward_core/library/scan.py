"""Folders read into the library, and the library compared with the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ..image_files import find_images
from ..pipeline import ahead
from . import images
from .describe import described
from .pixels import look, stored_path
from .records import Made, Score, Seen
from .store import Library

TOGETHER = 50  # pictures of one transaction: what an interruption loses at most


@dataclass
class Added:
    """What became of the files: read in anew, known already, not readable."""

    read: int = 0
    known: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Read:
    path: Path
    seen: Seen | None = None
    made: Made = Made()
    scores: tuple[Score, ...] = ()
    error: str = ""


def add_files(
    library: Library,
    names: Iterable[str | os.PathLike[str]],
    recursive: bool = False,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    failed: Callable[[Path, str], None] = lambda path, reason: None,
    result: Added | None = None,
) -> Added:
    """Read images, folders and patterns into the library: pixels, prompts, settings and the scores in the files.

    A file that is known with the same size and time is not read again, so an interrupted run goes on where it was. At
    most a few pictures are in memory at once. `failed` is called with each file that cannot be read; `result` counts
    along, for who must know how far it came when it is interrupted.
    """
    paths = find_images(names, recursive)
    result = Added() if result is None else result
    batch: list[_Read] = []
    done = 0

    def unknown() -> Iterator[Path]:
        nonlocal done
        for path in paths:
            if _is_known(library, path):
                result.known += 1
                done += 1
                progress(done, len(paths))
            else:
                yield path

    try:
        with closing(ahead(unknown(), _read)) as reading:
            for found in reading:
                done += 1
                if found.seen is None:
                    result.failed += 1
                    failed(found.path, found.error)
                else:
                    batch.append(found)
                    result.read += 1
                if len(batch) >= TOGETHER:
                    _keep(library, batch)
                progress(done, len(paths))
    finally:
        _keep(library, batch)
    library.optimize()
    return result


def _is_known(library: Library, path: Path) -> bool:
    place = stored_path(path)
    try:
        found = os.stat(place)
    except OSError:
        return False
    rows = library.query(
        "SELECT bytes, mtime_ns FROM images WHERE path = ? AND missing = 0", (images.path_to_row(place),)
    )
    return rows == [(found.st_size, found.st_mtime_ns)]


def _read(path: Path) -> _Read:
    try:
        seen = look(path)
    except ImageError as error:
        return _Read(path, error=str(error))
    return _Read(path, seen, *described(path))


def _keep(library: Library, batch: list[_Read]) -> None:
    """Write what is there, in one transaction, and empty the batch."""
    if not batch:
        return
    with library.transaction():
        for found in batch:
            if found.seen is not None:
                number = images.put_picture(library, found.seen, found.made)
                images.put_scores(library, number, found.scores)
    batch.clear()


@dataclass(frozen=True)
class Pruned:
    """Pictures whose file is gone: taken out, kept for their marks or duels, and kept because their whole folder is
    gone (a drive that is not plugged in looks like that).
    """

    removed: int
    kept: int
    folder_gone: int


def prune(library: Library, *, folders_too: bool = False, dry_run: bool = False) -> Pruned:
    """Take out pictures whose file is gone. Those with a mark, stars or a duel stay, as missing: if the file turns up
    again, anywhere, it is known by its pixels. `folders_too`: also those whose folder is gone.
    """
    remove: list[int] = []
    keep: list[int] = []
    folder_gone = 0
    there: dict[str, bool] = {}
    duelled = "i.id IN (SELECT winner_id FROM duels UNION SELECT loser_id FROM duels)"
    judged = f"i.mark IS NOT NULL OR i.stars IS NOT NULL OR {duelled}"
    for number, value, valued in library.stream(f"SELECT i.id, i.path, {judged} FROM images i"):
        path = images.path_from_row(value)
        if os.path.exists(path):
            continue
        folder = os.path.dirname(path)
        if folder not in there:
            there[folder] = os.path.isdir(folder)
        if not there[folder] and not folders_too:
            folder_gone += 1
        else:
            (keep if valued else remove).append(number)
    if not dry_run:
        with library.transaction() as connection:
            connection.executemany("UPDATE images SET missing = 1 WHERE id = ?", [(number,) for number in keep])
            images.remove_pictures(library, remove)
    return Pruned(len(remove), len(keep), folder_gone)
