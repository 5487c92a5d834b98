"""Pictures out of the library: the best of a scorer, the newest, one of them, and what there is in all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import LibraryError
from ..naming import score_key
from ..registry import MODELS
from .conditions import EVERYTHING, Where
from .images import path_from_row, path_to_row, seed_from_row
from .pixels import look, stored_path
from .query import parse_where
from .records import Made, Picture
from .store import Library

COLUMNS = (
    "i.id, i.path, i.missing, i.width, i.height, i.time, i.mark, i.stars, i.pixels, p.text, n.text, i.seed, i.sampler,"
    " i.steps, i.cfg, c.name, c.hash, i.program, i.id IN (SELECT image_id FROM image_loras)"
)
JOINS = (
    " LEFT JOIN prompts p ON p.id = i.prompt_id LEFT JOIN prompts n ON n.id = i.negative_id"
    " LEFT JOIN checkpoints c ON c.id = i.checkpoint_id"
)
TOGETHER = 500  # pictures whose scores are looked up at once


def where_of(library: Library, text: str) -> Where:
    """A question of `--where` for this library."""
    return parse_where(text, lambda name: scorer_ids(library, name), search=library.search)


def scorers(library: Library) -> list[tuple[int, str, str, int]]:
    """(id, name, digest, number of pictures) of every scorer, the most used first."""
    return library.query(  # type: ignore[return-value]
        "SELECT r.id, r.name, r.digest, (SELECT COUNT(*) FROM scores s WHERE s.scorer_id = r.id AND s.prompt = '') used"
        " FROM scorers r ORDER BY used DESC, r.id"
    )


def scorer_ids(library: Library, name: str) -> list[int]:
    """The ids that go by a scorer's name: several only where one name stood for several weights."""
    known = library.query("SELECT id, name FROM scorers ORDER BY id DESC")
    for fits in (lambda found: found == name, lambda found: found.lower() == name.lower()):
        if found := [number for number, called in known if fits(called)]:
            return found
    keys = {info.name for info in MODELS if score_key(info).lower() == name.lower()}
    return [number for number, called in known if called in keys]


def scorer_named(library: Library, name: str | None) -> tuple[int, str]:
    """(id, name) of one scorer; without a name, the one with the most scores. Raises LibraryError naming what there
    is. Of several weights by one name the latest is meant: scores of different weights do not compare.
    """
    known = scorers(library)
    if not known or not known[0][3]:
        raise LibraryError(
            f"no picture in {library.place} has a score yet: `imagereward score FOLDER -r --remember` makes them"
        )
    if name is None:
        return known[0][0], known[0][1]
    found = scorer_ids(library, name)
    if not found:
        names = dict.fromkeys(called for _, called, _, used in known if used)
        raise LibraryError(f"no picture has a score of {name!r}; there are {', '.join(names)}")
    used = {number: count for number, _, _, count in known}
    number = next((number for number in found if used[number]), found[0])
    return number, next(called for known_number, called, _, _ in known if known_number == number)


def checkpoints(library: Library) -> dict[int, str]:
    """What tells a checkpoint from others, by its id: its hash, or its name where there is none. Names change."""
    return {number: digest or name for number, name, digest in library.query("SELECT id, name, hash FROM checkpoints")}


def scores_by_picture(library: Library, scorer: int) -> dict[int, float]:
    """A scorer's scores of pictures against their own prompts, by picture."""
    return dict(library.query("SELECT image_id, value FROM scores WHERE scorer_id = ? AND prompt = ''", (scorer,)))


def top(library: Library, scorer: int, where: Where = EVERYTHING, limit: int | None = 100) -> list[Picture]:
    """The best pictures of a scorer (its id), best first, as it scored them against their own prompts."""
    sql = (
        f"SELECT {COLUMNS}, s.value FROM scores s JOIN images i ON i.id = s.image_id{JOINS}"
        f" WHERE s.scorer_id = ? AND s.prompt = '' AND i.missing = 0 AND ({where.sql})"
        " ORDER BY s.value DESC, s.image_id LIMIT ?"
    )
    rows = library.query(sql, (scorer, *where.values, -1 if limit is None else limit))
    ((name,),) = library.query("SELECT name FROM scorers WHERE id = ?", (scorer,))
    # of several weights by one name, the ones asked for
    return [
        replace(picture, scores={**picture.scores, name: row[-1]})
        for picture, row in zip(_pictures(library, rows), rows)
    ]


