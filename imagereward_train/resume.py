"""The state of an interrupted run: written whole or not at all, and refused by a run with other settings."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from imagereward_core import runs
from imagereward_core.atomic import replace, sync
from imagereward_core.errors import ConfigError, TrainingError

from .config import TrainConfig
from .ema import Ema

# Settings that change neither the numbers of a run nor their order.
FREE = (
    "resume",
    "workers",
    "tensorboard",
    "curve",
    "save_every",
    "cache",
    "savepath",
    "data",
    "images",
    "valid",
    "test",
    "download_root",
    "device",
)


@dataclass
class Position:
    """Where a run is: updates done, and what best and early stop remember."""

    update: int = 0
    best: float | None = None
    best_update: int = 0
    best_accuracy: float = 0.0  # on validation pairs
    validations: int = 0  # of which the best was chosen
    without_improvement: int = 0
    stalled: int = 0
    skipped: int = 0  # updates in a row whose gradients overflowed (fp16)
    due: bool = False  # the validation of this update was cut off by a signal


@contextlib.contextmanager
def only_run(config: TrainConfig) -> Iterator[None]:
    """Keep a second run out of savepath; TrainingError if there is one. The operating system frees the lock of a killed
    run.

    A launcher that was killed may leave its processes training: they would write into the state that a resumed run
    reads.
    """
    if os.environ.get("RANK", "0") != "0":  # one process speaks for a launched run
        yield
        return
    folder = Path(config.savepath)
    folder.mkdir(parents=True, exist_ok=True)
    # in the folder itself and not in this machine's (core's lock_for): containers share the one and not the other
    lock = FileLock(os.fspath(folder / ".run.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"another run is training in {folder}: give another savepath, or end that run "
            "(processes can outlive a launcher that was killed) and start again with resume"
        ) from None
    try:  # outside the other one: a Timeout of the run itself, of a download for instance, is not about this lock
        yield
    finally:
        lock.release()


def save_state(folder: Path, accelerator: Any, position: Position, config: TrainConfig, ema: Ema | None = None) -> None:
    """Write weights, optimiser and position to `folder`/state. The former state stays until the new one is complete."""
    target, fresh, old = folder / "state", folder / "state.new", folder / "state.old"
    if accelerator.is_main_process and fresh.exists():
        shutil.rmtree(fresh)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        values = {"position": dataclasses.asdict(position), "config": config.to_dict()}
        if ema is not None:
            ema.save(fresh / "ema.safetensors")
        (fresh / "run.json").write_text(json.dumps(values), encoding="utf-8")
        for file in (path for path in fresh.rglob("*") if path.is_file()):  # FSDP keeps its shards in folders
            sync(file)
        if old.exists():
            shutil.rmtree(old)
        if target.exists():
            replace(target, old)
        replace(fresh, target)
        if old.exists():
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def find_state(config: TrainConfig) -> tuple[Path, Position] | None:
    """The state to go on from, or None for a new run. ConfigError if the run in savepath had other settings, or if
    there is one and `resume` is off; RunDamaged if it cannot be read.
    """
    folder = Path(config.savepath)
    state = next((folder / name for name in ("state", "state.old") if (folder / name / "run.json").is_file()), None)
    if state is None:
        if (folder / "metrics.jsonl").exists() and not config.resume:
            raise ConfigError(f"{folder} already holds a run: choose another savepath or remove it")
        return None
    if not config.resume:
        raise ConfigError(f"{folder} already holds a run: set resume to continue it, or choose another savepath")
    saved = runs.read_object(state / "run.json", finite=False)
    if not saved or not isinstance(saved.get("config"), dict) or not isinstance(saved.get("position"), dict):
        raise runs.RunDamaged(f"{state / 'run.json'} is damaged: it lacks the run's settings or where it was")
    now = json.loads(json.dumps(config.to_dict()))
    changed = {
        key: (saved["config"].get(key), now[key])
        for key in now
        if key not in FREE and saved["config"].get(key) != now[key]
    }
    if changed:
        listed = "; ".join(f"{key} was {before!r}, is {after!r}" for key, (before, after) in changed.items())
        raise ConfigError(
            f"the run in {folder} had other settings ({listed}): restore them to resume, or choose another savepath"
        )
    return state, Position(**saved["position"])
