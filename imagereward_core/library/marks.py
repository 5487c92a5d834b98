"""What the user said of pictures: marks, stars and duels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import LibraryError
from . import find
from .images import clean, text_id
from .records import KEEP, MY_TASTE, REJECT, VERDICTS, Duel

if TYPE_CHECKING:
    from .store import Library


def set_mark(library: Library, number: int, mark: str | None) -> None:
    """keep, reject, or None to take the mark away."""
    if mark not in (KEEP, REJECT, None):
        raise LibraryError(f"a mark is {KEEP}, {REJECT} or none, found {mark!r}")
    _set(library, number, "mark", mark)


def set_stars(library: Library, number: int, stars: int | None) -> None:
    """1 to 5, or None to take them away."""
    if stars is not None and stars not in range(1, 6):
        raise LibraryError(f"stars go from 1 to 5, found {stars!r}")
    _set(library, number, "stars", stars)


def judge(
    library: Library, numbers: Sequence[int], mark: str | None = None, stars: int | None = None
) -> list[tuple[int, str | None, int | None]]:
    """Set mark, stars or both of many pictures at once; None leaves what is there, "" and 0 take it away. Returns what
    `restore` takes to undo it: (id, mark, stars) as they were.
    """
    if mark not in (KEEP, REJECT, "", None):
        raise LibraryError(f"a mark is {KEEP}, {REJECT} or none, found {mark!r}")
    if stars is not None and stars not in range(6):
        raise LibraryError(f"stars go from 1 to 5, found {stars!r}")
    chosen = find.among(library, numbers)
    with library.transaction() as connection:
        before = connection.execute(f"SELECT i.id, i.mark, i.stars FROM images i WHERE {chosen.sql}").fetchall()
        connection.execute(
            "UPDATE images AS i SET mark = CASE WHEN ?1 IS NULL THEN i.mark ELSE NULLIF(?1, '') END,"
            f" stars = CASE WHEN ?2 IS NULL THEN i.stars ELSE NULLIF(?2, 0) END WHERE {chosen.sql}",
            (mark, stars),
        )
    return before


def restore(library: Library, before: Sequence[tuple[int, str | None, int | None]]) -> None:
    """Give pictures the marks and stars that `judge` found."""
    with library.transaction() as connection:
        rows = [(mark, stars, number) for number, mark, stars in before]
        connection.executemany("UPDATE images SET mark = ?, stars = ? WHERE id = ?", rows)


def _set(library: Library, number: int, column: str, value: object) -> None:
    with library.transaction() as connection:
        if not connection.execute(f"UPDATE images SET {column} = ? WHERE id = ?", (value, number)).rowcount:
            raise LibraryError(f"the library has no picture {number}")


def add_duel(
    library: Library,
    winner: int,
    loser: int,
    verdict: str = "win",
    prompt: str | None = None,
    when: float | None = None,
    taste: str = MY_TASTE,
) -> int:
    """Keep a duel of two pictures; returns its id. `prompt` None: the winner's own. `taste`: whose choice, by name."""
    if verdict not in VERDICTS:
        raise LibraryError(f"a verdict is one of {', '.join(VERDICTS)}, found {verdict!r}")
    if winner == loser:
        raise LibraryError("a duel needs two pictures")
    with library.transaction() as connection:
        known = dict(
            connection.execute("SELECT id, prompt_id FROM images WHERE id IN (?, ?)", (winner, loser)).fetchall()
        )
        for number in (winner, loser):
            if number not in known:
                raise LibraryError(f"the library has no picture {number}")
        words = text_id(library, clean(prompt)) if prompt is not None else known[winner]
        cursor = connection.execute(
            "INSERT INTO duels (winner_id, loser_id, prompt_id, verdict, time, taste) VALUES (?, ?, ?, ?, ?, ?)",
            (winner, loser, words, verdict, when if when is not None else time.time(), taste),
        )
        return int(cursor.lastrowid or 0)


def remove_duel(library: Library, number: int) -> bool:
    """Undo a duel; whether there was one."""
    with library.transaction() as connection:
        return connection.execute("DELETE FROM duels WHERE id = ?", (number,)).rowcount > 0


def duels(library: Library, taste: str | None = None) -> list[Duel]:
    """All duels, or those of one taste, oldest first."""
    rows = library.query(
        "SELECT d.id, d.winner_id, d.loser_id, p.text, d.verdict, d.time, d.taste FROM duels d"
        " LEFT JOIN prompts p ON p.id = d.prompt_id WHERE ?1 IS NULL OR d.taste = ?1 ORDER BY d.time, d.id",
        (taste,),
    )
    return [Duel(*row) for row in rows]


def duels_by_taste(library: Library) -> dict[str, int]:
    """How many duels there are of each taste."""
    return dict(library.query("SELECT taste, COUNT(*) FROM duels GROUP BY taste ORDER BY taste"))


def forget_taste(library: Library, taste: str) -> int:
    """Delete a taste's duels, and when it was asked how good it is; returns the number of duels."""
    with library.transaction() as connection:
        connection.execute("DELETE FROM looks WHERE taste = ?", (taste,))
        return connection.execute("DELETE FROM duels WHERE taste = ?", (taste,)).rowcount
