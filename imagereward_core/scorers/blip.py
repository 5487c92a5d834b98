"""BLIP-large's image-text contrast: the cosine of the two encoders' projected features (ImageReward's baseline)."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import Tensor

from .. import registry, weights
from ..config import ModelConfig
from .base import Scorer, building, pick_device, pick_dtype
from .imagereward import ImageRewardScorer, build

# Parts of BLIP's pre-training checkpoint that have no place here: momentum copies, queues, the captioner, the matching
# head.
UNUSED = re.compile(
    r"(visual_encoder|vision_proj|text_encoder|text_proj)_m\.|text_decoder\.|itm_head\.|(image|text|ptr)_queue$|queue_ptr$|temp$"
)


class BlipScorer(ImageRewardScorer):
    """The same two encoders as ImageReward's, read without cross-attention."""

    def from_tokens(self, input_ids: Tensor, attention_mask: Tensor, images: Tensor) -> Tensor:
        return self.net.contrast(input_ids, attention_mask, images)


@building()
def load_blip(
    name: str = "BLIP",
    *,
    device: Any = None,
    download_root: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    models_dir: str | os.PathLike[str] | None = None,
) -> Scorer:
    """See `imagereward_core.load_score`."""
    device = pick_device(device)
    info = registry.get(str(name))
    half = pick_dtype(precision, device) is not torch.float32
    path = os.fspath(weights.locate(info.sources[0], download_root=download_root, models_dir=models_dir, half=half))
    state, metadata = weights.read_state(path)
    scorer = from_state(state, info, device, precision, path)
    weights.keep_converted(path, state, metadata)
    return scorer


def from_state(
    state: dict[str, Tensor], info: registry.ModelInfo, device: Any, precision: str, path: str
) -> BlipScorer:
    """A scorer from BLIP's own key names (`visual_encoder.…`); the reward head stays empty and is never asked."""
    device = pick_device(device)
    config = ModelConfig()
    state = {f"blip.{key}": tensor for key, tensor in state.items() if not UNUSED.match(key)}
    width = config.text.width
    for index, (inner, outer) in zip((0, 2, 4, 6, 7), zip((width, *config.head), (*config.head, 1))):
        state[f"mlp.layers.{index}.weight"] = torch.zeros(outer, inner)
        state[f"mlp.layers.{index}.bias"] = torch.zeros(outer)
    net = build(state, config, pick_dtype(precision, device), device, path)
    return BlipScorer(net, info, device, size=config.vision.image_size)
