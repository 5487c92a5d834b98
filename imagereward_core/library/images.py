"""Rows of pictures: put in, found again after a move, taken out. Everything here runs inside a transaction of the
caller's (`with library.transaction():`).
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import LibraryError
from ..prompts import plain_prompt
from .records import Features, Made, Score, Seen

if TYPE_CHECKING:
    from .store import Library

SEEDS = 1 << 64  # seeds go up to 2^64 - 1, SQLite's integers only half as far: the upper half is kept as negative


def put_picture(library: Library, seen: Seen, made: Made, when: float | None = None) -> int:
    """The picture's id: of a new row, or of the one that is this picture's already.

    A file at a known path whose pixels changed is another picture: the old row stays, as missing. A picture whose
    pixels are known from a path that no longer exists has moved: its row, with scores, marks and duels, moves along.
    """
    connection = library.connection
    path = path_to_row(seen.path)
    row = connection.execute("SELECT id, pixels FROM images WHERE path = ? AND missing = 0", (path,)).fetchone()
    if row is not None and row[1] == seen.pixels:
        _update_file(connection, row[0], seen)
        put_made(library, row[0], made)
        return int(row[0])
    if row is not None:
        connection.execute("UPDATE images SET missing = 1 WHERE id = ?", (row[0],))
    moved = _moved_from(connection, seen)
    if moved is not None:
        _update_file(connection, moved, seen)
        put_made(library, moved, made)
        return moved
    cursor = connection.execute(
        "INSERT INTO images (path, pixels, width, height, bytes, mtime_ns, time) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            path,
            seen.pixels,
            seen.width,
            seen.height,
            seen.bytes,
            seen.mtime_ns,
            when if when is not None else seen.mtime_ns / 1e9,
        ),
    )
    number = int(cursor.lastrowid or 0)
    put_made(library, number, made)
    return number


def _moved_from(connection: sqlite3.Connection, seen: Seen) -> int | None:
    rows = connection.execute(
        "SELECT id, path, missing FROM images WHERE pixels = ? ORDER BY missing DESC, id", (seen.pixels,)
    )
    for number, path, missing in rows.fetchall():
        if missing or not os.path.exists(path_from_row(path)):
            return int(number)
    return None


def _update_file(connection: sqlite3.Connection, number: int, seen: Seen) -> None:
    connection.execute(
        "UPDATE images SET path = ?, missing = 0, bytes = ?, mtime_ns = ? WHERE id = ?",
        (path_to_row(seen.path), seen.bytes, seen.mtime_ns, number),
    )


def put_made(library: Library, number: int, made: Made) -> None:
    """Keep how a picture was made. What is not known now leaves what was known before."""
    if made == Made():
        return
    connection = library.connection
    checkpoint = _checkpoint_id(connection, made.checkpoint, made.checkpoint_hash)
    values = (
        text_id(library, made.prompt),
        text_id(library, made.negative),
        seed_to_row(made.seed),
        clean(made.sampler),
        _whole(made.steps),
        made.cfg,
        checkpoint,
        clean(made.program),
    )
    columns = ("prompt_id", "negative_id", "seed", "sampler", "steps", "cfg", "checkpoint_id", "program")
    known_or_kept = ", ".join(f"{column} = COALESCE(?, {column})" for column in columns)
    connection.execute(f"UPDATE images SET {known_or_kept} WHERE id = ?", (*values, number))
    if made.prompt is not None:
        connection.execute("UPDATE images SET loras = ? WHERE id = ?", (loras_text(made.loras), number))
        connection.execute("DELETE FROM image_loras WHERE image_id = ?", (number,))
        connection.executemany(
            "INSERT OR REPLACE INTO image_loras VALUES (?, ?, ?)",
            [(number, clean(name), weight) for name, weight in made.loras],
        )


def put_scores(library: Library, number: int, scores: Iterable[Score], when: float | None = None) -> None:
    """Keep scores; one of the same scorer for the same prompt is replaced.

    A picture that has no prompt of its own takes the one it was scored against: it is the only one known.
    """
    connection = library.connection
    moment = time.time() if when is None else when
    for score in scores:
        if not math.isfinite(score.value):
            raise LibraryError(f"a score must be a finite number, found {score.value} of {score.scorer}")
        other = clean(score.prompt) or ""
        if other and _is_own(library, number, other):
            other = ""
        connection.execute(
            "INSERT OR REPLACE INTO scores (image_id, scorer_id, prompt, value, time) VALUES (?, ?, ?, ?, ?)",
            (number, scorer_id(connection, score.scorer, score.digest), other, float(score.value), moment),
        )


def _is_own(library: Library, number: int, words: str) -> bool:
    """Whether these are the words of the picture's own prompt; they become it where it has none."""
    row = library.connection.execute(
        "SELECT p.words, p.text FROM images i LEFT JOIN prompts p ON p.id = i.prompt_id WHERE i.id = ?", (number,)
    ).fetchone()
    if row == (None, None):
        put_made(library, number, Made(prompt=words))
        return True
    return words in row


def put_features(library: Library, number: int, features: Iterable[Features]) -> None:
    """Keep a network's features as fp16. Raises LibraryError for a value that fp16 does not hold."""
    for found in features:
        scorer = scorer_id(library.connection, found.scorer, found.digest)
        for name, values in found.arrays.items():
            array = _half(values)
            if array is None:
                raise LibraryError(f"the feature {name!r} of {found.scorer} has values that fp16 does not hold")
            library.connection.execute(
                "INSERT OR REPLACE INTO features (image_id, scorer_id, name, shape, data) VALUES (?, ?, ?, ?, ?)",
                (number, scorer, name, json.dumps(array.shape), array.tobytes()),
            )


