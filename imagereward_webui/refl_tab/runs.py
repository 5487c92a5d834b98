"""Training runs: started as processes of their own, found again after a restart, one at a time per device, the others
queued.

Everything a run tells lies in its folder (see refl/runfiles.py); this module only reads and writes those files, so it
needs neither the host nor torch nor the training libraries.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core import ImageRewardError, logger

ROOT = Path(__file__).resolve().parents[2]
STALE = 20.0  # seconds without a heartbeat after which a process counts as dead
ACTIVE = ("starting", "preparing", "training", "evaluating", "exporting", "paused")
ENDED = ("finished", "stopped", "stop_rule", "failed", "died", "cancelled")
COMMANDS = ("pause", "resume", "sample", "save", "stop", "stop_now")
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}(-[A-Za-z0-9_.-]{1,60})?(~[0-9]+)?")
LOG_TAIL = 6000
ASKED = "asked.json"  # the settings as given; the run itself replaces those in config.json by what they resolve to
PACE = (
    "pretrained_model_name_or_path",
    "device",
    "algorithm",
    "resolution",
    "guidance_scale",
    "train_batch_size",
    "gradient_accumulation_steps",
    "anchor",
    "rewards",
)


class RunError(ImageRewardError, RuntimeError):
    """A run that does not exist, or cannot do what was asked."""


class Runs:
    """All runs below one folder. `environment` gives the child's variables; `before` and `after` are called around each
    run (to free the GPU and to take it back); `clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        environment: Callable[[], dict[str, str]],
        before: Callable[[dict[str, Any]], None] | None = None,
        after: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.time,
        python: str = sys.executable,
    ):
        self.folder, self.clock, self.python = folder, clock, python
        self._environment = environment
        self._before, self._after = before or (lambda run: None), after or (lambda run: None)
        self._lock = threading.RLock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._announced: set[str] = set()
        self._watcher: threading.Thread | None = None

    # --- what there is ---------------------------------------------------------------------------------------------

    def path(self, run_id: str) -> Path:
        """The folder of a run. Ids are names we made, so that no request reaches outside."""
        if not RUN_ID.fullmatch(run_id) or not (self.folder / run_id / "config.json").is_file():
            raise RunError(f"there is no run {run_id!r}")
        return self.folder / run_id

    def list(self) -> list[dict[str, Any]]:
        """One summary per run, newest first."""
        if not self.folder.is_dir():
            return []
        names = sorted((path.name for path in self.folder.iterdir() if RUN_ID.fullmatch(path.name)), reverse=True)
        return [self.summary(name) for name in names if (self.folder / name / "config.json").is_file()]

    def summary(self, run_id: str) -> dict[str, Any]:
        """State, step and the like of one run, as the status file tells it; a silent process is reported as died."""
        path = self.path(run_id)
        config, status = _read(path / "config.json"), _read(path / "status.json")
        state = str(status.get("state", "queued" if (path / "queued").is_file() else "starting"))
        if (path / "queued").is_file():
            state = "queued"
        elif state in ACTIVE and not self._alive(run_id, status):
            state = "died"
        return {
            "id": run_id,
            "state": state,
            "active": state in ACTIVE,
            "step": int(status.get("step", 0)),
            "max_steps": int(config.get("max_train_steps", 0)),
            "checkpoint": Path(str(config.get("pretrained_model_name_or_path", ""))).name,
            "algorithm": config.get("algorithm", "refl+"),
            "rewards": [Path(str(item)).name for item in config.get("rewards", [])],
            "device": config.get("device", ""),
            "message": (
                status.get("message", "")
                or ("the training process ended without a word: see the log" if state == "died" else "")
            ),
            "hint": (
                status.get("hint", "") or ("Resume continues from the last saved state." if state == "died" else "")
            ),
            "seconds_left": status.get("seconds_left"),
            "result": status.get("result", ""),
            "resumable": any((path / "checkpoints").glob("step-*/state.json")),
        }

    def _alive(self, run_id: str, status: Mapping[str, Any]) -> bool:
        child = self._children.get(run_id)
        if child is not None:
            return child.poll() is None
        return self.clock() - float(status.get("heartbeat", 0)) < STALE

    def events(self, run_id: str, after: int = 0) -> dict[str, Any]:
        """Events from line `after` on, the line to ask for next, and the end of the log."""
        path = self.path(run_id)
        try:
            lines = (path / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        parsed = []
        for line in lines[after:]:
            try:
                parsed.append(json.loads(line))
            except ValueError:
                break  # half written: next time
        return {"events": parsed, "next": after + len(parsed), "log": _tail(path / "log.txt")}

    def sample(self, run_id: str, name: str) -> Path:
        """A picture of a run."""
        path = self.path(run_id) / "samples" / name
        if not re.fullmatch(r"step-[0-9]{6}(-now)?\.png", name) or not path.is_file():
            raise RunError(f"run {run_id} has no picture {name!r}")
        return path

    # --- what can be done ------------------------------------------------------------------------------------------

    def create(self, config: Mapping[str, Any], keep_going: bool = False) -> str:
        """Queue a new run; it starts at once if its device is free. Returns its id."""
        with self._lock:
            stem = (
                re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(str(config.get("pretrained_model_name_or_path", ""))).stem)[
                    :60
                ].strip(".")
                or "run"
            )
            run_id = base = time.strftime("%Y%m%d-%H%M%S-", time.localtime(self.clock())) + stem
            number = 1
            while (self.folder / run_id).exists():
                number += 1
                run_id = f"{base}~{number}"
            path = self.folder / run_id
            try:
                path.mkdir(parents=True)
                settings = {**config, "output_dir": str(path)}
                (path / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
                (path / ASKED).write_text(json.dumps(settings), encoding="utf-8")
                (path / "keep_going").write_text(str(int(keep_going)))
                (path / "queued").write_text("")
            except OSError as error:
                raise RunError(
                    f"the run folder {path} cannot be written: {error}. Free space or choose another data folder"
                ) from error
        self.wake()
        return run_id

    def resume(self, run_id: str) -> None:
        """Queue an ended run again; it continues from its last saved state."""
        with self._lock:
            path, state = self.path(run_id), self.summary(run_id)["state"]
            if state in (*ACTIVE, "queued"):
                raise RunError(f"run {run_id} is {state} already")
            config = _read(path / "config.json")
            (path / "config.json").write_text(
                json.dumps({**config, "resume_from_checkpoint": "latest"}, indent=1), encoding="utf-8"
            )
            (path / "queued").write_text("")
        self.wake()

    def command(self, run_id: str, command: str) -> None:
        """Pass a command to a run. A queued run can only be stopped, which takes it off the queue."""
        path, state = self.path(run_id), self.summary(run_id)["state"]
        if command not in COMMANDS:
            raise RunError(f"unknown command {command!r}; there are {', '.join(COMMANDS)}")
        if state == "queued" and command in ("stop", "stop_now"):
            (path / "queued").unlink(missing_ok=True)
            _write(path / "status.json", {"state": "cancelled", "step": 0})
            return
        if command == "resume" and state not in ACTIVE:
            self.resume(run_id)
            return
        if state not in ACTIVE:
            raise RunError(f"run {run_id} is not running ({state})")
        old = _read(path / "control.json")
        _write(path / "control.json", {"id": int(old.get("id", 0)) + 1, "command": command})

    def delete(self, run_id: str) -> None:
        """Delete a run that is not running. Exported models lie elsewhere and stay."""
        with self._lock:
            path, state = self.path(run_id), self.summary(run_id)["state"]
            if state in ACTIVE:
                raise RunError(f"run {run_id} is {state}: stop it first")
            shutil.rmtree(path, ignore_errors=True)

    def seconds(self, config: Mapping[str, Any]) -> float | None:
        """How long training with these settings will take, by the pace of the newest run that had those which matter;
        else None.
        """
        for run in self.list():
            asked = _read(self.folder / run["id"] / ASKED)
            if asked and all(asked.get(name) == config.get(name) for name in PACE):
                steps = [
                    event
                    for event in self.events(run["id"])["events"]
                    if event.get("type") == "step" and event.get("seconds_per_update")
                ]
                if steps:
                    return float(steps[-1]["seconds_per_update"]) * int(config.get("max_train_steps", 0))
        return None

    def config(self, run_id: str) -> dict[str, Any]:
        """The settings of a run, to start from for another."""
        return _read(self.path(run_id) / "config.json")

    # --- the watcher -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Start what can start, and watch as long as anything runs or waits. Safe to call at any time."""
        with self._lock:
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="imagereward-refl-runs", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        while True:
            with self._lock:
                busy = self.advance()
                if not busy:
                    self._watcher = None
                    return
            time.sleep(1.0)

    def advance(self) -> bool:
        """One look at all runs: report ended ones, start queued ones whose device is free. Returns whether anything is
        left to watch.
        """
        runs = self.list()
        for run in runs:
            if run["active"]:
                self._announced.add(run["id"])
            elif run["id"] in self._announced and run["state"] != "queued":
                self._announced.discard(run["id"])
                self._children.pop(run["id"], None)
                self._guarded(self._after, run)
        taken = {run["device"] for run in runs if run["active"]}
        for run in reversed(runs):
            if run["state"] == "queued" and run["device"] not in taken:
                taken.add(run["device"])
                self._start(run)
        return any(run["active"] or run["state"] == "queued" for run in runs)

    def _start(self, run: dict[str, Any]) -> None:
        path = self.path(run["id"])
        follow = (path / "keep_going").is_file() and (path / "keep_going").read_text() != "1"
        self._guarded(self._before, run)
        command = [self.python, "-m", "refl", "train", "--config", str(path / "config.json"), "--run-dir", str(path)]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL}
        if follow:  # the child ends when this process, which holds the other end, is gone
            command.append("--follow-stdin")
            options["stdin"] = subprocess.PIPE
        if os.name == "nt":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined]
        else:
            options["start_new_session"] = True
        _write(path / "status.json", {"state": "starting", "step": run["step"], "heartbeat": self.clock()})
        try:
            with open(path / "log.txt", "ab") as log:
                self._children[run["id"]] = subprocess.Popen(
                    command, cwd=path, env=self._environment(), stdout=log, stderr=subprocess.STDOUT, **options
                )
        except OSError as error:
            _write(
                path / "status.json",
                {"state": "failed", "step": 0, "message": f"the training process cannot be started: {error}"},
            )
        (path / "queued").unlink(missing_ok=True)
        self._announced.add(run["id"])

    @staticmethod
    def _guarded(hook: Callable[[dict[str, Any]], None], run: dict[str, Any]) -> None:
        try:
            hook(run)
        except Exception:  # noqa: BLE001 - the host's own code; a run must not hang because of it
            logger.exception("preparing the host for run %s failed", run["id"])


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(path: Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.host.tmp")
    try:
        temporary.write_text(json.dumps(data), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
