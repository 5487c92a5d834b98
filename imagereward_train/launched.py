"""How the program was launched: whether this process is one of several, on what they compute, and in which
precision.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from imagereward_core import process_group
from imagereward_core.errors import ConfigError

from .sharding import fsdp_plugin, shard_on_cpu

if TYPE_CHECKING:
    from .config import TrainConfig


def on_cpu(device: str = "") -> bool:
    """Whether accelerate is to use the CPU: asked for, or several processes on a machine without an accelerator.

    accelerate itself tells the second case only by an environment variable, without which each process believes it is
    alone.
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
        raise ConfigError(
            f"device must be cpu or empty, found {config.device!r}: choose GPUs with CUDA_VISIBLE_DEVICES or accelerate"
            " launch"
        )
    AcceleratorState._reset_state()  # the precision of an earlier run in this process would be refused or kept
    sharding = fsdp_plugin()
    try:
        accelerator = Accelerator(
            cpu=on_cpu(config.device),
            mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
            fsdp_plugin=sharding,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        raise ConfigError(f"precision {config.precision} cannot be used here: {error}") from error
    process_group.close_at_exit()
    if sharding is not None and accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        shard_on_cpu(accelerator, sharding)
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        _fp16_on_cpu(accelerator)
    if config.ema and accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError("ema needs whole weights on every device: set ema 0 with FSDP")
    return accelerator


def _fp16_on_cpu(accelerator: Any) -> None:
    """Autocast and loss scale where accelerate leaves fp16 out without a word: with these two attributes it takes the
    same way as on a GPU (scaled backward, unscaling before clipping, skipped updates, the scaler in the resume state).
    """
    import torch

    if not hasattr(torch.amp, "GradScaler"):
        raise ConfigError(
            f"precision fp16 on the CPU needs torch 2.3 or newer, found {torch.__version__}: use bf16 or fp32"
        )
    if accelerator.distributed_type.value == "FSDP" and not accelerator.is_fsdp2:
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

        accelerator.scaler = ShardedGradScaler(device="cpu")
    else:
        accelerator.scaler = torch.amp.GradScaler("cpu")
    accelerator.native_amp = True
