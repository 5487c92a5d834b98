"""LAION's aesthetic predictor: a linear head on CLIP ViT-L/14's normalised image features. It never reads the
prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..errors import WeightsError
from ..model.reward import RewardHead
from .base import building
from .clip import L14_ACT
from .heads import HeadScorer, with_backbone
from .loading import requested


class AestheticScorer(HeadScorer):
    """About 1 (poor) to 10 (excellent)."""


@building()
def build_head(state: dict[str, Tensor], device: torch.device, path: str) -> RewardHead:
    """The head with its weights, fp32; its widths are those of the file."""
    try:
        inner = [state[f"layers.{index}.weight"].shape[1] for index in (0, 2, 4, 6, 7)]
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path} is no aesthetic head: {error} is missing") from error
    head = RewardHead(inner[0], tuple(inner[1:]))
    state = weights.checked(state, head, (), path)
    head.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True)
    return head.to(device).eval().requires_grad_(False)


@building()
def load_aesthetic(name: str = "Aesthetic", **options: Any) -> AestheticScorer:
    """See `imagereward_core.load_score`. `weights` is the head, or one file of head and CLIP model."""
    request = requested(name, **options)
    net, head, size = with_backbone(request, L14_ACT, build_head)
    return AestheticScorer(net, head, request.info, request.device, size=size)
