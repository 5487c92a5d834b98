"""A picture moved to another folder: its file, the text beside it, and its row. No file is ever replaced."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import atomic
from ..errors import LibraryError
from ..image_files import SUFFIXES
from . import find
from .images import path_from_row, path_to_row
from .pixels import stored_path
from .store import Library

SIDECARS = (".txt",)


@dataclass(frozen=True)
class Moved:
    """A picture's id, and where its file was and is."""

    id: int
    before: str
    after: str


def move(library: Library, number: int, folder: str | os.PathLike[str], name: str = "") -> Moved:
    """Move a picture's file into a folder that exists, with the text file beside it. `name`: what it is to be called
    there, by default what it is called; where a file has the name, `-1`, `-2`, … are tried.

    Raises LibraryError; file and row are then as they were. Should the process die between the two, the file is known
    again by its pixels when the folder is read.
    """
    picture = find.by_id(library, number)
    if picture is None or picture.missing:
        raise LibraryError(f"the library has no picture {number}")
    source = Path(picture.path)
    if source.is_symlink():
        raise LibraryError(f"{source} is a link: what it leads to is not moved")
    if not source.is_file():
        raise LibraryError(f"{source} is not there any more")
    wanted = Path(stored_path(folder)) / (name or source.name)
    if wanted == source:
        return Moved(number, str(source), str(source))
    sidecars = [suffix for suffix in SIDECARS if source.with_suffix(suffix).is_file() and _alone(source)]
    target = _free(wanted, sidecars)
    done: list[tuple[Path, Path]] = []
    try:
        for suffix in ("", *sidecars):
            pair = (source, target) if not suffix else (source.with_suffix(suffix), target.with_suffix(suffix))
            rename(*pair)
            done.append(pair)
        _keep(library, number, target)
    except (OSError, LibraryError) as error:
        for here, there in done:
            with suppress(OSError):
                rename(there, here)
        if isinstance(error, LibraryError):
            raise
        raise LibraryError(f"{source} stays where it is: {error.strerror or error}") from error
    return Moved(number, str(source), str(target))


def _alone(source: Path) -> bool:
    """Whether no other picture has this name, so that the text beside it is this one's."""
    others = (source.with_suffix(suffix) for suffix in SUFFIXES if suffix != source.suffix.lower())
    return not any(other.is_file() for other in others)


def _free(wanted: Path, sidecars: list[str]) -> Path:
    """`wanted`, or the first of `name-1.png`, `name-2.png`, … whose place, and that of its texts, is free."""
    candidate, count = wanted, 0
    while any(os.path.lexists(path) for path in (candidate, *map(candidate.with_suffix, sidecars))):
        count += 1
        candidate = wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
    return candidate


def rename(source: Path, target: Path) -> None:
    """Rename a file, onto no other: the name is taken first, by an empty file that only whoever made it replaces. To
    another disk the file is copied whole before the old one goes. Raises OSError; FileExistsError if the name is taken.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        if same_disk(source, target):
            atomic.replace(source, target)
            return
        with atomic.replacing(target, durable=True) as temporary:
            shutil.copy2(source, temporary)
        os.unlink(source)
    except BaseException:
        if source.exists():
            with suppress(OSError):
                os.unlink(target)
        raise


def same_disk(first: Path, second: Path) -> bool:
    """Whether a rename leads from the one to the other."""
    return os.stat(first).st_dev == os.stat(second).st_dev


def _keep(library: Library, number: int, target: Path) -> None:
    """Write down the new place. A row that has it for a file that was deleted there is marked as missing."""
    value = path_to_row(str(target))
    with library.transaction() as connection:
        connection.execute("UPDATE images SET missing = 1 WHERE path = ? AND missing = 0 AND id <> ?", (value, number))
        _set_path(connection, number, value)


def _set_path(connection: sqlite3.Connection, number: int, value: str | bytes) -> None:
    changed = connection.execute("UPDATE images SET path = ? WHERE id = ?", (value, number)).rowcount
    if not changed:
        raise LibraryError(f"the picture {path_from_row(value)!r} was taken out of the library meanwhile")
