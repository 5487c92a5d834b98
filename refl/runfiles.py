"""The run folder as the training process uses it: the core's protocol (imagereward_core.runs), with this package's
errors.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imagereward_core import runs

from .errors import ConfigError, RunBusyError, SaveError


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """What the core says about a run's folder, as an error of this package."""
    try:
        yield
    except runs.RunBusy as error:
        raise RunBusyError(str(error)) from error
    except runs.RunUnwritable as error:
        raise SaveError(str(error)) from error
    except runs.RunDamaged as error:
        raise ConfigError(str(error)) from error


class RunFolder(runs.RunFolder):
    """The core's, with errors that this package's callers know: RunBusyError, SaveError."""

    def __enter__(self) -> RunFolder:
        with own_errors():
            super().__enter__()
        return self


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a run in order, without those that a resumed process did again; damaged lines are left out."""
    events = runs.read_events(path, ended=True)
    return runs.settled([event for event in events if event["type"] != runs.EventKind.DAMAGED])


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is no whole one."""
    try:
        return runs.read_object(path)
    except runs.RunDamaged:
        return None


def send(path: str | os.PathLike[str], command: str) -> None:
    """Ask the run in this folder for something; see imagereward_core.runs.Command."""
    with own_errors():
        runs.send(path, command)


def follow_stdin(on_end: Callable[[], None], descriptor: int = 0) -> None:
    """Call `on_end` when standard input ends: the host holds the other end, so this happens whenever the host dies,
    however it dies. Needs no process ids and no signals.

    Reads the descriptor itself: a thread that waits inside sys.stdin holds its buffer's lock, and an interpreter that
    ends while it is held aborts instead of returning its exit code.
    """

    def wait() -> None:
        with contextlib.suppress(OSError):  # closed: it has ended, too
            while os.read(descriptor, 1024):
                pass
        on_end()

    threading.Thread(target=wait, name="refl-parent", daemon=True).start()
