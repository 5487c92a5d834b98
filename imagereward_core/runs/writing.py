"""Writers of a run's files. Small files go through the one atomic writer; the event log is appended to."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import atomic
from ..log import logger
from .errors import RunBusy, RunDamaged, RunUnwritable
from .protocol import COMMANDS, HEARD, HEARTBEAT, Command, EventKind, Name, State
from .reading import read_command, read_object


def finite(value: Any) -> Any:
    """The same value with None for NaN and infinity, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_object(path: Path, data: Mapping[str, Any], *, indent: int | None = None, durable: bool = False) -> None:
    """Replace a JSON file whole. RunUnwritable if that is impossible; the old file is then as it was."""
    text = json.dumps(data, indent=indent, allow_nan=False)  # ASCII: names may hold what UTF-8 cannot
    try:
        atomic.write_text(path, text, durable=durable)
    except OSError as error:
        raise RunUnwritable(f"cannot write {path}: {error}") from error


def write_settings(folder: Path, settings: Mapping[str, Any], name: str = Name.CONFIG) -> None:
    """Replace the settings of a run, surviving a power cut."""
    write_object(folder / name, settings, indent=1, durable=True)


def write_status(folder: Path, state: State, **values: Any) -> None:
    """Replace a run's status from outside, while no process trains in it."""
    write_object(folder / Name.STATUS, {"state": state.value, "step": 0, **values})


def send(folder: str | os.PathLike[str], command: str) -> None:
    """Ask the run in this folder for something (see Command). ValueError for an unknown command."""
    path = Path(folder)
    number = read_command(path)[0] + 1
    write_object(path / Name.CONTROL, {"id": number, "command": Command(command).value})


class RunFolder:
    """The folder of a run that is training in this process; use as a context manager, in one thread.

    Raises RunBusy while another process trains here, and RunUnwritable. `clock` returns seconds since the epoch.
    """

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time):
        self.path = Path(path)
        self.clock = clock
        self._status: dict[str, Any] = {
            "state": State.STARTING.value,
            "pid": os.getpid(),
            "started": clock(),
            "since": clock(),
            "step": 0,
            "control_id": 0,
        }
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = FileLock(os.fspath(self.path / Name.LOCK), timeout=0)
        self._acknowledged = 0
        self._warned = False
        self._fresh_line = False

    def __enter__(self) -> RunFolder:
        try:
            for folder in (self.path, self.path / Name.SAMPLES, self.path / Name.CHECKPOINTS):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise RunBusy(f"another process is training in {self.path}") from error
        except (OSError, ValueError, NotImplementedError) as error:  # ValueError: a NUL in the name
            raise RunUnwritable(f"cannot write in the run folder {self.path}: {error}") from error
        self._status["control_id"] = self._status["control_start"] = self._commands_before()
        self.status(state=State.STARTING)
        self._thread = threading.Thread(target=self._beat, name="imagereward-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        self._write_status()
        self._lock.release()

    def _commands_before(self) -> int:
        """Commands up to this number were for an earlier process. A launcher notes the number when it starts this one,
        so that a command which came while the process was loading is obeyed.
        """
        try:
            status = read_object(self.path / Name.STATUS) or {}
        except RunDamaged:
            status = {}
        self._status["seconds_left"] = status.get("seconds_left")  # by an earlier run's pace, for lack of an own
        noted = status.get("launched_after")
        return noted if isinstance(noted, int) else read_command(self.path)[0]

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            self._acknowledge()
            self._write_status()

    def _acknowledge(self) -> None:
        """Say that a command has arrived while the run is too busy to obey it; once for each."""
        number, command = read_command(self.path)
        with self._guard:
            if number > max(self._acknowledged, self._status["control_id"]) and command in COMMANDS:
                self._acknowledged = number
                self._status.update(self._heard(Command(command)))

    def _heard(self, command: Command) -> dict[str, str]:
        """What a command changes in the status until it is obeyed; nothing if it means nothing to a paused run."""
        ends_pause = command in (Command.RESUME, Command.STOP, Command.STOP_NOW)
        return {"message": HEARD[command]} if ends_pause or self.state is not State.PAUSED else {}

    @property
    def state(self) -> State:
        """The state last written to status.json."""
        return State(self._status["state"])

    def status(self, **changes: Any) -> None:
        """Change fields of status.json. A new state has its own work before it: none of it is done."""
        with self._guard:
            if changes.get("state", self._status["state"]) != self._status["state"]:
                self._status.update(since=self.clock(), done=0, total=0)
            self._status.update(changes)
        self._write_status()

    def progress(self, done: int, total: int) -> None:
        """How far the present state's work is; the next heartbeat writes it, so that this costs nothing."""
        with self._guard:
            self._status.update(done=done, total=total)

    def _write_status(self) -> None:
        with self._guard:
            data = finite({**self._status, "heartbeat": self.clock()})
            try:
                write_object(self.path / Name.STATUS, data)
            except RunUnwritable as error:
                self._complain(error)

    def event(self, kind: EventKind, **data: Any) -> None:
        """Append one event. A full disk here costs the event, not the run."""
        values = finite({"time": round(self.clock(), 3), "type": kind.value, **data})
        line = json.dumps(values, allow_nan=False, default=str)
        path = self.path / Name.EVENTS
        try:
            with self._guard, open(path, "ab") as file:
                file.write((self._line_break(path) + line + "\n").encode())
            self._fresh_line = True
        except OSError as error:
            self._fresh_line = False  # half of the line may stand there
            self._complain(error)

    def _line_break(self, path: Path) -> str:
        """What must come first, so that half a line left by a killed process does not swallow the next event."""
        if self._fresh_line or path.stat().st_size == 0:
            return ""
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return "" if file.read(1) == b"\n" else "\n"

    def _complain(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("the run's log cannot be written: %s", error)
            self._warned = True

    def command(self) -> Command | None:
        """The newest command that was not returned before, or None."""
        number, command = read_command(self.path)
        if number <= self._status["control_id"]:
            return None
        if command not in COMMANDS:
            self.status(control_id=number)
            logger.warning("control.json asks for %r; known commands are %s", command, ", ".join(COMMANDS))
            return None
        self.status(control_id=number, **self._heard(Command(command)))
        return Command(command)
