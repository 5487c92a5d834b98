"""Ctrl-C, SIGTERM and Windows' CTRL_BREAK as a request to save and end; the second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from .exit_codes import INTERRUPTED

NAMES = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")


class Interrupts:
    """`with Interrupts(stop) as interrupts:` calls `stop()` in the main thread at the first signal.

    What ran then goes on until it has saved; `exit_code` is what the process should return afterwards. A signal that is
    ignored already (`nohup`, a background job of a shell) stays so. `grace`: seconds within which a second signal
    counts as the first one's echo, as launchers of several processes pass on what the terminal has sent already.
    """

    def __init__(self, on_first: Callable[[], None], *, grace: float = 0.0):
        self.received: int | None = None
        self._on_first, self._grace, self._at = on_first, grace, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            for number in (getattr(signal, name, None) for name in NAMES):
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it; CTRL_BREAK counts as Ctrl-C."""
        return _code(self.received or signal.SIGINT)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            _say("saving the state of the last complete update; once more leaves at once")
            self._on_first()
        elif time.monotonic() - self._at >= self._grace:
            os._exit(_code(number))


def _code(number: int) -> int:
    return INTERRUPTED if number == getattr(signal, "SIGBREAK", None) else 128 + number


def _say(text: str) -> None:
    """Past sys.stderr's buffer, whose lock the interrupted code may hold."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{text}\n".encode())
