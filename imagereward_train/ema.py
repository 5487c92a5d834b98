"""Exponential moving average of the trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


class Ema:
    """shadow ← d·shadow + (1−d)·weight after every update, d = min(decay, (1+n)/(10+n)) so that the start is
    forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.shadow = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in self.weights.items():
            self.shadow[name].lerp_(weight, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside, and its own again afterwards."""
        own = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._set(self.shadow)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    def save(self, path: Path) -> None:
        """Write the average as safetensors: accelerate would pickle it, and unpickle it without a check."""
        from safetensors.torch import save_file

        save_file({name: value.cpu() for name, value in self.shadow.items()}, str(path), {"updates": str(self.updates)})

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            self.updates = int(file.metadata()["updates"])
            for name, value in self.shadow.items():
                value.copy_(file.get_tensor(name))
