"""The dropout the published model was trained with; scoring has none, so it lives here and not in the network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagereward_core.model import RewardModel
from imagereward_core.model.text import Output, SelfAttention

TEXT = 0.1  # BERT's, of hidden states and of attention probabilities
DROP_PATH = 0.1  # at the last vision block, growing linearly from 0 at the first (Huang et al. 2016)


def apply_dropout(net: RewardModel, factor: float = 1.0) -> None:
    """Give `net` the published rates times `factor`, active in training mode only; 0 removes the head's own as well."""
    for module in net.mlp.modules():
        if isinstance(module, nn.Dropout):
            module.p = min(1.0, module.p * factor)
    if not factor:
        return
    rate = min(1.0, TEXT * factor)
    net.blip.text_encoder.embeddings.LayerNorm.register_forward_hook(_dropout(rate))
    for module in net.blip.text_encoder.modules():
        if isinstance(module, SelfAttention):
            module.dropout = rate
        elif isinstance(module, Output):
            module.dense.register_forward_hook(_dropout(rate))
    blocks: Any = net.blip.visual_encoder.blocks
    for index, block in enumerate(blocks):
        rate = min(1.0, DROP_PATH * factor * index / max(1, len(blocks) - 1))
        if rate:
            block.attn.register_forward_hook(_drop_path(rate))
            block.mlp.register_forward_hook(_drop_path(rate))


def _dropout(rate: float) -> Any:
    return lambda module, inputs, output: F.dropout(output, rate, module.training)


def _drop_path(rate: float) -> Any:
    """Drop a block's whole branch for some samples, and scale it up for the others."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training or rate >= 1:
            return output
        keep = torch.rand(len(output), *([1] * (output.dim() - 1)), device=output.device) >= rate
        return output * keep.to(output.dtype) / (1 - rate)

    return hook
