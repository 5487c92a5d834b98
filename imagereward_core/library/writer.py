"""Remembering while something more important goes on: a queue, and a thread that reads, hashes and writes.

The job's thread only puts a record into the queue. Whatever happens to the library (read-only, disk full, locked, of a
newer version), the job never sees it: it is said once, and said again when it works again.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ImageError, ImageRewardError, LibraryError, MetadataError
from ..log import logger
from ..metadata import read_infotext
from ..metadata.infotext import parse_infotext
from . import images
from .describe import described, filled, made_of
from .images import fits
from .pixels import look
from .records import Made, Record, Score
from .store import Library, delete_library, is_damage, open_library, set_aside

LIMIT = 4096  # records that wait at most: beyond, a disk is too slow, and the pictures can be read again later
AGAIN = 30.0  # seconds after a failure before the file is tried anew
BREATH = 0.01  # seconds for which a record waits: who handed it over goes on first, and need not wait for Python's lock
FEW = 4  # records that may wait for that; more must be written
PATIENCE = 60.0  # seconds that forgetting waits for the thread: one write may wait for another program's lock
Look = Callable[[Library], None]


def remember_now(library: Library, record: Record) -> int:
    """Read the saved file, and keep it and what is known of it, in one transaction; returns the picture's id.

    Raises ImageError if it cannot be read or was overwritten, LibraryError.
    """
    seen = look(record.path)
    if record.stamp not in (None, (seen.bytes, seen.mtime_ns)) and not _says_the_same(record):
        raise ImageError(f"{record.path} was overwritten after it had been scored")
    made, stored = _told(record)
    features = [found for found in record.features if fits(found)]
    with library.transaction():
        number = images.put_picture(library, seen, made, record.time)
        given = {(score.scorer, score.prompt) for score in record.scores}
        images.put_scores(library, number, [score for score in stored if (score.scorer, score.prompt) not in given])
        images.put_scores(library, number, record.scores, record.time)
        images.put_features(library, number, features)
    return number


def _says_the_same(record: Record) -> bool:
    """Whether a file that is not the one that was stamped still carries the picture's own text: other programs write
    their marks into a file, and keep the picture.
    """
    try:
        return record.infotext is not None and (read_infotext(record.path) or "").strip() == record.infotext.strip()
    except MetadataError:
        return False


def _told(record: Record) -> tuple[Made, tuple[Score, ...]]:
    """(how the picture was made, the scores in its file that count)."""
    if record.infotext is not None:
        info = parse_infotext(record.infotext)
        return filled(made_of(info, info.prompt), record.made or Made()), ()
    if record.made is not None:
        return record.made, ()
    made, stored = described(record.path)
    return made, stored if record.stored else ()


class _Forget:
    """Delete the library, in its turn."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: LibraryError | None = None


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
        self._queue: queue.SimpleQueue[Record | Look | threading.Event | _Forget | None] = queue.SimpleQueue()
        self._library: Library | None = None
        self._failed_at: float | None = None
        self._said: set[str] = set()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._hurry = 0  # somebody waits
        self._forgetting = 0  # requests to forget that wait in the queue: what waits before them is dropped

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

    def look(self, action: Look) -> None:
        """Have the background thread look something up, after all that was put in so far; `action` is called with the
        library, if there is one. An error is logged.
        """
        if not self._closed:
            self._queue.put(action)
            if self._thread is None:
                self._start()

    def forget(self, timeout: float = PATIENCE) -> None:
        """Delete the library, with what waits to be written. Raises LibraryError where another program holds the file,
        or where the thread is still busy after `timeout` seconds; it is deleted then as soon as it can be.
        """
        with self._starting:
            thread = self._thread
            self._forgetting += 1
        request = _Forget()
        if thread is None or not thread.is_alive():
            self._forget(request)
        else:
            self._queue.put(request)
        if not request.done.wait(timeout):
            raise LibraryError(f"{self.place} is still being written to: it will be deleted as soon as that has ended")
        if request.error is not None:
            raise request.error

    def _forget(self, request: _Forget) -> None:
        try:
            self._drop()
            delete_library(self.place)
            self._failed_at, self.trouble = None, ""
            self._said.clear()
        except LibraryError as error:
            request.error = error
        finally:
            with self._starting:
                self._forgetting -= 1
            request.done.set()

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
        with self._starting:
            self._hurry += 1
        self._queue.put(reached)
        try:
            return reached.wait(timeout)
        finally:
            with self._starting:
                self._hurry -= 1

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
            elif isinstance(item, _Forget):
                self._forget(item)
            elif isinstance(item, Record):
                if not (self._hurry or self._closed or self._forgetting) and self._queue.qsize() < FEW:
                    time.sleep(BREATH)
                try:
                    self._remember(item)
                except Exception as error:  # noqa: BLE001 - the thread must outlive any one record
                    self._failed(error, item)
            else:
                self._look(item)
        self._drop()

    def _look(self, action: Look) -> None:
        """What is wrong with the library is said when something is to be written."""
        try:
            if self.place.is_file():
                action(self._opened())
        except Exception as error:  # noqa: BLE001 - the same
            self._drop()
            expected = isinstance(error, (ImageRewardError, OSError))
            logger.log(logging.INFO if expected else logging.WARNING, "library not read: %s", error)

    def _remember(self, record: Record) -> None:
        if self._forgetting or (self._failed_at is not None and self.clock() - self._failed_at < AGAIN):
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
