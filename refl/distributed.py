"""One process or many: who am I, and what do all of us agree on.

accelerate starts the processes and chooses devices. Gradients are averaged once per update rather than by a
DistributedDataParallel wrapper: with LoRA they are a few megabytes, the no-grad prefix needs no hooks, and accumulation
needs no special case.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from imagereward_core import process_group

from .errors import ConfigError, MissingDependency
from .log import logger

BUCKET = 1 << 24  # numbers averaged in one message
# the other processes wait while the first one evaluates, exports or pauses; NCCL by itself gives up after 10 minutes
PATIENCE = timedelta(hours=6)


class Processes:
    """This process among `count`. With one process nothing is sent and accelerate is not needed."""

    def __init__(self, device: str = ""):
        self.rank, self.count = 0, 1
        self._accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator, InitProcessGroupKwargs
            except ImportError as error:
                raise MissingDependency(
                    f"training with several processes needs the library accelerate: {error}"
                ) from error
            self._accelerator = Accelerator(
                cpu=device == "cpu" or not torch.cuda.is_available(),
                kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
            )
            process_group.close_at_exit()
            self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
            self.device = self._accelerator.device
        else:
            if os.environ.get("ACCELERATE_USE_CPU") and "MASTER_PORT" in os.environ:
                logger.warning(
                    "accelerate launch --cpu starts several processes with MPI only, and has started one: `torchrun"
                    " --nproc_per_node 2 -m refl --config run.json` starts two"
                )
            self.device = pick_device(device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""
        if self.count == 1:
            return
        bucket: list[Tensor] = []
        for tensor in tensors:
            bucket.append(tensor)
            if sum(part.numel() for part in bucket) >= BUCKET:
                self._average(bucket)
                bucket = []
        if bucket:
            self._average(bucket)

    def _average(self, bucket: Sequence[Tensor]) -> None:
        flat = self._accelerator.reduce(torch.cat([part.flatten().float() for part in bucket]), reduction="mean")
        at = 0
        for part in bucket:
            part.copy_(flat[at : at + part.numel()].view_as(part))
            at += part.numel()

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes, in order of rank."""
        return tensor if self.count == 1 else self._accelerator.gather(tensor)

    def agree(self, value: Any) -> Any:
        """The main process's value, on every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]


def pick_device(name: str = "") -> torch.device:
    """The device asked for; by default the first GPU, else the CPU."""
    if name:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"device: {error}") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {name} was asked for, but torch sees no CUDA device")
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
