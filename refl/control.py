"""What a run is told, and by whom: commands of its folder, the end of the host, signals of the system."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from imagereward_core.runs import Command

from .runfiles import RunFolder

PAUSE_POLL = 0.2  # seconds between two looks at control.json while paused


class StopReason(Enum):
    """Why a run ends before its last update."""

    COMMAND = "stopped on request; the run can be resumed"
    HOST_ENDED = "stopped because the program that started it ended; the run can be resumed"
    SIGNAL = "stopped by a signal; the run can be resumed"


class StopNow(BaseException):
    """Leave at once, whatever is in progress."""


class StopRequested(BaseException):
    """A stop arrived in the middle of an update or an evaluation, which is given up.

    Like KeyboardInterrupt no Exception: libraries, in whose middle it may be raised, catch those.
    """


class Control:
    """One run's ear. `stop` may be called from any thread and from signal handlers; all else by the run itself.

    A run of several processes obeys between updates only: there all of them agree on what was asked.
    """

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep):
        self.folder: RunFolder | None = None
        self.alone = True
        self._sleep = sleep
        self._stop: StopReason | None = None
        self._waiting: Command | None = None

    def listen_to(self, folder: RunFolder | None, *, alone: bool) -> None:
        """From now on, take commands from this run's folder (None in all processes but the first). alone: whether this
        is the run's only process.
        """
        self.folder, self.alone = folder, alone

    def stop(self, reason: StopReason) -> None:
        """Save and end as soon as it is safe."""
        self._stop = self._stop or reason

    def ask(self, command: Command) -> None:
        """Have this command obeyed at the next opportunity, as if it had been sent."""
        self._waiting = command

    @property
    def stopping(self) -> StopReason | None:
        """Why the run is to end, or None."""
        return self._stop

    def check(self) -> None:
        """Between two evaluations of the network. Raises StopNow, and StopRequested for a stop that cannot wait for the
        end of a micro-step; other commands are kept.
        """
        if not self.alone:
            return
        self._listen()
        if self._stop is StopReason.SIGNAL:
            raise StopRequested

    def next(self) -> Command | None:
        """What to do now; each command is given once, a stop for ever. Raises StopNow."""
        self._listen()
        if self._stop is not None:
            return Command.STOP
        command, self._waiting = self._waiting, None
        return command

    def wait_for_end_of_pause(self) -> Command:
        """RESUME or STOP, when it comes. Raises StopNow."""
        while True:
            command = self.next()
            if command in (Command.RESUME, Command.STOP):
                return command
            if self.folder is None:  # nobody could end the pause
                return Command.RESUME
            self._sleep(PAUSE_POLL)

    def _listen(self) -> None:
        command = self.folder.command() if self.folder else None
        if command is Command.STOP_NOW:
            raise StopNow
        if command is Command.STOP:
            self.stop(StopReason.COMMAND)
        elif command is not None:
            self._waiting = command
