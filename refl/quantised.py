"""The base network in 8 bit (LLM.int8(), Dettmers et al. 2022) or in nf4 (QLoRA, Dettmers et al. 2023), under a LoRA.

Which layers that is, and how many bytes they then take, is said here alone: a run puts bitsandbytes' layers in their
place (`quantise`), the memory estimate hollow ones of the same size that need the same room (`hollow`).
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints.modules import numbers
from .errors import MissingDependency
from .imports import fetching_nothing

OLDEST = "0.46"  # the first bitsandbytes with 8 bit and nf4 on the CPU too, where a paused run waits
OUTLIER = 6.0  # LLM.int8(): columns of the input with larger values are multiplied in half precision
BLOCK, BLOCKS = 64, 256  # nf4: weights that share a scale of one byte; scales that share one of fp32
TABLES = 4 * (16 + 256 + 1)  # nf4: its values, those of the scales, and the scales' mean, in fp32


def bitsandbytes(what: str, oldest: str = "0") -> Any:
    """The library, or MissingDependency. what: the setting that needs it."""
    wanted = f"{what} needs the library bitsandbytes" + (f" {oldest} or newer" if oldest != "0" else "")
    advice = f"install it for the training process: pip install --no-deps 'bitsandbytes>={max(oldest, OLDEST)}'"
    try:
        with fetching_nothing():
            import bitsandbytes as library
    except (ImportError, RuntimeError, OSError) as error:  # old ones end so where they find no CUDA
        raise MissingDependency(f"{wanted}, which cannot be imported ({error}): {advice}") from error
    if numbers(library.__version__) < numbers(oldest):
        raise MissingDependency(f"{wanted}, here {library.__version__}: {advice}")
    return library


def check(form: str) -> None:
    """MissingDependency where a base of this form (a choice of the setting base_precision) cannot be had."""
    if form != "auto":
        bitsandbytes(f"base_precision {form}", OLDEST)


def layers(net: nn.Module) -> dict[str, nn.Linear]:
    """Name → layer, of those that are quantised: the linear ones inside a network's blocks. What stands before and
    after them (embeddings of time, text and picture, the last projection) is small and stays as it is, as do
    convolutions, norms and adapters.
    """
    blocks = tuple(f"{name}." for name, part in net.named_modules() if isinstance(part, nn.ModuleList))
    linear = {name: part for name, part in net.named_modules() if isinstance(part, nn.Linear)}
    return {name: part for name, part in linear.items() if name.startswith(blocks) and ".lora_" not in name}


def stored_bytes(form: str, weights: int, rows: int) -> int:
    """What a layer's matrix of that many numbers takes in memory, its scales included."""
    if form == "int8":
        return weights + 4 * rows
    scales = -(-weights // BLOCK)
    return -(-weights // 2) + scales + 4 * -(-scales // BLOCKS) + TABLES


def is_quantised(net: nn.Module) -> bool:
    """Whether some of a network's weights are."""
    return any(not parameter.is_floating_point() for parameter in net.parameters())


def quantise(net: nn.Module, form: str, dtype: torch.dtype, device: torch.device) -> None:
    """Put bitsandbytes' layers in the place of `layers(net)` and move them to the device, one after the other, so that
    it never holds the whole network unquantised. A network that is quantised already stays as it is.

    dtype: what nf4 is multiplied in; int8 follows its input, which it quantises too, but for the CPU with newer
    libraries (0.50 does not). MissingDependency without the library.
    """
    library = bitsandbytes(f"base_precision {form}", OLDEST)
    # it says at every product that the input is cast to fp16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    found = {} if is_quantised(net) else layers(net)
    for name, layer in found.items():
        fresh = _quantised(library, layer, form, dtype).to(device)
        _set(net, name, fresh)


def _quantised(library: Any, layer: nn.Linear, form: str, dtype: torch.dtype) -> nn.Module:
    size = {"input_features": layer.in_features, "output_features": layer.out_features, "bias": layer.bias is not None}
    weight = layer.weight.data.cpu()  # they are quantised as they leave the CPU, or are told to stay
    fresh: Any
    if form == "int8":
        fresh = library.nn.Linear8bitLt(**size, has_fp16_weights=False, threshold=OUTLIER, device="meta")
        fresh.weight = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        fresh = library.nn.Linear4bit(**size, compute_dtype=dtype, device="meta")
        kind = {"quant_type": "nf4", "compress_statistics": True, "blocksize": BLOCK}
        fresh.weight = library.nn.Params4bit(weight, requires_grad=False, module=fresh, **kind)
    fresh.bias = layer.bias
    return fresh.train()  # in evaluation mode a CPU packs the weights for products without gradient


def move(net: nn.Module, device: torch.device) -> None:
    """`net.to(device)`, which by itself would lose the scales of 8-bit layers that were used already."""
    library = sys.modules.get("bitsandbytes")
    eight = [part for part in net.modules() if library and isinstance(part, library.nn.Linear8bitLt)]
    scales = [part.state.SCB if part.weight.SCB is None else part.weight.SCB for part in eight]
    net.to(device)
    for part, scale in zip(eight, scales):
        assert library is not None
        values = part.weight.data
        part.weight = library.nn.Int8Params(
            values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scale.to(device)
        )
        part.state.reset_grads()


def hollow(net: nn.Module, form: str) -> None:
    """Put layers without numbers in the place of `layers(net)`, for the memory estimate."""
    for name, layer in layers(net).items():
        _set(net, name, Hollow(layer, form))


def _set(net: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, part)


class Hollow(nn.Linear):
    """A quantised layer of which only the room it needs is true: its stored bytes, and what its products on a GPU hold
    for the moment and for the backward pass.
    """

    def __init__(self, layer: nn.Linear, form: str):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        size = stored_bytes(form, layer.weight.numel(), layer.out_features)
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.bias = layer.bias
        self.form = form

    def forward(self, input: Tensor) -> Tensor:
        return _Product.apply(input, self.bias, self.out_features, self.form)


class _Product(torch.autograd.Function):
    """What MatMul4Bit and MatMul8bitLt of bitsandbytes allocate: nf4 is dequantised for the moment of a product; int8
    quantises its input, adds up in int32 and keeps the input, and is dequantised in the backward pass alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, rows: int, form: str) -> Tensor:
        ctx.rows, ctx.width = rows, x.shape[-1]
        if form == "nf4":
            return F.linear(x, x.new_empty(rows, x.shape[-1]), bias)
        ctx.save_for_backward(x)
        taken = x.half().to(torch.int8)
        whole = taken.new_empty(*x.shape[:-1], rows, dtype=torch.int32)
        return whole.half().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        return grad @ grad.new_empty(ctx.rows, ctx.width), None, None, None
