"""int8 for CPUs: every linear layer of the encoders with int8 weights (one scale per output channel) and activations
quantised per batch. The embeddings, norms, attention products and the reward head stay in fp32. No gradients."""

from __future__ import annotations

import warnings

import torch
from torch import nn


def quantize_encoders(net: nn.Module, encoders: nn.Module) -> nn.Module:
    """Quantise the linear layers inside `encoders`, a part of `net`, in place. Raises RuntimeError where torch cannot
    do it.
    """
    try:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
    except ImportError as error:
        raise RuntimeError(f"torch {torch.__version__} has no dynamic quantisation ({error})") from error
    with warnings.catch_warnings():  # torch announces a successor that no host ships
        warnings.simplefilter("ignore")
        quantize_dynamic(encoders, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
    return net
