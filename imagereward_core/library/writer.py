"""Remembering while something more important goes on: a queue, and a thread that reads, hashes and writes.

The job's thread only puts a record into the queue. Whatever happens to the library (read-only, disk full, locked, of a
newer version), the job never sees it: it is said once, and said again when it works again.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ImageError, ImageRewardError, LibraryError
from ..log import logger
from . import images
from .describe import described
from .pixels import look
from .records import Record
from .store import Library, is_damage, open_library, set_aside

LIMIT = 4096  # records that wait at most: beyond, a disk is too slow, and the pictures can be read again later
AGAIN = 30.0  # seconds after a failure before the file is tried anew


def remember_now(library: Library, record: Record) -> int:
    """Read the saved file, and keep it and what is known of it, in one transaction; returns the picture's id.

    What the file says of itself is kept too. Raises ImageError if it cannot be read, LibraryError.
    """
    seen = look(record.path)
    made, stored = described(record.path) if record.made is None else (record.made, ())
    with library.transaction():
        number = images.put_picture(library, seen, made, record.time)
        given = {(score.scorer, score.prompt) for score in record.scores}
        images.put_scores(library, number, [score for score in stored if (score.scorer, score.prompt) not in given])
        images.put_scores(library, number, record.scores, record.time)
        images.put_features(library, number, record.features)
    return number


class Recorder:
    """Remembers pictures in the background. One per process and library; safe from any thread."""

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        say: Callable[[str], None] = logger.warning,
        limit: int = LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.place = Path(place)
        self.say = say
        self.clock = clock
        self.written = 0  # records that are in the library
        self.trouble = ""  # what is wrong with the library now; empty if nothing
        self._limit = limit
        # a SimpleQueue's put waits for no lock, so that the job's thread never hands Python's own lock to the other
        self._queue: queue.SimpleQueue[Record | threading.Event | None] = queue.SimpleQueue()
        self._library: Library | None = None
        self._failed_at: float | None = None
        self._said: set[str] = set()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def remember(self, record: Record) -> bool:
        """Put a record into the queue; takes microseconds. False if it was dropped: closed, or too many wait.

        Arrays of features must not change afterwards.
        """
        if self._closed:
            return False
        if self._queue.qsize() >= self._limit:
            self._once("the library is too slow to remember every picture", "the disk cannot keep up")
            return False
        self._queue.put(record)
        if self._thread is None:
            self._start()
        return True

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="imagereward-library", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def wait_for_room(self) -> None:
        """Wait while half of the queue is full. For who has time: a job that generates pictures has none."""
        if self._queue.qsize() > self._limit // 2:
            self.flush()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was put in so far is written, or has failed; False after `timeout` seconds."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return self._queue.empty()
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, then end the thread and give the file back."""
        with self._starting:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._remember(item)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any one record
                self._failed(error, item)
        self._drop()

    def _remember(self, record: Record) -> None:
        if self._failed_at is not None and self.clock() - self._failed_at < AGAIN:
            return
        self._write(record)
        self.written += 1
        if self._failed_at is not None:
            self._failed_at, self.trouble = None, ""
            self._said.clear()
            logger.info("the library %s can be written again", self.place)

    def _write(self, record: Record) -> None:
        try:
            remember_now(self._opened(), record)
        except LibraryError as error:
            closed = self._library is not None and self._library.closed  # by somebody who deleted it just now
            if not closed and not is_damage(error):
                raise
            self._drop()
            if not closed:
                set_aside(self.place)
            remember_now(self._opened(), record)

    def _opened(self) -> Library:
        """The library; opened anew if somebody deleted, closed or replaced it."""
        if self._library is not None and (self._library.closed or not self._library.current()):
            self._drop()
        if self._library is None:
            library = open_library(self.place)
            if library.read_only:
                library.close()
                raise LibraryError(f"{self.place} can only be read: check its permissions")
            for note in library.notes:
                self._once(note, note)
            self._library = library
        return self._library

    def _drop(self) -> None:
        if self._library is not None:
            self._library.close()
            self._library = None

    def _failed(self, error: Exception, record: Record) -> None:
        if isinstance(error, ImageError):
            logger.info("not remembered: %s", error)
            return
        if isinstance(error, (LibraryError, OSError)):
            self._drop()
            self._failed_at, self.trouble = self.clock(), str(error)
            self._once("pictures are not remembered for now; scoring goes on", str(error))
            return
        what = str(error) if isinstance(error, ImageRewardError) else f"{type(error).__name__}: {error}"
        self._once(f"{record.path} could not be remembered", what)

    def _once(self, what: str, why: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.say(what if what == why else f"{what}: {why}")
