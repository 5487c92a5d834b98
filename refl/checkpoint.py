"""Resumable states: one folder each, complete or absent.

Everything random is a function of the seed and the sample number (see rollout.SampleNoise), so a state needs no
generator
state: the update count is the data cursor.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import CheckpointError, SaveError
from .log import logger
from .runfiles import read_json
from .single_file import read_state, save_tensors

FORMAT = 1


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
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    tensors, plain = _flatten(state.optimizer)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_tensors(state.weights, temporary / "weights.safetensors")
        if state.ema:
            save_tensors(state.ema, temporary / "ema.safetensors")
        if tensors:
            save_tensors(tensors, temporary / "optimizer.safetensors")
        data = {"format": FORMAT, "step": state.step, "optimizer": plain, "info": state.info}
        with open(temporary / "state.json", "w", encoding="utf-8") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        old = folder / f".{target.name}.old"
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SaveError(f"cannot save the training state in {folder}: {error}") from error
    return target


def load(folder: Path) -> TrainingState:
    """Read a state. CheckpointError for a folder that is none."""
    data = read_json(folder / "state.json")
    if data is None or data.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is no saved training state of this version")
    tensors = read_state(folder / "optimizer.safetensors")[0] if (folder / "optimizer.safetensors").is_file() else {}
    ema = read_state(folder / "ema.safetensors")[0] if (folder / "ema.safetensors").is_file() else {}
    weights, _ = read_state(folder / "weights.safetensors")
    return TrainingState(int(data["step"]), weights, ema, _unflatten(tensors, data["optimizer"]), data["info"])


def saved(folder: Path) -> list[Path]:
    """Complete states in the folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


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


def resumable(run_folder: str | os.PathLike[str]) -> int | None:
    """The update from which the run in this folder can go on, or None."""
    states = saved(Path(run_folder) / "checkpoints")
    return None if not states else int((read_json(states[-1] / "state.json") or {"step": 0})["step"])
