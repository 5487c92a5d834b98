"""Duels from a file, and those that marks and stars imply."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..duel_files import LINE, read_duels
from ..errors import DataError, ImageError, LibraryError
from ..library import Library, Record, marks, remember_now
from ..library.images import put_made
from ..library.records import KEEP, MY_TASTE, Made
from ..prompts import plain_prompt

WEAK = 0.5  # what all weak duels of one picture count at most, against 1 of a duel


@dataclass
class Added:
    """What became of the lines: kept, kept before, not usable."""

    added: int = 0
    known: int = 0
    failed: int = 0


def add_file(
    library: Library,
    source: str | os.PathLike[str],
    taste: str = MY_TASTE,
    failed: Callable[[str], None] = lambda reason: None,
) -> Added:
    """Put a JSON-lines file of duels into the library, with its pictures. A file that is added again adds what is new.

    `failed` is called with the reason for each line that cannot be used; the others are kept. Raises DataError for a
    file that cannot be read or holds no duel.
    """
    result = Added()
    already = Counter((duel.winner, duel.loser, duel.verdict) for duel in marks.duels(library, taste))
    numbers: dict[Path, int] = {}
    for number, found in read_duels(source):
        try:
            if isinstance(found, str):
                raise DataError(found)
            winner, loser = (_picture(library, path, found.prompt, numbers) for path in (found.winner, found.loser))
            key = winner, loser, found.verdict
            if already[key]:
                already[key] -= 1
                result.known += 1
                continue
            _same_prompt(library, winner, loser)
            marks.add_duel(library, winner, loser, found.verdict, found.prompt, taste=taste)
            result.added += 1
        except (DataError, ImageError, LibraryError) as error:
            if isinstance(error, LibraryError) and library.closed:
                raise
            result.failed += 1
            failed(f"{source}, line {number}: {error}")
    if not (result.added or result.known or result.failed):
        raise DataError(f"{source} holds no duels: each line is {LINE}")
    return result


def _picture(library: Library, path: Path, prompt: str | None, numbers: dict[Path, int]) -> int:
    """The picture's id, read into the library if it is new; one without a prompt takes that of the duel."""
    if path not in numbers:
        numbers[path] = remember_now(library, Record(path))
    number = numbers[path]
    if prompt is not None and _words(library, number) is None:
        with library.transaction():
            put_made(library, number, Made(prompt=prompt))
    return number


def _words(library: Library, number: int) -> str | None:
    rows = library.query("SELECT p.words FROM images i JOIN prompts p ON p.id = i.prompt_id WHERE i.id = ?", (number,))
    return str(rows[0][0]) if rows else None


def _same_prompt(library: Library, winner: int, loser: int) -> None:
    """DataError for pictures of two prompts: their scores do not compare."""
    first, second = _words(library, winner), _words(library, loser)
    if first is not None and second is not None and plain_prompt(first) != plain_prompt(second):
        raise DataError(f"a duel is between two pictures of one prompt, found {first[:60]!r} and {second[:60]!r}")


@dataclass(frozen=True)
class Weak:
    """A duel that marks or stars imply; `weight` of 1."""

    winner: int
    loser: int
    weight: float


def weak_duels(library: Library) -> list[Weak]:
    """Kept before rejected, more stars before fewer, among pictures of one prompt.

    Their number grows with the square of the marks, what they know does not: all of one picture's count WEAK together.
    """
    rows = library.query(
        "SELECT p.same, i.id, i.mark, i.stars FROM images i JOIN prompts p ON p.id = i.prompt_id"
        " WHERE i.mark IS NOT NULL OR i.stars IS NOT NULL ORDER BY p.same, i.id"
    )
    groups: dict[int, list[tuple[int, str | None, int | None]]] = {}
    for same, number, mark, stars in rows:
        groups.setdefault(same, []).append((number, mark, stars))
    pairs = [(a[0], b[0]) for group in groups.values() for a in group for b in group if _before(a, b)]
    often = Counter(number for pair in pairs for number in pair)
    return [Weak(a, b, WEAK / max(often[a], often[b])) for a, b in pairs]


def _before(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether the first is marked as better: by stars where both have some, else by keep and reject."""
    if a[2] is not None and b[2] is not None:
        return bool(a[2] > b[2])
    return a[1] == KEEP and b[1] is not None and b[1] != KEEP
