"""Writing weights: a file that is whole or absent, and the original checkpoint with another UNet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from imagereward_core.atomic import replacing

from ..errors import CheckpointError, SaveError
from ..ldm import UNET_PREFIX, UNetLayout, unet_names
from .base import read


def write_back(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    unet: Mapping[str, Tensor],
    layout: UNetLayout,
    extra: Mapping[str, str],
) -> None:
    """Write the checkpoint `source` with only its UNet replaced by `unet` (diffusers names) to the .safetensors
    `target`.

    Each tensor keeps the file's dtype and shape; everything else is bit-identical. Stale `model_ema.*` copies are
    dropped. The file appears whole or not at all. Raises SaveError if it cannot be written.
    """
    state, metadata = read(source)
    keys = [key[len(UNET_PREFIX) :] for key in state if key.startswith(UNET_PREFIX)]
    names = unet_names(keys, layout)
    missing = sorted(set(names.values()) ^ set(unet))
    if missing:
        raise CheckpointError(f"the trained UNet does not fit {os.fspath(source)}: {', '.join(missing[:4])}")
    result = {key: tensor for key, tensor in state.items() if not key.startswith("model_ema.")}
    for key, name in names.items():
        old = state[UNET_PREFIX + key]
        result[UNET_PREFIX + key] = unet[name].detach().to("cpu", old.dtype).reshape(old.shape)
    save_tensors(result, target, {**metadata, **extra})


def save_tensors(
    state: Mapping[str, Tensor], target: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Save a .safetensors file through the core's atomic writer, flushed to disk. SaveError names the cause."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, durable=True) as temporary:
            save_file(
                {key: tensor.contiguous() for key, tensor in state.items()},
                str(temporary),
                dict(metadata) if metadata else None,
            )
    except (OSError, SafetensorError) as error:
        raise SaveError(f"cannot write {target}: {error}") from error
