"""Weights: found, read and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelNotFoundError, WeightsError
from .registry import Source

if TYPE_CHECKING:
    from torch import Tensor, nn


def locate(source: Source, *, download_root: Any = None, models_dir: Any = None) -> Path:
    """The file of `source` on this machine."""
    folders = [Path(folder) for folder in (download_root, models_dir, os.environ.get("IMAGEREWARD_HOME")) if folder]
    stem = Path(source.local_name).stem
    for folder in folders:
        for name in (f"{stem}.safetensors", source.local_name):
            if (folder / name).is_file():
                return folder / name
    raise ModelNotFoundError(f"{source.filename} is in none of {[str(folder) for folder in folders]}")


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors (memory-mapped) or .pt file."""
    if os.fspath(path).endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(os.fspath(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state, {}


def checked(state: dict[str, Tensor], net: nn.Module, allowed_missing: Sequence[str], path: str) -> dict[str, Tensor]:
    """`state` if its keys and shapes are those of `net`; WeightsError saying what differs otherwise."""
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    missing = sorted(wanted.keys() - found.keys() - set(allowed_missing))
    unexpected = sorted(found.keys() - wanted.keys())
    reshaped = sorted(key for key in wanted.keys() & found.keys() if wanted[key] != found[key])
    if missing or unexpected or reshaped:
        raise WeightsError(f"{path}: {missing[:3]} {unexpected[:3]} {reshaped[:3]}")
    return dict(state)
