"""A signal asks a run to end: what is computed is given up, the state of the last complete update is saved."""

from __future__ import annotations

from typing import Any


class Interrupted(BaseException):
    """Raised between two batches. Like KeyboardInterrupt no Exception, so that no library catches it on the way."""


class Interruption:
    """`ask` is for a signal handler. Until training begins, and after it, there is nothing to save: it then raises
    KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.training = False

    def ask(self) -> None:
        """End soon."""
        self.asked = True
        if not self.training:
            raise KeyboardInterrupt

    def check(self, *_: Any) -> None:
        """A forward hook: raises Interrupted once it was asked for."""
        if self.asked:
            raise Interrupted
