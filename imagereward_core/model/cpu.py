"""Faster linear layers for scoring on a CPU in fp32: oneDNN's kernel in place of the BLAS library's, 13 % more images
per second where it was measured (benchmarks/speed.py). The weights stay where they are, memory-mapped or not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneDnnLinear(nn.Linear):
    """nn.Linear by oneDNN where no gradient is asked for, on fp32 CPU tensors; exactly nn.Linear everywhere else."""

    def forward(self, input: Tensor) -> Tensor:
        plain = (
            input.dtype is torch.float32
            and self.weight.dtype is torch.float32
            and input.device.type == "cpu" == self.weight.device.type
        )
        if not plain or torch.is_grad_enabled() or torch.is_autocast_enabled():
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")


def use_onednn(part: nn.Module) -> bool:
    """Switch the linear layers inside `part` to oneDNN; False, and nothing changed, where this torch lacks it."""
    try:
        with torch.no_grad():
            probe, weight = torch.ones(1, 2, 3), torch.ones(4, 3)
            if torch.ops.mkldnn._linear_pointwise(probe, weight, weight[:, 0].clone(), "none", [], "").tolist() != [
                [[4.0] * 4] * 2
            ]:
                return False
    except (AttributeError, RuntimeError, TypeError):  # not an interface torch promises: probed, not assumed
        return False
    for module in part.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return True
