"""FSDP: weights, gradients and Adam's state in shards, one per process."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from imagereward_core.errors import ConfigError


def fsdp_plugin() -> Any:
    """FSDP as `accelerate launch` was configured to use it, fitted to this model; None without FSDP.

    Weights stay fp32 in every shard, and autocast chooses the precision of each operation, as under DDP. accelerate's
    own policy would cast all weights to bf16, the head's and the norms' included, which the head's fp32 region cannot
    undo.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    import torch
    from accelerate import FullyShardedDataParallelPlugin

    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
        raise ConfigError(
            "fsdp_cpu_ram_efficient_loading is for transformers' own models: set it to false in accelerate's"
            " configuration"
        )
    plugin = FullyShardedDataParallelPlugin()
    if getattr(plugin, "fsdp_version", 1) == 2:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        plugin.mixed_precision_policy = MixedPrecisionPolicy()
    else:
        from torch.distributed.fsdp import MixedPrecision

        plugin.mixed_precision_policy = MixedPrecision(
            param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32
        )
        plugin.use_orig_params = True  # a flat parameter cannot hold frozen and trained tensors at once
    plugin.state_dict_config = plugin.optim_state_dict_config = None
    plugin.set_state_dict_type("SHARDED_STATE_DICT")  # of the resume state; checkpoints are gathered by `whole_state`
    return plugin


def shard_on_cpu(accelerator: Any, plugin: Any) -> None:
    """accelerate would quietly fall back to DDP where there is no GPU, though torch shards on CPUs as well (over
    gloo).
    """
    import torch
    from accelerate import DistributedType, PartialState

    state = accelerator.state
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = plugin
    state.device = torch.device("cpu")  # not cpu:0, which FSDP1 takes for another device
    for name in ("distributed_type", "device"):  # accelerate copies them from here whenever it looks its state up
        PartialState._shared_state[name] = getattr(state, name)


def whole_state(accelerator: Any, model: Any) -> dict[str, Tensor]:
    """The model's state dict in whole tensors; under FSDP of use in the main process only. All processes must call
    this.
    """
    if accelerator.distributed_type.value == "FSDP" and not accelerator.is_fsdp2 and accelerator.device.type == "cpu":
        from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

        # Offloading, which accelerate asks for, is no copy here: torch then frees the memory under the tensors it
        # returns.
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, FullStateDictConfig()):
            return model.state_dict()
    return accelerator.get_state_dict(model)


def start_adam(optimizer: Any) -> None:
    """Fill Adam's state with what its first step would start from. torch does it for FSDP2 by a step with gradients of
    0 the first time the state is saved, after which every update counts one too many.
    """
    import torch

    for group in optimizer.param_groups:
        for weight in group["params"]:
            zeros = {
                name: torch.zeros_like(weight, memory_format=torch.preserve_format)
                for name in ("exp_avg", "exp_avg_sq")
            }
            optimizer.state[weight] = {"step": torch.tensor(0.0), **zeros}
