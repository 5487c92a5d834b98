"""What takes longer than a request: one thing at a time, in a thread of its own; the page asks how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..core import ImageRewardError, logger

Progress = Callable[[int, int], None]
NOTHING_YET: dict[str, Any] = {"done": 0, "total": 0, "error": "", "said": ""}


class Busy(ImageRewardError):
    """Something is being done already."""


class Work:
    """At most one action under way; what came of the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._state: dict[str, Any] = {"number": 0, "what": "", "running": False, **NOTHING_YET}

    def start(self, what: str, action: Callable[[Progress], str]) -> None:
        """Begin; `action` is given what reports its progress, and returns what is said at the end. Raises Busy."""
        with self._lock:
            if self._state["running"]:
                raise Busy(f"{self._state['what']} is under way: wait until it is done")
            number = self._state["number"] + 1
            self._state = {"number": number, "what": what, "running": True, **NOTHING_YET}
            self._thread = threading.Thread(target=self._run, args=(action,), name="imagereward-tab", daemon=True)
            self._thread.start()

    def state(self) -> dict[str, Any]:
        """How far it is, or how the last one ended; `number` tells one from the next."""
        with self._lock:
            return dict(self._state)

    def wait(self, timeout: float | None = None) -> None:
        """Until it is done."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, action: Callable[[Progress], str]) -> None:
        said = error = ""
        try:
            said = action(self._progress)
        except Exception as failure:  # noqa: BLE001 - whatever it was, the page must learn of it
            error = str(failure) if isinstance(failure, ImageRewardError) else f"{type(failure).__name__}: {failure}"
            logger.warning("library: %s", error, exc_info=not isinstance(failure, ImageRewardError))
        with self._lock:
            self._state |= {"running": False, "said": said, "error": error}

    def _progress(self, done: int, total: int) -> None:
        with self._lock:
            self._state |= {"done": done, "total": total}
