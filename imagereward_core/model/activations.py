"""Activations that overwrite what they are given where no gradient is asked for.

Between the two linear layers of a transformer lies the largest tensor of its forward, four times as wide as the tokens,
and nobody but the activation reads it: written into a second one of that size, the two are the peak of the forward.
Values are those of the plain functions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUICK = 1.702  # x · σ(1.702 x), OpenAI's stand-in for GELU
DEVICES = ("cpu", "cuda")  # others' backends (DirectML and the like) may lack an operation's form in place


def _is_kept(x: Tensor) -> bool:
    """Whether a tensor must stay as it is."""
    return torch.is_grad_enabled() or x.device.type not in DEVICES


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU of a tensor that the caller does not use again."""
    if _is_kept(x):
        return F.gelu(x, approximate=approximate)
    return torch.ops.aten.gelu_(x, approximate=approximate)


def quick_gelu(x: Tensor) -> Tensor:
    """x · σ(1.702 x) of a tensor that the caller does not use again."""
    if _is_kept(x):
        return x * torch.sigmoid(QUICK * x)
    return x.mul_(torch.mul(x, QUICK).sigmoid_())


class Gelu(nn.Module):
    """`gelu` as a layer."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x, self.approximate)


class QuickGelu(nn.Module):
    """`quick_gelu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return quick_gelu(x)


def in_place(name: str) -> nn.Module | None:
    """The layer for the activation that transformers calls so; None for one that has none here."""
    if name == "gelu":
        return Gelu()
    if name == "gelu_pytorch_tanh":
        return Gelu("tanh")
    return QuickGelu() if name == "quick_gelu" else None


def use_in_place(tower: nn.Module, attribute: str, name: str) -> None:
    """Give the feed-forward layers inside `tower` the activation `name` in place: they are the modules that hold it
    between linear layers `fc1` and `fc2`, as transformers' (`activation_fn`) and timm's (`act`) do.
    """
    for module in tower.modules():
        if hasattr(module, attribute) and hasattr(module, "fc1") and hasattr(module, "fc2"):
            layer = in_place(name)
            if layer is not None:
                setattr(module, attribute, layer)
