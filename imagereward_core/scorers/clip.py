"""CLIP ViT-L/14: the cosine of text and image features (transformers' CLIPModel)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import registry, weights
from ..clip_bpe import tokenize
from .base import Scorer, building
from .loading import Request, requested
from .memo import PromptMemo
from .towers.clip import HUB, build_clip, clip_config, clip_sizes, hub_state

if TYPE_CHECKING:
    from transformers import CLIPModel

__all__ = ["L14_PROJECTION", "ClipScorer", "build_clip", "clip_config", "load_clip", "load_clip_net"]

L14_PROJECTION = 768
L14_ACT = "quick_gelu"


class ClipScorer(Scorer):
    """Cosine in [-1, 1]. Text goes up to CLIP's own 77 tokens."""

    net: CLIPModel
    prompts_kept = 4096

    def __init__(self, net: nn.Module, info: registry.ModelInfo, device: torch.device, **sizes: int):
        super().__init__(net, info, device, **sizes)
        self.memo = PromptMemo(self.prompts_kept)

    def encode_images(self, pixels: Tensor) -> Tensor:
        pooled = self.net.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.net.visual_projection(pooled).float(), dim=-1)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """input_ids [B, T] as the reference's tokeniser gives them."""
        return tokenize(prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Normalised text features [B, D]."""
        pooled = self.net.text_model(input_ids=self.tokenize(prompts).to(self.device)).pooler_output
        return F.normalize(self.net.text_projection(pooled).float(), dim=-1)

    def remembering_prompts(self) -> contextlib.AbstractContextManager[Any]:
        return self.memo.open()

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        (text,) = self.memo(prompts, lambda new: (self.encode_prompts(new),))
        return (text * images).sum(-1)


def has_towers(state: Mapping[str, Tensor]) -> bool:
    """Whether these names (as `hub_state` gives them) hold a whole CLIP model."""
    return HUB in state


def tower_net(state: dict[str, Tensor], config: Mapping[str, Any], act: str, request: Request, path: str) -> nn.Module:
    """CLIP's two towers holding `state`, any layout, as the request wants them."""
    state = hub_state(state)
    sizes = clip_sizes(state, config, act, path).config()
    net = build_clip(state, sizes, request.dtype, request.device, path)
    return request.finish(net, [net.vision_model, net.text_model])


def load_clip_net(request: Request) -> Any:
    """CLIP ViT-L/14 as the backbone of another scorer's head; once per pool."""
    path = request.backbone_path(registry.CLIP_L14)

    def build() -> Any:
        state, metadata = weights.read_state(path)
        net = tower_net(state, request.config, L14_ACT, request, path)
        weights.keep_converted(path, state, metadata)
        return net

    return request.pool.get((path, str(request.device), request.precision), build)


@building()
def load_clip(name: str = "CLIP", **options: Any) -> ClipScorer:
    """See `imagereward_core.load_score`."""
    request = requested(name, **options)
    if request.weights is None:
        net = load_clip_net(request)
    else:
        state, config, path = request.read()
        net = request.pool.get(
            (path, str(request.device), request.precision), lambda: tower_net(state, config, L14_ACT, request, path)
        )
    return ClipScorer(net, request.info, request.device, size=image_size(net))


def image_size(net: Any) -> int:
    """Pixels of a side of the images the vision tower takes."""
    return int(net.config.vision_config.image_size)
