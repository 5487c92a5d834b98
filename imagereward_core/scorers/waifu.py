"""waifu-scorer v3: a perceptron with ReLU and batch normalisation on CLIP ViT-L/14's normalised image features, trained
on anime pictures. It never reads the prompt.

Written from the layout of the authors' head (Eugeoter/waifu-scorer-v3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import weights
from ..errors import WeightsError
from .base import building
from .clip import L14_ACT
from .heads import HeadScorer, with_backbone
from .loading import requested

LINEAR = (
    0,
    4,
    8,
    12,
    16,
    18,
)  # places of the linear layers; each of the first four has ReLU, norm and dropout after it
DROPOUT = (0.3, 0.3, 0.2, 0.1)
LOW, HIGH = 0.0, 10.0


class WaifuHead(nn.Module):
    """Features [B, D] → [B, 1], not yet limited to 0 … 10. `sizes`: the widths from the features to the last layer's
    input.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inner, outer) in enumerate(zip(sizes, sizes[1:])):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
            if index < len(DROPOUT):
                layers += [nn.BatchNorm1d(outer), nn.Dropout(DROPOUT[index])]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class WaifuScorer(HeadScorer):
    """0 (poor) to 10 (excellent). The norm uses its stored statistics, so a score does not depend on the batch."""

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        return super().combine(prompts, images).clamp(LOW, HIGH)


@building()
def build_head(state: dict[str, Tensor], device: torch.device, path: str) -> WaifuHead:
    """The head with its weights, fp32; its widths are those of the file."""
    try:
        sizes = [state[f"layers.{index}.weight"].shape[1] for index in LINEAR]
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path} is no head of waifu-scorer v3: {error} is missing") from error
    head = WaifuHead(sizes)
    counters = [key for key in head.state_dict() if key.endswith("num_batches_tracked")]
    state = weights.checked(state, head, counters, path)
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    for key in counters:
        state.setdefault(key, torch.tensor(0))
    head.load_state_dict(state, strict=True)
    return head.to(device).eval().requires_grad_(False)


@building()
def load_waifu(name: str = "waifu-scorer v3", **options: Any) -> WaifuScorer:
    """See `imagereward_core.load_score`. `weights` is the head, or one file of head and CLIP model."""
    request = requested(name, **options)
    net, head, size = with_backbone(request, L14_ACT, build_head)
    return WaifuScorer(net, head, request.info, request.device, size=size)
