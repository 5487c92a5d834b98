"""Resumable states: one folder each, complete or absent.

Everything random is a function of the seed and the sample number (see rollout.SampleNoise), so a state needs no
generator state: the update count is the data cursor.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from imagereward_core import atomic
from imagereward_core.runs import Name, RunDamaged, read_object, resumable_step

from .checkpoints.base import read as read_state
from .checkpoints.write import save_tensors
from .errors import CheckpointError, SaveError
from .log import logger

FORMAT = 1
WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
INFO = {"seed": int, "samples": int, "calibration": dict, "history": list, "scaler": dict, "kept": dict}


@dataclass
class TrainingState:
    """What a run needs to go on. Tensors by parameter name; `info` is JSON."""

    step: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def save(state: TrainingState, folder: Path) -> Path:
    """Write `folder`/step-000123: into a temporary folder, flushed, then renamed. SaveError leaves older states
    intact.
    """
    target = folder / f"step-{state.step:06d}"
    tensors, plain = _flatten(state.optimizer)
    parts = {WEIGHTS: state.weights, EMA: state.ema, OPTIMIZER: tensors}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.replacing_folder(target) as temporary:
            for name, values in parts.items():
                if values:
                    save_tensors(values, temporary / name)
            sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
            data = {"format": FORMAT, "step": state.step, "optimizer": plain, "info": state.info, "files": sizes}
            (temporary / Name.STATE).write_text(json.dumps(data), encoding="utf-8")
            atomic.sync(temporary / Name.STATE)
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(f"cannot save the training state in {folder}: {error}") from error
    return target


def load(folder: Path) -> TrainingState:
    """Read a state. CheckpointError for a folder that is none, or that is torn: every file of it must be whole."""
    try:
        data = read_object(folder / Name.STATE, finite=False)  # one seed has no diversity: it is NaN
    except RunDamaged as error:
        raise CheckpointError(f"the saved state {folder} is torn: {error}") from error
    if data is None or data.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is no saved training state of this version")
    try:
        step, info = _typed(data)
        _check_files(folder, step, data.get("files"))
        tensors = read_state(folder / OPTIMIZER)[0] if (folder / OPTIMIZER).is_file() else {}
        ema = read_state(folder / EMA)[0] if (folder / EMA).is_file() else {}
        weights, _ = read_state(folder / WEIGHTS)
        return TrainingState(step, weights, ema, _unflatten(tensors, data["optimizer"]), info)
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the saved state {folder} is torn: {error}") from error


def _typed(data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    step, info = data.get("step"), data.get("info")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"step must be a number, found {step!r}")
    if not isinstance(info, dict) or not isinstance(data.get("optimizer"), dict):
        raise ValueError(f"{Name.STATE} lacks what a run needs to go on")
    for name, kind in INFO.items():
        if name in info and not isinstance(info[name], kind):
            raise ValueError(f"{name} must be {kind.__name__}, found {info[name]!r}")
    return step, info


def _check_files(folder: Path, step: int, sizes: Any) -> None:
    if sizes is None:  # a state from before sizes were kept: an optimizer that made an update has moments
        sizes = {WEIGHTS: None, **({OPTIMIZER: None} if step else {})}
    for name, size in sizes.items():
        path = folder / str(name)
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if size is not None and path.stat().st_size != size:
            raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {size}")


def load_newest(folder: Path) -> tuple[TrainingState, list[str]] | None:
    """(the newest state that is sound, why each newer one is not); None if nothing was saved.

    CheckpointError if states were saved and none is sound.
    """
    found = saved(folder)
    torn: list[str] = []
    for path in reversed(found):
        try:
            return load(path), torn
        except CheckpointError as error:
            torn.append(str(error))
    if found:
        raise CheckpointError(f"none of the saved states can be read: {'; '.join(torn)}")
    return None


def saved(folder: Path) -> list[Path]:
    """States in the folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / Name.STATE).is_file())


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Delete all but the newest `keep` states and the one of step `best`."""
    for path in saved(folder)[:-keep]:
        if best is None or path.name != f"step-{best:06d}":
            shutil.rmtree(path, ignore_errors=True)
            logger.info("removed the old state %s", path.name)
    for path in folder.glob(".step-*"):  # left behind by a killed process
        shutil.rmtree(path, ignore_errors=True)


def _flatten(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state_dict → (tensors by "parameter.key", everything else as JSON)."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"state": {}, "param_groups": optimizer.get("param_groups", [])}
    for index, entry in optimizer.get("state", {}).items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = (
                    value.detach().cpu().reshape(-1) if value.dim() == 0 else value.detach().cpu()
                )
            else:
                plain["state"].setdefault(str(index), {})[key] = value
    return tensors, plain


def _unflatten(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in plain.get("state", {}).items()}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor.reshape(()) if key == "step" and tensor.numel() == 1 else tensor
    return {"state": state, "param_groups": plain.get("param_groups", [])}


resumable = resumable_step
