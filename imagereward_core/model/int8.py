"""A linear layer in int8 by oneDNN's kernel, that multiplies eight-bit activations and applies GELU in one pass."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """nn.Linear with int8 weights, one scale per output channel, and activations of eight bits, one scale per call.

    fp32 [..., in] → fp32 [..., out]. The weights lie in oneDNN's own order and cannot be read back: in the state is
    their sha256, so that other weights are another state.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * 127) / 127
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        digest = hashlib.sha256(rounded.numpy().tobytes()).digest()
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int64), persistent=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())
        self.register_buffer("weight_sha256", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, "none")

    def with_gelu(self, x: Tensor) -> Tensor:
        """An exact GELU behind the layer."""
        return self.linear(x, "gelu")

    def linear(self, x: Tensor, after: str) -> Tensor:
        """x W^T + b and what comes `after`, oneDNN's name of it."""
        x = x.contiguous()
        low, high = min(float(x.amin()), 0.0), max(float(x.amax()), 0.0)
        step = (high - low) / 255 or 1.0
        zero = round(-low / step)
        # quantised tensors are on their way out of torch; their bytes are what is wanted, `int_repr` would copy them
        stored = torch.quantize_per_tensor(x, step, zero, torch.quint8).untyped_storage()
        codes = torch.empty(0, dtype=torch.uint8).set_(stored, 0, x.shape, x.stride())
        return torch.ops.onednn.qlinear_pointwise(
            codes, step, zero, self.packed, self.scale, self.zero, self.bias, 1.0, 0, torch.float32, after, [], "none"
        )


def exact() -> bool:
    """Whether this torch has the kernel and this processor sums its products without overflow: before VNNI, pairs of
    them were summed in 16 bits. Not an interface that torch promises: probed, not assumed.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of quantised tensors; torch says it once, and here it is heard
            layer = nn.Linear(256, 64)
            layer.weight.fill_(1.0)
            layer.bias.fill_(-254.0)
            x = torch.ones(32, 256)
            x[:, 0] = 0  # the range is 0 to 1: ones become 255, the largest activation, and meet the largest weight
            found, product = Int8Linear(layer), torch.ones(32, 64)
            return torch.allclose(found(x), product, atol=0.01) and torch.allclose(
                found.with_gelu(x), nn.functional.gelu(product), atol=0.01
            )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
