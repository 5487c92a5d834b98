"""Waiting for a network without going deaf: work that may hang runs in a thread of its own, and whoever waits for it
reports several times a second, which is when a user's Interrupt is seen.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import DownloadError

T = TypeVar("T")
Tick = Callable[[], None]  # called while nothing happens; may raise to cancel
TICK = 0.2  # seconds between two calls


class Stalled(Exception):
    """Too little came for too long."""


def answer(work: Callable[[], T], tick: Tick | None, what: str, limit: float) -> T:
    """`work()`, done in a thread. DownloadError if it takes more than `limit` seconds; what `work` or `tick` raise is
    raised here.
    """
    end = time.monotonic() + limit
    with Feed(lambda put, stopped: put(work())) as feed:
        while True:
            try:
                return feed.take(TICK)
            except queue.Empty:
                if tick:
                    tick()
            if time.monotonic() > end:
                raise DownloadError(f"{what} has not answered for {limit:.0f} seconds; try again later")


def pause(seconds: float, tick: Tick | None) -> None:
    """Sleep, reporting meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, TICK))
        if tick:
            tick()


class Feed:
    """What a thread hands over, piece by piece. Use as a context manager: at its end the thread is told to stop.

    work(put, stopped) runs in the thread: it passes each piece to `put` and looks at `stopped()` between two.
    """

    END = object()

    def __init__(self, work: Callable[[Callable[[Any], None], Callable[[], bool]], None], ahead: int = 16):
        self._work, self._stop = work, threading.Event()
        self._pieces: queue.Queue[Any] = queue.Queue(ahead)

    def __enter__(self) -> Feed:
        # a daemon: a connection that never says anything must not keep the program from ending
        threading.Thread(target=self._run, name="imagereward-network", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        try:
            self._work(self._put, self._stop.is_set)
            self._put(self.END)
        except BaseException as error:  # noqa: BLE001 - raised again where the pieces are taken
            self._put(error)

    def _put(self, piece: Any) -> None:
        while not self._stop.is_set():
            try:
                self._pieces.put(piece, timeout=TICK)
                return
            except queue.Full:
                pass

    def take(self, seconds: float) -> Any:
        """The next piece, or END. Raises queue.Empty after so many seconds, or what the thread raised."""
        piece = self._pieces.get(timeout=seconds)
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def pieces(self, tick: Tick | None, size: Callable[[Any], int], least: int, stall: float) -> Iterator[Any]:
        """All pieces in order. Raises Stalled when fewer than `least` bytes (by `size`) came in `stall` seconds."""
        since, got = time.monotonic(), 0
        while True:
            try:
                piece = self.take(TICK)
            except queue.Empty:
                piece = None
                if tick:
                    tick()
            if piece is self.END:
                return
            got += size(piece) if piece is not None else 0
            now = time.monotonic()
            if got >= least:
                since, got = now, 0
            elif now - since > stall:
                raise Stalled(f"fewer than {least >> 10} KB came in {stall:.0f} seconds")
            if piece is not None:
                yield piece
