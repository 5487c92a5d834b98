"""Faster linear layers for scoring on a CPU in fp32: oneDNN's kernel in place of the BLAS library's, 13 % more images
per second where it was measured (benchmarks/speed.py). The weights stay where they are, memory-mapped or not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import gelu
from .int8 import Int8Linear


class OneDnnLinear(nn.Linear):
    """nn.Linear by oneDNN where no gradient is asked for, on fp32 CPU tensors; exactly nn.Linear everywhere else."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.plain(input):
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")

    def plain(self, input: Tensor) -> bool:
        """Whether oneDNN may compute this."""
        return (
            input.dtype is torch.float32
            and self.weight.dtype is torch.float32
            and input.device.type == "cpu" == self.weight.device.type
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled()
        )


def gelu_after(layer: nn.Module, x: Tensor) -> Tensor:
    """gelu(layer(x)), exact. oneDNN applies it while the product is in the cache, so that it costs next to nothing."""
    if isinstance(layer, Int8Linear):
        return layer.with_gelu(x)
    if isinstance(layer, OneDnnLinear) and layer.plain(x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "none")
    return gelu(layer(x))


def use_onednn(part: nn.Module) -> bool:
    """Switch the linear layers inside `part` to oneDNN; False, and nothing changed, where this torch lacks it."""
    try:
        with torch.no_grad():
            probe, layer = torch.ones(1, 2, 3), OneDnnLinear(3, 4)
            nn.init.constant_(layer.weight, -1.0)
            nn.init.constant_(layer.bias, 2.0)
            found = torch.stack((layer(probe), gelu_after(layer, probe)))
            if not torch.allclose(found[0], torch.tensor(-1.0)) or not torch.allclose(found[1], F.gelu(found[0])):
                return False
    except (AttributeError, RuntimeError, TypeError):  # not an interface torch promises: probed, not assumed
        return False
    for module in part.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return True
