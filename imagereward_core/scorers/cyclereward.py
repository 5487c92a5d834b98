"""CycleReward (Bahng et al. 2025): ImageReward's network with GELU in its head, 128 tokens and no standardisation,
trained on cycle consistency instead of human labels.
"""

from __future__ import annotations

from typing import Any

from .. import weights
from ..config import ModelConfig
from .base import building
from .blip_sizes import sizes_of
from .imagereward import ImageRewardScorer, as_asked, build
from .loading import requested, without_prefix

PUBLISHED = ModelConfig(head_activation="gelu", mean=0.0, std=1.0, max_tokens=128)
ANCHORS = ("blip.visual_encoder.cls_token",)


class CycleRewardScorer(ImageRewardScorer):
    """Higher is better; the published numbers are of no fixed scale."""


@building()
def load_cyclereward(name: str = "CycleReward", **options: Any) -> CycleRewardScorer:
    """See `imagereward_core.load_score`. `config`: `vision`, `text`, `max_tokens`, `mean`, `std`."""
    request = requested(name, **options)
    path = request.path()
    state, metadata = weights.read_state(path)
    named = without_prefix(state, ANCHORS)
    config = sizes_of(named, request.config, PUBLISHED, path)
    net = build(named, config, request.dtype, request.device, path)
    weights.keep_converted(path, state, metadata)
    net = as_asked(net, request.device, request.precision)
    return CycleRewardScorer(net, request.info, request.device, size=config.vision.image_size)
