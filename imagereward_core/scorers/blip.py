"""BLIP-large's image-text contrast: the cosine of the two encoders' projected features (ImageReward's baseline)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import registry, weights
from ..config import ModelConfig
from .base import Scorer, building, pick_device, pick_dtype
from .blip_sizes import sizes_of
from .imagereward import ImageRewardScorer, as_asked, build
from .loading import requested

# Parts of BLIP's pre-training checkpoint that have no place here: momentum copies, queues, the captioner, the matching
# head.
UNUSED = re.compile(
    r"(visual_encoder|vision_proj|text_encoder|text_proj)_m\."
    r"|text_decoder\.|itm_head\.|(image|text|ptr)_queue$|queue_ptr$|temp$"
)


class BlipScorer(ImageRewardScorer):
    """The same two encoders as ImageReward's, read without cross-attention."""

    with_embeddings = Scorer.with_embeddings  # there is no fusion token

    def from_tokens(self, input_ids: Tensor, attention_mask: Tensor, images: Tensor) -> Tensor:
        return self.net.contrast(input_ids, attention_mask, images)


@building()
def load_blip(name: str = "BLIP", **options: Any) -> Scorer:
    """See `imagereward_core.load_score`."""
    request = requested(name, **options)
    path = request.path()
    state, metadata = weights.read_state(path)
    scorer = from_state(state, request.info, request.device, request.precision, path, request.config)
    weights.keep_converted(path, state, metadata)
    return scorer


def from_state(
    state: dict[str, Tensor],
    info: registry.ModelInfo,
    device: Any,
    precision: str,
    path: str,
    config: Mapping[str, Any] | None = None,
) -> BlipScorer:
    """A scorer from BLIP's own key names (`visual_encoder.…`); the reward head stays empty and is never asked."""
    device = pick_device(device)
    state = {f"blip.{key}": tensor for key, tensor in state.items() if not UNUSED.match(key)}
    sizes = sizes_of(state, config or {}, ModelConfig(), path)
    widths = (sizes.text.width, *sizes.head, 1)
    for index, (inner, outer) in zip((0, 2, 4, 6, 7), zip(widths, widths[1:])):
        state[f"mlp.layers.{index}.weight"] = torch.zeros(outer, inner)
        state[f"mlp.layers.{index}.bias"] = torch.zeros(outer)
    dtype = pick_dtype("fp32" if precision == "int8" else precision, device)
    net = build(state, sizes, dtype, device, path)
    if precision == "int8":
        net = as_asked(net, device, precision)
    return BlipScorer(net, info, device, size=sizes.vision.image_size)
