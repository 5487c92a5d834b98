"""The library's file: opened, written in transactions, set aside when it is damaged, deleted.

SQLite's own locking makes it safe for several processes at once: readers never wait (WAL), writers wait for each other.
What a transaction has committed survives the death of any process.
"""

from __future__ import annotations

import glob
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import Timeout

from ..atomic import replace
from ..errors import LibraryError
from ..locks import lock_for
from ..log import logger
from . import schema
from .place import COMPANIONS, on_network_drive, tastes_folder, thumbnails_folder

WAIT = 15.0  # seconds a writer waits for another
DAMAGED = ("malformed", "not a database", "unsupported file format", "disk image")
_open: dict[str, weakref.WeakSet[Library]] = {}
_registry = threading.Lock()


class Library:
    """An open library. Any thread may use it, one at a time: `with library.transaction():` holds its lock.

    journal: "wal", or "delete" on a network drive. notes: what the user should know about how it was opened.
    """

    def __init__(self, connection: sqlite3.Connection, place: Path, *, read_only: bool, journal: str, notes: list[str]):
        self.connection = connection
        self.place = place
        self.read_only = read_only
        self.journal = journal
        self.notes = notes
        self.lock = threading.RLock()
        self.closed = False
        self.search = schema.search_ready(connection) if read_only else schema.prepare_search(connection)
        self.identity = _identity(place)
        with _registry:
            _open.setdefault(_key(place), weakref.WeakSet()).add(self)

    def query(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """All rows of a question. Raises LibraryError."""
        with self.lock, self.named_errors():
            return self.connection.execute(sql, values).fetchall()

    def stream(self, sql: str, values: Any = (), size: int = 500) -> Iterator[tuple[Any, ...]]:
        """Rows of a question, some at a time: for what need not fit into memory."""
        with self.named_errors():
            cursor = self.connection.execute(sql, values)
            while rows := cursor.fetchmany(size):
                yield from rows

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what is written in the block is kept when it ends, and undone if it raises."""
        with self.lock, self.named_errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """SQLite's errors as LibraryError, with the file and what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise LibraryError(_explained(error, self.place)) from error

    def optimize(self) -> None:
        """Let SQLite count what its tables hold, so that it picks the right index; takes milliseconds."""
        with self.lock, self.named_errors():
            self.connection.execute("PRAGMA analysis_limit = 400")
            self.connection.execute("PRAGMA optimize")

    def current(self) -> bool:
        """Whether the file of that name is still the one that was opened: somebody may have deleted it."""
        return _identity(self.place) == self.identity is not None

    def close(self) -> None:
        """Give the file back. Closing twice does no harm; whatever is asked afterwards raises LibraryError."""
        with self.lock:
            self.closed = True
            self.connection.close()
        with _registry:
            _open.get(_key(self.place), weakref.WeakSet()).discard(self)

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_library(place: str | os.PathLike[str], *, create: bool = True) -> Library:
    """Open a library to read and write. `create`: make one where there is none, and set a damaged one aside.

    Where the file or its folder may not be written, it is opened for reading, if it is there. Raises LibraryError.
    """
    path = Path(place)
    if not os.path.isfile(path) and not create:
        raise LibraryError(f"there is no library at {path}: make one with `imagereward library add FOLDER -r`")
    try:
        return _opened(path)
    except sqlite3.Error as error:
        if is_damage(error):
            if not create:
                raise LibraryError(_explained(error, path)) from error
            set_aside(path)
            return _reopened(path)
        if not os.path.isfile(path) or not _not_writable(error):
            raise LibraryError(_explained(error, path)) from error
    return _opened_to_read(path)


def _reopened(path: Path) -> Library:
    try:
        return _opened(path)
    except sqlite3.Error as error:
        raise LibraryError(_explained(error, path)) from error


def _opened(path: Path) -> Library:
    notes: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraryError(
            f"cannot make the folder {path.parent} for the library: {error.strerror or error}"
        ) from error
    network = on_network_drive(path.parent)
    connection = _connect(path)
    try:
        wanted = "DELETE" if network else "WAL"
        schema.check(connection, path)  # nothing of a file that is not ours is changed
        (journal,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if journal == 'wal' else 'FULL'}")
        schema.prepare(connection, path)
        if journal != "wal":
            where = f"on a network drive ({network})" if network else "where SQLite has no shared memory"
            notes.append(f"the library lies {where}: it is kept with a slower journal (DELETE instead of WAL)")
        return Library(connection, path, read_only=False, journal=str(journal), notes=notes)
    except BaseException:
        connection.close()
        raise


def _opened_to_read(path: Path) -> Library:
    """A file that may not be written. SQLite reads a WAL file only if it may write its index beside it; where it may
    not, nobody of this account writes, and the file can be read as one that does not change.
    """
    failure: sqlite3.Error | None = None
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection = _connect(path, mode)
        try:
            if schema.check(connection, path) < len(schema.MIGRATIONS):
                raise LibraryError(
                    f"{path} is of an older version and may not be written: it cannot be brought up to date"
                )
            connection.execute("SELECT COUNT(*) FROM notes").fetchone()
            return Library(connection, path, read_only=True, journal="none", notes=[f"{path} can only be read"])
        except sqlite3.Error as error:
            failure = error
            connection.close()
        except BaseException:
            connection.close()
            raise
    raise LibraryError(_explained(failure, path)) from failure


def _connect(path: Path, mode: str = "mode=rwc") -> sqlite3.Connection:
    address = Path(os.path.abspath(path)).as_uri()
    if not address.startswith("file:///"):  # SQLite takes a Windows share as a path, not as a server
        address = address.replace("file://", "file:////", 1)
    connection = sqlite3.connect(
        f"{address}?{mode}",
        timeout=WAIT,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def is_damage(error: BaseException | None) -> bool:
    """Whether an error, or the one it was raised from, says that the file's content is broken."""
    while error is not None:
        if isinstance(error, sqlite3.DatabaseError) and any(mark in str(error) for mark in DAMAGED):
            return True
        error = error.__cause__
    return False


def _not_writable(error: sqlite3.Error) -> bool:
    return any(mark in str(error) for mark in ("readonly", "unable to open", "disk is full", "disk I/O"))


def set_aside(place: str | os.PathLike[str]) -> Path | None:
    """Rename a damaged library, so that a new one can begin; None if another process has done it meanwhile.

    Nothing is thrown away: marks and duels may still be got out of it by hand.
    """
    path = Path(place)
    close_all(path)
    try:
        with lock_for(path, timeout=WAIT):
            if not _damaged(path):
                return None
            aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
            replace(path, aside)
            for suffix in COMPANIONS:
                with suppress(FileNotFoundError):
                    replace(Path(f"{path}{suffix}"), Path(f"{aside}{suffix}"))
    except (OSError, Timeout) as error:
        raise LibraryError(
            f"{path} is damaged and cannot be set aside ({error}): close the programs that use it, or move it away"
        ) from error
    logger.warning(
        "the library %s was damaged; it was set aside as %s and a new one begun. The pictures are as they were:"
        " `imagereward library add FOLDER -r` reads them again",
        path,
        aside.name,
    )
    return aside


def _damaged(path: Path) -> bool:
    if not os.path.isfile(path):
        return False
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect(path)
        return connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
    except sqlite3.Error as error:
        return is_damage(error)
    finally:
        if connection is not None:
            connection.close()


def close_all(place: str | os.PathLike[str]) -> None:
    """Close every handle that this process has on a library."""
    with _registry:
        handles = list(_open.get(_key(place), ()))
    for handle in handles:
        handle.close()


def delete_library(place: str | os.PathLike[str]) -> None:
    """Forget everything: rows, features, tastes, thumbnails and journals. Handles are closed first (Windows removes no
    open file). Pictures stay where they are. Raises LibraryError if another program holds the file.
    """
    path = Path(place)
    close_all(path)
    try:
        for suffix in ("", *COMPANIONS):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        for aside in path.parent.glob(f"{glob.escape(path.name)}.damaged-*"):
            aside.unlink(missing_ok=True)
        for folder in (thumbnails_folder(path), tastes_folder(path)):
            if folder.is_dir():
                shutil.rmtree(folder)
    except OSError as error:
        raise LibraryError(
            f"cannot delete {error.filename or path}: {error.strerror or error}. Close the other programs that use the"
            " library and try again"
        ) from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _key(place: str | os.PathLike[str]) -> str:
    return os.path.normcase(os.path.realpath(place))


def _explained(error: sqlite3.Error | None, path: Path) -> str:
    text = str(error)
    if is_damage(error):
        return f"{path} is damaged ({text}): `imagereward library add FOLDER -r` sets it aside and begins anew"
    if "readonly" in text or "unable to open" in text:
        return f"{path} cannot be written ({text}): check the permissions, or name another file with --library"
    if "full" in text:
        return f"the disk of {path} is full: make room, or name another file with --library"
    if "locked" in text:
        return f"{path} is locked by another program for more than {WAIT:.0f} s: close it and try again"
    if "closed database" in text:
        return f"{path} was closed"
    return f"{path}: {text}"