def fits(features: Features) -> bool:
    """Whether fp16 holds all these values."""
    return all(_half(values) is not None for values in features.arrays.values())


def _half(values: Any) -> Any:
    """The values as fp16, None where it does not hold them."""
    import numpy as np

    with np.errstate(over="ignore"):
        array = np.asarray(values).astype("<f2")
    return array if np.isfinite(array).all() else None


def text_id(library: Library, text: str | None) -> int | None:
    """The id of a prompt's text, put in if it is new."""
    text = clean(text)
    if not text:
        return None
    connection = library.connection
    row = connection.execute("SELECT id FROM prompts WHERE text = ?", (text,)).fetchone()
    if row is not None:
        return int(row[0])
    words = plain_prompt(text)
    folded = text.casefold()
    same = connection.execute("SELECT same FROM prompts WHERE words = ? ORDER BY id LIMIT 1", (words,)).fetchone()
    cursor = connection.execute("INSERT INTO prompts (text, folded, words) VALUES (?, ?, ?)", (text, folded, words))
    number = int(cursor.lastrowid or 0)
    connection.execute("UPDATE prompts SET same = ? WHERE id = ?", (same[0] if same else number, number))
    if library.search:
        connection.execute("INSERT INTO prompts_search (rowid, folded) VALUES (?, ?)", (number, folded))
    else:
        connection.execute("INSERT OR IGNORE INTO notes (name) VALUES ('search is stale')")
    return number


def scorer_id(connection: sqlite3.Connection, name: str, digest: str = "") -> int:
    """The id of a scorer. In this project a name stands for weights: a registry entry's are published, those of one's
    own carry their hash in the name. So a score that a file gives without a digest belongs to the one scorer of its
    name; only where weights of several digests go by one name is it kept apart.
    """
    name, digest = clean(name) or "", digest.lower()
    rows = connection.execute("SELECT id, digest FROM scorers WHERE name = ? ORDER BY id", (name,)).fetchall()
    exact = [number for number, known in rows if known == digest]
    if exact:
        return int(exact[0])
    if len(rows) == 1 and (not digest or not rows[0][1]):
        if digest:
            connection.execute("UPDATE scorers SET digest = ? WHERE id = ?", (digest, rows[0][0]))
        return int(rows[0][0])
    cursor = connection.execute("INSERT INTO scorers (name, digest) VALUES (?, ?)", (name, digest))
    return int(cursor.lastrowid or 0)


def _checkpoint_id(connection: sqlite3.Connection, name: str | None, digest: str | None) -> int | None:
    if not name and not digest:
        return None
    values = (clean(name) or "", (clean(digest) or "").lower())
    connection.execute("INSERT OR IGNORE INTO checkpoints (name, hash) VALUES (?, ?)", values)
    (number,) = connection.execute("SELECT id FROM checkpoints WHERE name = ? AND hash = ?", values).fetchone()
    return int(number)


def remove_pictures(library: Library, numbers: Iterable[int]) -> int:
    """Take pictures out with their scores, features and duels; then the texts that nothing refers to any more."""
    connection = library.connection
    removed = 0
    for number in numbers:
        connection.execute("DELETE FROM duels WHERE winner_id = ? OR loser_id = ?", (number, number))
        removed += connection.execute("DELETE FROM images WHERE id = ?", (number,)).rowcount
    if removed:
        _remove_texts(library)
    return removed


def _remove_texts(library: Library) -> None:
    """Take out prompts of no picture, duel or plan. One that others are known to be the same as stays with them."""
    connection = library.connection
    used = (
        "SELECT prompt_id FROM images WHERE prompt_id IS NOT NULL UNION SELECT negative_id FROM images"
        " WHERE negative_id IS NOT NULL UNION SELECT prompt_id FROM duels WHERE prompt_id IS NOT NULL"
        " UNION SELECT prompt_id FROM planned"
    )
    kept = {same for (same,) in connection.execute(f"SELECT same FROM prompts WHERE id IN ({used})")}
    unused = connection.execute(f"SELECT id, folded FROM prompts WHERE id NOT IN ({used})").fetchall()
    gone = [(number, folded) for number, folded in unused if number not in kept]
    if library.search:
        delete = "INSERT INTO prompts_search (prompts_search, rowid, folded) VALUES ('delete', ?, ?)"
        connection.executemany(delete, gone)
    elif gone:
        connection.execute("INSERT OR IGNORE INTO notes (name) VALUES ('search is stale')")
    connection.executemany("DELETE FROM prompts WHERE id = ?", [(number,) for number, _ in gone])


def loras_text(loras: Iterable[tuple[str, float | None]]) -> str:
    """LoRAs as one text, for grouping and showing: "detail:0.8, fox:1"."""
    parts = [f"{name}:{'?' if weight is None else format(weight, 'g')}" for name, weight in sorted(loras, key=str)]
    return clean(", ".join(parts)) or ""


def clean(text: str | None) -> str | None:
    """A text as SQLite can hold it: halves of surrogate pairs and NUL become the replacement character."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def path_to_row(path: str) -> str | bytes:
    """A path as a value: text, or bytes where a file's name is not text (Linux allows any)."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def path_from_row(value: str | bytes) -> str:
    """Inverse of `path_to_row`."""
    return os.fsdecode(value) if isinstance(value, bytes) else value


def seed_to_row(seed: int | None) -> int | None:
    """A seed as SQLite's 64-bit integer; None for what is no seed."""
    if seed is None or not -(SEEDS // 2) <= seed < SEEDS:
        return None
    return seed - SEEDS if seed >= SEEDS // 2 else seed


def seed_from_row(value: int | None) -> int | None:
    """Inverse of `seed_to_row`; seeds themselves are not negative."""
    return value + SEEDS if value is not None and value < 0 else value


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < SEEDS // 2 else None
