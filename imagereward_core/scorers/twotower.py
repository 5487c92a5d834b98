"""CLIP-H/14 preference models: the cosine of two tuned towers. PickScore and HPSv2.1 share this code, not weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip_bpe import END, tokenize
from ..preprocess import normalize, resize_and_crop, tensor_to_pixels, to_rgb, unit_pixels
from .clip import ClipScorer


class TwoTowerScorer(ClipScorer):
    """Cosine of the towers' projections; the towers in the precision asked for, what follows them in the widest.

    A cosine times 100 would show the rounding of fp32 in the digits that are compared with the reference.
    """

    def encode_images(self, pixels: Tensor) -> Tensor:
        return unit(self.net.vision_model(pixel_values=pixels).pooler_output, self.net.visual_projection)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        pooled = self.net.text_model(input_ids=self.tokenize(prompts).to(self.device)).pooler_output
        return unit(pooled, self.net.text_projection)


def exact(features: Tensor) -> torch.dtype:
    """The dtype of what follows a tower: fp32, and fp64 behind an fp32 tower on the CPU, where it costs little."""
    return torch.float64 if features.device.type == "cpu" and features.dtype is torch.float32 else torch.float32


def projected(features: Tensor, projection: nn.Linear) -> Tensor:
    """Features [..., W] → [..., D], in `exact` precision."""
    wide = exact(features)
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features.to(wide), projection.weight.to(wide))


def unit(features: Tensor, projection: nn.Linear) -> Tensor:
    """Features [..., W] projected and normalised [..., D], in `exact` precision."""
    return F.normalize(projected(features, projection), dim=-1)


class HubInputs:
    """Images and text as transformers' CLIPProcessor gives them: RGB first, then the shorter side, then the centre."""

    size: int
    dtype: torch.dtype
    device: torch.device

    def pixels_from_image(self, image: Any) -> Tensor:
        """A PIL image of any mode → [3, S, S]."""
        return normalize(unit_pixels(resize_and_crop(to_rgb(image), self.size, math.floor)))

    def pixels_from_tensor(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] → the network's pixels, differentiable."""
        return tensor_to_pixels(images.to(self.device), self.size, math.floor).to(self.dtype)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """input_ids [B, T]; shorter prompts are filled with the end token."""
        return tokenize(prompts, as_hub=True, pad=END)
