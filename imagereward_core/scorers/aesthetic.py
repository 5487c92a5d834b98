"""LAION's aesthetic predictor: a linear head on CLIP ViT-L/14's normalised image features. It never reads the
prompt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry, weights
from ..model.reward import RewardHead
from .base import building, pick_device
from .clip import L14_PROJECTION, ClipScorer, load_clip_net

HIDDEN = (1024, 128, 64, 16)


class AestheticScorer(ClipScorer):
    """About 1 (poor) to 10 (excellent)."""

    def __init__(self, net: nn.Module, head: RewardHead, info: registry.ModelInfo, device: torch.device):
        super().__init__(net, info, device)
        self.head = head

    def to(self, device: Any) -> AestheticScorer:
        super().to(device)
        self.head.to(self.device)
        return self

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        scores = self.head(images)[:, 0]  # images are normalised features [B, D], fp32
        return scores.expand(len(prompts)) if len(scores) == 1 else scores


@building()
def build_head(state: dict[str, Tensor], device: torch.device, path: str) -> RewardHead:
    """The head with its weights, fp32."""
    head = RewardHead(L14_PROJECTION, HIDDEN)
    head.load_state_dict(weights.checked(state, head, (), path), strict=True)
    return head.to(device).eval().requires_grad_(False)


@building()
def load_aesthetic(
    name: str = "Aesthetic",
    *,
    device: Any = None,
    download_root: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    models_dir: str | os.PathLike[str] | None = None,
) -> AestheticScorer:
    """See `imagereward_core.load_score`."""
    device = pick_device(device)
    info = registry.get(str(name))
    head_source, clip_source = info.sources
    path = os.fspath(weights.locate(head_source, download_root=download_root, models_dir=models_dir))
    state, metadata = weights.read_state(path)
    head = build_head(state, device, path)
    weights.keep_converted(path, state, metadata)
    net = load_clip_net(clip_source, device, precision, download_root, models_dir)
    return AestheticScorer(net, head, info, device)
