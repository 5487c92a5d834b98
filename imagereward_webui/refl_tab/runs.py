"""Training runs: started as processes of their own, found again after a restart, one at a time per device, the others
queued.

Everything a run tells lies in its folder (see imagereward_core/runs); this module only reads and writes those files, so
it needs neither torch nor the training libraries. What may take long, such as waiting for the WebUI to lend its GPU,
happens in a thread per device and holds no lock: no request waits for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core import logger
from ..core import runs as protocol
from .summaries import (
    ENDED_HINT,
    LOST_HINT,
    damaged,
    described,
    ended_silently,
    last_step,
    pending,
    replaced,
    settings_of,
)

RunError = protocol.RunError
Command, EventKind, Name, State = protocol.Command, protocol.EventKind, protocol.Name, protocol.State

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}(-[A-Za-z0-9_.-]{1,60})?(~[0-9]+)?")
SAMPLE = re.compile(r"step-[0-9]{6}(-now)?\.png")
LOG_TAIL = 6000
TICK = 1.0  # seconds between two looks at all runs
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
        self._before, self._after = before or _nothing, after or _nothing
        self._lock = threading.RLock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._announced: set[str] = set()  # runs that were seen at work
        self._over: list[dict[str, Any]] = []  # ended ones that the host does not know of yet
        self._serving: set[str] = set()  # devices on which the host is being asked for something
        self._asking: set[str] = set()  # runs for which it is asked to lend its GPU
        self._watcher: threading.Thread | None = None
        self._news = threading.Event()

    # --- what there is ---------------------------------------------------------------------------------------------

    def path(self, run_id: str) -> Path:
        """The folder of a run. Ids are names we made, so that no request reaches outside."""
        if not RUN_ID.fullmatch(run_id) or not (self.folder / run_id / Name.CONFIG).is_file():
            raise RunError(f"there is no run {run_id!r}")
        return self.folder / run_id

    def list(self) -> list[dict[str, Any]]:
        """One summary per run, newest first."""
        if not self.folder.is_dir():
            return []
        names = sorted((path.name for path in self.folder.iterdir() if RUN_ID.fullmatch(path.name)), reverse=True)
        summaries = []
        for name in names:
            with suppress(RunError):  # deleted at this moment, or no run at all
                summaries.append(self.summary(name))
        return summaries

    def summary(self, run_id: str) -> dict[str, Any]:
        """State, step and the like of one run, as its files tell it; a silent process is reported as died, and a file
        that is torn or holds nonsense makes the run "damaged".
        """
        path = self.path(run_id)
        try:
            settings = settings_of(path)
        except protocol.RunDamaged as error:
            return described(run_id, {}, damaged(error), resumable=False)
        try:
            status = self._status(run_id, path)
        except protocol.RunDamaged as error:
            status = damaged(error)
        on_its_way = pending(status, protocol.read_command(path))
        return described(run_id, settings, status, bool(protocol.saved_states(path)), on_its_way)

    def _status(self, run_id: str, path: Path) -> Any:
        """The status file, corrected by what it cannot know."""
        child = self._children.get(run_id)
        if (path / Name.QUEUED).is_file():
            message = "waits until the WebUI has finished its own job" if run_id in self._asking else ""
            return protocol.Status(State.QUEUED, step=last_step(path), message=message)
        status = protocol.read_status(path) or protocol.Status(State.STARTING)
        alive = child.poll() is None if child is not None else self.clock() - status.heartbeat < protocol.STALE
        if status.state.active and not alive:
            how = ended_silently(None if child is None else child.returncode)
            message = f"{status.message.rstrip('. ')}. Then {how}" if status.message else how
            hint = status.hint or (ENDED_HINT if protocol.saved_states(path) else LOST_HINT)
            return replaced(status, state=State.DIED, message=message, hint=hint)
        return status

    def show(self, run_id: str, after: int = 0) -> dict[str, Any]:
        """A run's summary with its events from line `after` on, the line to ask for next, and the end of its log."""
        summary = self.summary(run_id)
        path = self.path(run_id)
        ended = State(summary["state"]).ended
        events = protocol.read_events(path / Name.EVENTS, after, ended=ended)
        log = protocol.tail(path / Name.LOG, LOG_TAIL)
        return {**summary, "events": events, "next": after + len(events), "log": log}

    def events(self, run_id: str, after: int = 0) -> dict[str, Any]:
        """Events from line `after` on, the line to ask for next, and the end of the log."""
        found = self.show(run_id, after)
        return {name: found[name] for name in ("events", "next", "log")}

    def sample(self, run_id: str, name: str) -> Path:
        """A picture of a run."""
        path = self.path(run_id) / Name.SAMPLES / name
        if not SAMPLE.fullmatch(name) or not path.is_file():
            raise RunError(f"run {run_id} has no picture {name!r}")
        return path

    def config(self, run_id: str) -> dict[str, Any]:
        """The settings of a run, to start from for another."""
        return settings_of(self.path(run_id))

    def promised(self) -> set[tuple[str, str]]:
        """(folder, name) of the results of all runs that have not ended."""
        found = set()
        for run in self.list():
            if not State(run["state"]).ended:
                with suppress(RunError):
                    settings = self.config(run["id"])
                    found.add((settings.get("export_dir", ""), settings.get("output_name", "")))
        return found

    def seconds(self, config: Mapping[str, Any]) -> float | None:
        """How long training with these settings will take, by the pace of the newest run that had those which matter;
        else None.
        """
        for run in self.list():
            path = self.folder / run["id"]
            try:
                asked = protocol.read_object(path / Name.ASKED)
            except protocol.RunDamaged:
                continue
            if asked and all(asked.get(name) == config.get(name) for name in PACE):
                paces = [
                    event.get("seconds_per_update")
                    for event in protocol.read_events(path / Name.EVENTS)
                    if event["type"] == EventKind.STEP
                ]
                known = [pace for pace in paces if isinstance(pace, (int, float)) and pace > 0]
                if known:
                    return float(known[-1]) * int(config.get("max_train_steps", 0))
        return None

    # --- what can be done ------------------------------------------------------------------------------------------

    def create(self, config: Mapping[str, Any], keep_going: bool = False) -> str:
        """Queue a new run; it starts at once if its device is free. Returns its id."""
        if config.get("export_dir"):
            protocol.check_writable(config["export_dir"], "the result")
        with self._lock:
            run_id = self._free_id(str(config.get("pretrained_model_name_or_path", "")))
            path = self.folder / run_id
            settings = {**config, "output_dir": str(path)}
            try:
                path.mkdir(parents=True)
                (path / Name.KEEP_GOING).write_text(str(int(keep_going)))
                (path / Name.QUEUED).write_text("")
                protocol.write_settings(path, settings, Name.ASKED)
                protocol.write_settings(path, settings)  # last: what has settings is a run
            except OSError as error:
                shutil.rmtree(path, ignore_errors=True)
                raise RunError(
                    f"the run folder {path} cannot be written: {error}. Free space or choose another data folder"
                ) from error
        self.wake()
        return run_id

    def branch(self, run_id: str, step: int, changes: Mapping[str, Any]) -> str:
        """Queue a new run that goes on from a saved state of this one, which stays as it is; returns its id."""
        source = self.path(run_id)
        with self._lock:
            new = self._free_id(str(self.config(run_id).get("pretrained_model_name_or_path", "")))
            keep = str(int(_keeps_going(source)))
            protocol.branch(source, step, self.folder / new, changes, {Name.QUEUED: "", Name.KEEP_GOING: keep})
        self.wake()
        return new

    def _free_id(self, checkpoint: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(checkpoint).stem)[:60].strip(".") or "run"
        base = time.strftime("%Y%m%d-%H%M%S-", time.localtime(self.clock())) + stem
        run_id, number = base, 1
        while (self.folder / run_id).exists():
            number += 1
            run_id = f"{base}~{number}"
        return run_id

    def resume(self, run_id: str) -> None:
        """Queue an ended run again; it continues from its last saved state."""
        with self._lock:
            path, state = self.path(run_id), State(self.summary(run_id)["state"])
            if not state.ended:
                raise RunError(f"run {run_id} is {state} already")
            settings = settings_of(path)
            protocol.write_settings(path, {**settings, "resume_from_checkpoint": "latest"})
            try:
                (path / Name.QUEUED).write_text("")
            except OSError as error:
                raise RunError(f"run {run_id} cannot be queued: {error}") from error
        self.wake()

    def command(self, run_id: str, command: str) -> None:
        """Pass a command to a run. A queued run can only be stopped, which takes it off the queue."""
        if command not in protocol.COMMANDS:
            raise RunError(f"unknown command {command!r}; there are {', '.join(protocol.COMMANDS)}")
        path, state = self.path(run_id), State(self.summary(run_id)["state"])
        if state is State.QUEUED and command in (Command.STOP, Command.STOP_NOW):
            with self._lock:
                (path / Name.QUEUED).unlink(missing_ok=True)
                protocol.write_status(path, State.CANCELLED, step=last_step(path))
        elif command == Command.RESUME and state.ended:
            self.resume(run_id)
        elif state.active:
            protocol.send(path, command)
        else:
            raise RunError(f"run {run_id} is not running ({state})")

    def delete(self, run_id: str) -> None:
        """Delete a run that is not running. Exported models lie elsewhere and stay."""
        with self._lock:
            path, summary = self.path(run_id), self.summary(run_id)
            if summary["active"]:
                raise RunError(f"run {run_id} is {summary['state']}: stop it first")
            shutil.rmtree(path, ignore_errors=True)

    # --- the watcher -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Start what can start, and watch as long as anything runs or waits. Safe to call at any time."""
        with self._lock:
            self._news.set()
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="imagereward-refl-runs", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        while True:
            self._news.clear()
            with self._lock:
                if not self.advance():
                    self._watcher = None
                    return
            self._news.wait(TICK)

    def advance(self) -> bool:
        """One look at all runs: have ended ones reported to the host, and queued ones started whose device is free.
        Returns whether anything is left to watch.
        """
        with self._lock:
            runs = self.list()
            for run in runs:
                if run["active"]:
                    self._announced.add(run["id"])
                elif run["id"] in self._announced and run["state"] != State.QUEUED:
                    self._announced.discard(run["id"])
                    self._bury(run)
                    self._over.append(run)
            taken = {run["device"] for run in runs if run["active"]}
            queued = [run for run in reversed(runs) if run["state"] == State.QUEUED and run["device"] not in taken]
            for device in {run["device"] for run in (*self._over, *queued)} - self._serving:
                ended = [run for run in self._over if run["device"] == device]
                first = next((run for run in queued if run["device"] == device), None)
                self._over = [run for run in self._over if run["device"] != device]
                self._serving.add(device)
                threading.Thread(
                    target=self._serve, args=(device, ended, first), name="imagereward-refl-host", daemon=True
                ).start()
            return bool(self._serving or self._over) or any(
                run["active"] or run["state"] == State.QUEUED for run in runs
            )

    def _bury(self, run: Mapping[str, Any]) -> None:
        """Let go of an ended run's process. If it left an active state behind, its end is written down: its heartbeat
        is fresh, and without the process nothing else tells that it is over.
        """
        if run["id"] in self._children and run["state"] == State.DIED:
            told = {name: run[name] for name in ("step", "message", "hint", "result")}
            try:
                protocol.write_status(self.folder / run["id"], State.DIED, **told)
            except RunError as error:  # the disk is full: the heartbeat goes stale in a while
                logger.warning("the end of run %s cannot be written down: %s", run["id"], error)
        self._children.pop(run["id"], None)  # last: without it, only the file tells that the run is over

    def _serve(self, device: str, ended: Sequence[dict[str, Any]], first: dict[str, Any] | None) -> None:
        """Take back what ended runs were lent, then lend it to the next. May wait long for the host."""
        try:
            for run in ended:
                self._guarded(self._after, run)
            if first is not None:
                self._asking.add(first["id"])
                self._guarded(self._before, first)
                self._asking.discard(first["id"])
                if not self._start(first):
                    self._guarded(self._after, first)
        finally:
            with self._lock:
                self._serving.discard(device)
            self._news.set()

    def _start(self, run: dict[str, Any]) -> bool:
        """Start a queued run's process; False if it was cancelled meanwhile, or cannot be started."""
        path = self.folder / run["id"]
        with self._lock:
            if not (path / Name.QUEUED).is_file():
                return False
            command = [self.python, "-m", "refl", "train", "--config", str(path / Name.CONFIG), "--run-dir", str(path)]
            command.append("--name-reserved")
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL}
            if not _keeps_going(path):  # the child ends when this process, which holds the other end, is gone
                command.append("--follow-stdin")
                options["stdin"] = subprocess.PIPE
            if os.name == "nt":
                options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined]
            else:
                options["start_new_session"] = True
            try:
                told = protocol.read_command(path)[0]
                protocol.write_status(
                    path,
                    State.STARTING,
                    step=run["step"],
                    heartbeat=self.clock(),
                    since=self.clock(),
                    launched_after=told,
                    control_id=told,
                    control_start=told,
                    seconds_left=self.seconds(settings_of(path)),
                )
                with open(path / Name.LOG, "ab") as log:
                    self._children[run["id"]] = subprocess.Popen(
                        command, cwd=path, env=self._environment(), stdout=log, stderr=subprocess.STDOUT, **options
                    )
            except (OSError, RunError) as error:
                self._not_started(path, error)
                return False
            finally:
                (path / Name.QUEUED).unlink(missing_ok=True)
            self._announced.add(run["id"])
            return True

    @staticmethod
    def _not_started(path: Path, error: Exception) -> None:
        message = f"the training process cannot be started: {error}"
        logger.error("run %s: %s", path.name, message)
        with suppress(RunError):  # the disk is full: the log of the WebUI has it
            protocol.write_status(path, State.FAILED, message=message)

    @staticmethod
    def _guarded(hook: Callable[[dict[str, Any]], None], run: dict[str, Any]) -> None:
        try:
            hook(run)
        except Exception:  # noqa: BLE001 - the host's own code; a run must not hang because of it
            logger.exception("preparing the host for run %s failed", run["id"])


def _nothing(run: dict[str, Any]) -> None:
    """Where there is no host."""


def _keeps_going(path: Path) -> bool:
    """Whether the run outlives the WebUI; runs from before there was a choice did."""
    try:
        return (path / Name.KEEP_GOING).read_text() == "1"
    except FileNotFoundError:
        return True
