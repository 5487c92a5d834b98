"""Scorers that are a small head on image features; those on CLIP ViT-L/14's share one backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .. import registry, weights
from .base import Scorer
from .clip import ClipScorer, has_towers, image_size, load_clip_net, tower_net
from .loading import Request
from .towers.clip import hub_state

TOWERS = ("text_model.", "vision_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
HeadBuilder = Callable[[dict[str, Tensor], torch.device, str], nn.Module]


class WithHead(Scorer):
    """A head on a tower's normalised image features; it never reads the prompt. The head stays fp32."""

    def __init__(self, net: nn.Module, head: nn.Module, info: registry.ModelInfo, device: torch.device, **sizes: int):
        super().__init__(net, info, device, **sizes)
        self.head = head

    def parts(self) -> dict[str, nn.Module]:
        return {"": self.net, "head": self.head}

    def heads(self) -> list[nn.Module]:
        return [self.head]

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            scores = self.head(images)[:, 0]  # images are normalised features [B, D], fp32
        return scores.expand(len(prompts)) if len(scores) == 1 else scores


class HeadScorer(WithHead, ClipScorer):
    """On CLIP ViT-L/14's."""


def with_backbone(request: Request, act: str, build_head: HeadBuilder) -> tuple[nn.Module, nn.Module, int]:
    """(backbone, head, image size) of a scorer whose file holds the head, or the backbone as well."""
    path = request.path()
    state, metadata = weights.read_state(path)
    named = hub_state(state)
    head = build_head({key: value for key, value in named.items() if not key.startswith(TOWERS)}, request.device, path)
    if has_towers(named):
        towers = {key: value for key, value in named.items() if key.startswith(TOWERS)}
        net = tower_net(towers, request.config, act, request, path)
    else:
        net = load_clip_net(request)
    weights.keep_converted(path, state, metadata)
    return net, head, image_size(net)