def unscored(library: Library, scorer: int | None, where: Where = EVERYTHING, limit: int | None = 100) -> list[Picture]:
    """Pictures without a score of that scorer (None: of any), newest first."""
    row = "SELECT 1 FROM scores s WHERE s.image_id = i.id AND s.prompt = ''"
    lacking = (
        where.and_(f"NOT EXISTS ({row})")
        if scorer is None
        else where.and_(f"NOT EXISTS ({row} AND s.scorer_id = ?)", scorer)
    )
    return newest(library, lacking, limit)


def newest(library: Library, where: Where = EVERYTHING, limit: int | None = 100) -> list[Picture]:
    """Pictures whose files are there, newest first."""
    return list(stream(library, where.and_("i.missing = 0"), limit))


def ordered(
    library: Library, where: Where = EVERYTHING, by: str | int = "date", *, first_is_best: bool = True
) -> list[tuple[int, float | None, str]]:
    """(id, what it is ordered by, path) of all pictures that are not missing: by "date" (newest first), "stars", or by
    a scorer's id, which leaves out what it has not scored. `first_is_best` False: the other way round; what has no
    stars comes last either way.
    """
    way = "DESC" if first_is_best else "ASC"
    if isinstance(by, int):
        sql = (
            "SELECT i.id, s.value, i.path FROM scores s JOIN images i ON i.id = s.image_id"
            f" WHERE s.scorer_id = ? AND s.prompt = '' AND i.missing = 0 AND ({where.sql})"
            f" ORDER BY s.value {way}, s.image_id"
        )
        rows = library.query(sql, (by, *where.values))
        return [(number, value, path_from_row(path)) for number, value, path in rows]
    column = {"date": "i.time", "stars": "i.stars"}[by]
    sql = (
        f"SELECT i.id, {column}, i.path FROM images i WHERE i.missing = 0 AND ({where.sql})"
        f" ORDER BY {column} IS NULL, {column} {way}, i.time DESC, i.id DESC"
    )
    return [(number, value, path_from_row(path)) for number, value, path in library.query(sql, where.values)]


def among(library: Library, numbers: Sequence[int]) -> Where:
    """The condition that a picture is one of these, however many: they go into a table that only this connection sees,
    which the next call empties.
    """
    with library.lock, library.named_errors():
        connection = library.connection
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (id INTEGER PRIMARY KEY)")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM temp.chosen")
        connection.executemany("INSERT OR IGNORE INTO temp.chosen VALUES (?)", ((number,) for number in numbers))
        connection.execute("COMMIT")
    return Where("i.id IN (SELECT id FROM temp.chosen)")


def used(library: Library, where: Where = EVERYTHING) -> dict[str, list[tuple[str, str, int]]]:
    """What the pictures were made with: (name, hash, number of pictures) of each "checkpoint" and, without a hash, of
    each "lora", the most used first.
    """
    shown = f"i.missing = 0 AND ({where.sql})"
    return {
        "checkpoint": library.query(  # type: ignore[dict-item]
            "SELECT c.name, c.hash, COUNT(*) AS used FROM images i JOIN checkpoints c ON c.id = i.checkpoint_id"
            f" WHERE {shown} GROUP BY c.id ORDER BY used DESC, c.id",
            where.values,
        ),
        "lora": library.query(  # type: ignore[dict-item]
            "SELECT l.name, '', COUNT(*) AS used FROM images i JOIN image_loras l ON l.image_id = i.id"
            f" WHERE {shown} GROUP BY l.name ORDER BY used DESC, l.name",
            where.values,
        ),
    }


def stream(library: Library, where: Where = EVERYTHING, limit: int | None = None) -> Iterator[Picture]:
    """Pictures, newest first, missing ones too, a few hundred in memory at a time."""
    sql = f"SELECT {COLUMNS} FROM images i{JOINS} WHERE {where.sql} ORDER BY i.time DESC, i.id DESC LIMIT ?"
    rows: list[tuple[Any, ...]] = []
    for row in library.stream(sql, (*where.values, -1 if limit is None else limit), TOGETHER):
        rows.append(row)
        if len(rows) == TOGETHER:
            yield from _pictures(library, rows)
            rows = []
    yield from _pictures(library, rows)


def by_id(library: Library, number: int) -> Picture | None:
    """The picture with that id."""
    rows = library.query(f"SELECT {COLUMNS} FROM images i{JOINS} WHERE i.id = ?", (number,))
    return next(iter(_pictures(library, rows)), None)


def by_ids(library: Library, numbers: Sequence[int]) -> list[Picture]:
    """The pictures with these ids, in that order; ids that there are not are passed over."""
    rows: dict[int, tuple[Any, ...]] = {}
    sql = f"SELECT {COLUMNS} FROM images i{JOINS} WHERE i.id IN ({{}})"
    _each(library, sql, numbers, lambda row: rows.update({row[0]: row}))
    return _pictures(library, [rows[number] for number in numbers if number in rows])


