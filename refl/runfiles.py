"""The run folder: how a run tells what it does and is told what to do.

events.jsonl  one JSON object a line, appended: steps, evaluations, samples, checkpoints, state changes, errors
status.json   the present state, replaced atomically, with a heartbeat every two seconds
control.json  written by whoever controls the run: {"id": 3, "command": "pause"}; the highest id wins
run.lock      locked by the operating system while a process trains here, so that a killed run leaves no stale lock

Files, not pipes or signals: they survive a page reload and a restart of the WebUI, and work the same on Windows.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .errors import RunBusyError, SaveError
from .log import logger

COMMANDS = ("pause", "resume", "sample", "save", "stop", "stop_now")
HEARTBEAT = 2.0


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file atomically. SaveError if that is impossible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_text(json.dumps(data), encoding="utf-8")
        _replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SaveError(f"cannot write {path}: {error}") from error


def _replace(source: Path, target: Path) -> None:
    for attempt in range(20):  # on Windows a reader that has the file open makes this fail for a moment
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if attempt == 19 or os.name != "nt":
                raise
            time.sleep(0.05)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is no whole one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a run in order. What a killed process had done after its last saved state is dropped, because the
    resumed process does it again; a half-written last line is ignored."""
    events: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("type") == "resumed":
            events = [old for old in events if old.get("step", 0) <= event["step"]]
        events.append(event)
    return events


class RunFolder:
    """Writes the files of one run; use as a context manager. `clock` returns seconds since the epoch."""

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time):
        self.path = Path(path)
        self.clock = clock
        self._status: dict[str, Any] = {
            "state": "starting",
            "pid": os.getpid(),
            "started": clock(),
            "step": 0,
            "control_id": 0,
        }
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: IO[bytes] | None = None
        self._warned = False

    def __enter__(self) -> RunFolder:
        try:
            for folder in (self.path, self.path / "samples", self.path / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "run.lock", "ab+")
        except OSError as error:
            raise SaveError(f"cannot write in the run folder {self.path}: {error}") from error
        if not _try_lock(self._lock):
            self._lock.close()
            raise RunBusyError(f"another process is training in {self.path}")
        old = read_json(self.path / "control.json") or {}
        self._status["control_id"] = int(old.get("id", 0))  # commands to an earlier process are not ours
        self.status(state="starting")
        self._thread = threading.Thread(target=self._beat, name="refl-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        self._write_status()
        if self._lock:
            self._lock.close()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            self._write_status()

    @property
    def state(self) -> str:
        """The state last written to status.json."""
        return str(self._status["state"])

    def status(self, **changes: Any) -> None:
        """Change fields of status.json."""
        with self._guard:
            self._status.update(changes)
        self._write_status()

    def _write_status(self) -> None:
        with self._guard:
            data = {**self._status, "heartbeat": self.clock()}
            try:
                write_json(self.path / "status.json", data)
            except SaveError as error:
                self._complain(error)

    def event(self, kind: str, **data: Any) -> None:
        """Append one event. A full disk here costs the event, not the run."""
        line = json.dumps({"time": round(self.clock(), 3), "type": kind, **data}, allow_nan=False, default=str)
        try:
            with self._guard, open(self.path / "events.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("the run's log cannot be written: %s", error)
            self._warned = True

    def command(self) -> str | None:
        """The newest command that was not returned before, or None."""
        data = read_json(self.path / "control.json")
        if not data or not isinstance(data.get("id"), int) or data["id"] <= self._status["control_id"]:
            return None
        self.status(control_id=data["id"])
        command = data.get("command")
        if command not in COMMANDS:
            logger.warning("control.json asks for %r; known commands are %s", command, ", ".join(COMMANDS))
            return None
        return command


def send(path: str | os.PathLike[str], command: str) -> None:
    """Ask the run in this folder for something (see COMMANDS)."""
    target = Path(path) / "control.json"
    old = read_json(target) or {}
    write_json(target, {"id": int(old.get("id", 0)) + 1, "command": command})


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file for as long as this process lives; False if another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def follow_stdin(on_end: Callable[[], None]) -> None:
    """Call `on_end` when standard input ends: the host holds the other end, so this happens whenever the host dies,
    however it dies. Needs no process ids and no signals."""

    def wait() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        on_end()

    threading.Thread(target=wait, name="refl-parent", daemon=True).start()
