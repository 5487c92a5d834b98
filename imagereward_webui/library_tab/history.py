"""What can be undone: the last marks and moves, newest first, for as long as the WebUI runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..core import ConfigError

KEPT = 50


class History:
    """Actions with what takes them back. Only the last one can be undone, then the one before it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: deque[tuple[int, str, Callable[..., str]]] = deque(maxlen=KEPT)
        self._number = 0

    def keep(self, what: str, undo: Callable[..., str]) -> int:
        """Note what was done, in words; `undo` is handed through by `take`."""
        with self._lock:
            self._number += 1
            self._actions.append((self._number, what, undo))
            return self._number

    def last(self) -> dict[str, Any] | None:
        """{"id", "what"} of what would be undone."""
        with self._lock:
            return {"id": self._actions[-1][0], "what": self._actions[-1][1]} if self._actions else None

    def take(self, number: int) -> tuple[str, Callable[..., str]]:
        """(what, undo) of the last action, taken out. Raises ConfigError if it is another one: a second page may have
        done something meanwhile.
        """
        with self._lock:
            if not self._actions or self._actions[-1][0] != number:
                raise ConfigError("this cannot be undone any more: something else was done since")
            _, what, undo = self._actions.pop()
            return what, undo
