"""int8 for CPUs: every linear layer of the encoders with int8 weights (one scale per output channel) and activations
quantised per batch, attention products in bf16 where the processor has them. The embeddings, norms and the reward head
stay in fp32. No gradients.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from .int8 import Int8Linear, exact
from .vision import Attention, Bf16Attention


def quantize_encoders(net: nn.Module, encoders: nn.Module) -> nn.Module:
    """Quantise the linear layers inside `encoders`, a part of `net`, in place: with eight-bit activations where that is
    exact here, else by torch's own dynamic quantisation, which makes them seven. Raises RuntimeError where torch
    cannot do it.
    """
    if exact():
        for module in list(encoders.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, Int8Linear(child))
    else:
        _by_torch(encoders)
    if fast_bf16():
        for module in encoders.modules():
            if type(module) is Attention:
                module.__class__ = Bf16Attention
    return net


def _by_torch(part: nn.Module) -> None:
    try:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
    except ImportError as error:
        raise RuntimeError(f"torch {torch.__version__} has no dynamic quantisation ({error})") from error
    with warnings.catch_warnings():  # torch announces a successor that no host ships
        warnings.simplefilter("ignore")
        quantize_dynamic(part, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)


def is_quantized(net: nn.Module) -> bool:
    """Whether any layer of it is int8."""
    return any(isinstance(part, Int8Linear) or type(part).__module__.startswith("torch.ao") for part in net.modules())


def fast_bf16() -> bool:
    """Whether this processor multiplies bf16 itself. False where torch cannot tell."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
