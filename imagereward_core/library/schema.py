"""The library's tables, and how a file of an older version becomes one of this.

A file says by SQLite's own `application_id` that it is a library and by `user_version` how many of MIGRATIONS it has
seen. A migration never changes once it is released; a new one is appended.

`prompts` holds every text once, prompts and negative prompts alike: `text` as it was written, `folded` for search
(case-folded), `same` the id of the first prompt with the same plain words, so that `<lora:…>` and weights do not make
another prompt of it. `scores.prompt` is empty for a score against the picture's own prompt. `images.missing` is 1 for a
picture whose file is gone: its scores and duels stay, and the file is known again by its pixels.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..errors import LibraryError

APPLICATION_ID = 0x49525742

FIRST = (
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    """CREATE TABLE prompts (
        id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, folded TEXT NOT NULL, words TEXT NOT NULL, same INTEGER)""",
    "CREATE INDEX prompts_words ON prompts (words)",
    "CREATE TABLE checkpoints (id INTEGER PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL, UNIQUE (name, hash))",
    "CREATE TABLE scorers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, UNIQUE (name, digest))",
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY, path NOT NULL, missing INTEGER NOT NULL DEFAULT 0,
        pixels BLOB NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
        bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, time REAL NOT NULL,
        prompt_id INTEGER REFERENCES prompts, negative_id INTEGER REFERENCES prompts,
        seed INTEGER, sampler TEXT, steps INTEGER, cfg REAL,
        checkpoint_id INTEGER REFERENCES checkpoints, loras TEXT NOT NULL DEFAULT '', program TEXT,
        mark TEXT CHECK (mark IN ('keep', 'reject')), stars INTEGER CHECK (stars BETWEEN 1 AND 5))""",
    "CREATE UNIQUE INDEX images_path ON images (path) WHERE missing = 0",
    "CREATE INDEX images_pixels ON images (pixels)",
    "CREATE INDEX images_time ON images (time)",
    "CREATE INDEX images_prompt ON images (prompt_id)",
    # holds all that a comparison of checkpoints asks of pictures, a sixth of what their rows take
    "CREATE INDEX images_checkpoint ON images (checkpoint_id, prompt_id, seed)",
    """CREATE TABLE image_loras (
        image_id INTEGER NOT NULL REFERENCES images ON DELETE CASCADE, name TEXT NOT NULL, weight REAL,
        PRIMARY KEY (image_id, name)) WITHOUT ROWID""",
    """CREATE TABLE scores (
        image_id INTEGER NOT NULL REFERENCES images ON DELETE CASCADE, scorer_id INTEGER NOT NULL REFERENCES scorers,
        prompt TEXT NOT NULL DEFAULT '', value REAL NOT NULL, time REAL NOT NULL,
        PRIMARY KEY (image_id, scorer_id, prompt)) WITHOUT ROWID""",
    "CREATE INDEX scores_value ON scores (scorer_id, value) WHERE prompt = ''",
    """CREATE TABLE features (
        image_id INTEGER NOT NULL REFERENCES images ON DELETE CASCADE, scorer_id INTEGER NOT NULL REFERENCES scorers,
        name TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (image_id, scorer_id, name))""",
    """CREATE TABLE duels (
        id INTEGER PRIMARY KEY,
        winner_id INTEGER NOT NULL REFERENCES images, loser_id INTEGER NOT NULL REFERENCES images,
        prompt_id INTEGER REFERENCES prompts, verdict TEXT NOT NULL CHECK (verdict IN ('win', 'neither', 'both')),
        time REAL NOT NULL)""",
    "CREATE INDEX duels_winner ON duels (winner_id)",
    "CREATE INDEX duels_loser ON duels (loser_id)",
    """CREATE TABLE planned (
        factor TEXT NOT NULL, prompt_id INTEGER NOT NULL REFERENCES prompts, seed INTEGER NOT NULL, level TEXT NOT NULL,
        time REAL NOT NULL, PRIMARY KEY (factor, prompt_id, seed, level)) WITHOUT ROWID""",
)
# Duels belong to a taste, by name. `looks` are the times somebody was told whether a taste is better than its scorer
# beyond chance: each one spends some of the error that is allowed in all.
SECOND = (
    "ALTER TABLE duels ADD COLUMN taste TEXT NOT NULL DEFAULT 'my-taste'",
    "CREATE INDEX duels_taste ON duels (taste)",
    """CREATE TABLE looks (
        taste TEXT NOT NULL, scorer TEXT NOT NULL, duels INTEGER NOT NULL, first_only INTEGER NOT NULL,
        second_only INTEGER NOT NULL, p REAL NOT NULL, level REAL NOT NULL, time REAL NOT NULL,
        PRIMARY KEY (taste, scorer, duels)) WITHOUT ROWID""",
)
MIGRATIONS: tuple[Sequence[str], ...] = (FIRST, SECOND)


def prepare(connection: sqlite3.Connection, path: object, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Make the file a library of this version. Raises LibraryError, and leaves it as it is, if it is one of a newer
    version or another program's.
    """
    if check(connection, path, migrations) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")  # another process may be at it: only one migrates, the other finds it done
    try:
        version = check(connection, path, migrations)
        for number in range(version, len(migrations)):
            for statement in migrations[number]:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check(connection: sqlite3.Connection, path: object, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """The file's schema version, 0 for an empty file. Raises LibraryError for what this version cannot read."""
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN")  # one moment for all three answers: another process may be making the tables
    try:
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        if own:
            connection.execute("ROLLBACK")
    if not tables and not version:
        return 0
    if owner != APPLICATION_ID:
        raise LibraryError(f"{path} is another program's SQLite file, not a library; name another with --library")
    if version > len(migrations):
        raise LibraryError(
            f"{path} was written by a newer version of ImageReward (schema {version}; this one reads up to"
            f" {len(migrations)}): update ImageReward, or name another file with --library"
        )
    return int(version)


def has_search(connection: sqlite3.Connection) -> bool:
    """Whether this SQLite can search text by trigrams (FTS5 of 3.34 or later); without, texts are read through."""
    if sqlite3.sqlite_version_info < (3, 34):
        return False
    modules = {name for (name,) in connection.execute("PRAGMA module_list")}
    return "fts5" in modules


def search_ready(connection: sqlite3.Connection) -> bool:
    """Whether there is an index that this SQLite can use, and it is up to date."""
    if not has_search(connection):
        return False
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'prompts_search'").fetchone()
    stale = connection.execute("SELECT 1 FROM notes WHERE name = 'search is stale'").fetchone()
    return bool(exists) and not stale


def prepare_search(connection: sqlite3.Connection) -> bool:
    """Make the full-text index where this SQLite can, and bring it up to date where another could not. False: no index.

    Trigrams find any part of a word, as reading through does, and work for languages without blanks.
    """
    if not has_search(connection):
        return False
    if search_ready(connection):
        return True
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS prompts_search USING fts5("
            "folded, content='prompts', content_rowid='id', tokenize='trigram')"
        )
        connection.execute("INSERT INTO prompts_search (prompts_search) VALUES ('rebuild')")
        connection.execute("DELETE FROM notes WHERE name = 'search is stale'")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True