def by_path(library: Library, path: str | os.PathLike[str]) -> Picture | None:
    """The picture at that path. If the library knows none there, but the file's pixels, it has moved or is a copy."""
    place = stored_path(path)
    value = path_to_row(place)
    question = f"SELECT {COLUMNS} FROM images i{JOINS} WHERE "
    rows = library.query(f"{question} i.path = ? AND i.missing = 0", (value,))
    if not rows and os.path.isfile(place):
        rows = library.query(f"{question} i.pixels = ? ORDER BY i.missing, i.id LIMIT 1", (look(place).pixels,))
    if not rows:
        rows = library.query(f"{question} i.path = ? ORDER BY i.id DESC LIMIT 1", (value,))
    return next(iter(_pictures(library, rows)), None)


def _pictures(library: Library, rows: Sequence[tuple[Any, ...]]) -> list[Picture]:
    numbers = [row[0] for row in rows]
    scores = _scores(library, numbers)
    loras = _loras(library, [row[0] for row in rows if row[18]])
    return [_picture(row, loras.get(row[0], ()), scores.get(row[0], {})) for row in rows]


def _picture(row: tuple[Any, ...], loras: tuple[tuple[str, float | None], ...], scores: dict[str, float]) -> Picture:
    return Picture(
        id=row[0],
        path=path_from_row(row[1]),
        missing=bool(row[2]),
        width=row[3],
        height=row[4],
        time=row[5],
        made=Made(
            prompt=row[9],
            negative=row[10],
            seed=seed_from_row(row[11]),
            sampler=row[12],
            steps=row[13],
            cfg=row[14],
            checkpoint=row[15] or None,
            checkpoint_hash=row[16] or None,
            loras=loras,
            program=row[17],
        ),
        mark=row[6],
        stars=row[7],
        pixels=row[8],
        scores=scores,
    )


def _scores(library: Library, numbers: Sequence[int]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    sql = (
        "SELECT s.image_id, r.name, s.value FROM scores s JOIN scorers r ON r.id = s.scorer_id"
        " WHERE s.prompt = '' AND s.image_id IN ({}) ORDER BY s.time"
    )
    _each(library, sql, numbers, lambda row: found.setdefault(row[0], {}).update({row[1]: row[2]}))
    return found


def _loras(library: Library, numbers: Sequence[int]) -> dict[int, tuple[tuple[str, float | None], ...]]:
    found: dict[int, list[tuple[str, float | None]]] = {}
    sql = "SELECT image_id, name, weight FROM image_loras WHERE image_id IN ({}) ORDER BY name"
    _each(library, sql, numbers, lambda row: found.setdefault(row[0], []).append((row[1], row[2])))
    return {number: tuple(names) for number, names in found.items()}


def _each(library: Library, sql: str, numbers: Sequence[int], take: Callable[[tuple[Any, ...]], None]) -> None:
    """Rows of some pictures, asked for in parts: SQLite allows only so many parameters."""
    for start in range(0, len(numbers), TOGETHER):
        part = numbers[start : start + TOGETHER]
        for row in library.query(sql.format(", ".join("?" * len(part))), part):
            take(row)


def stats(library: Library) -> dict[str, Any]:
    """What there is: numbers of pictures, prompts, checkpoints, marks, duels; scorers with mean and range; the size."""

    def count(sql: str) -> int:
        return int(library.query(f"SELECT COUNT(*) FROM {sql}")[0][0])

    rows = library.query(
        "SELECT r.name, r.digest, COUNT(*), AVG(s.value), MIN(s.value), MAX(s.value) FROM scores s"
        " JOIN scorers r ON r.id = s.scorer_id WHERE s.prompt = '' GROUP BY r.id ORDER BY COUNT(*) DESC"
    )
    keys = ("scorer", "digest", "pictures", "mean", "lowest", "highest")
    return {
        "pictures": count("images"),
        "missing": count("images WHERE missing = 1"),
        "prompts": count("(SELECT DISTINCT p.same FROM images i JOIN prompts p ON p.id = i.prompt_id)"),
        "checkpoints": count("(SELECT DISTINCT checkpoint_id FROM images WHERE checkpoint_id IS NOT NULL)"),
        "keep": count("images WHERE mark = 'keep'"),
        "reject": count("images WHERE mark = 'reject'"),
        "starred": count("images WHERE stars IS NOT NULL"),
        "duels": count("duels"),
        "features": count("features"),
        "scorers": [dict(zip(keys, row)) for row in rows],
        "bytes": os.path.getsize(library.place),
        "journal": library.journal,
    }
