"""How the program was launched: whether this process is one of several, and on what they compute."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .config import TrainConfig


def on_cpu(device: str = "") -> bool:
    """Whether accelerate is to use the CPU: asked for, or several processes on a machine without an accelerator.

    accelerate itself tells the second case only by an environment variable, without which each process believes it is alone.
    """
    import torch

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    modern = getattr(torch, "accelerator", None)  # torch 2.6
    return device == "cpu" or (several and not (modern.is_available() if modern else torch.cuda.is_available()))


def make_accelerator(config: TrainConfig) -> Any:
    """accelerate decides device, processes, DDP or FSDP from how the program was launched."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ConfigError("training needs the accelerate package: pip install accelerate") from error
    if config.device not in ("", "cpu"):
        raise ConfigError(f"device must be cpu or empty, found {config.device!r}: choose GPUs with CUDA_VISIBLE_DEVICES or accelerate launch")
    AcceleratorState._reset_state()  # the precision of an earlier run in this process would be refused or kept
    try:
        accelerator = Accelerator(
            cpu=on_cpu(config.device),
            mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        raise ConfigError(f"precision {config.precision} cannot be used here: {error}") from error
    if config.precision == "fp16" and accelerator.device.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA GPU, found {accelerator.device}: use bf16 or fp32")
    if config.ema and accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError("ema needs whole weights on every device: set ema 0 with FSDP")
    return accelerator
