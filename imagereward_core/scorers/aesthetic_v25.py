"""Aesthetic predictor v2.5: a linear head on SigLIP so400m's image feature at 384 × 384 pixels. It never reads the
prompt.

Own code: the published predictor's licence is AGPL-3.0, and nothing of it is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import weights
from ..errors import WeightsError
from ..preprocess import check_batch, to_rgb, unit_pixels
from .base import building
from .heads import WithHead
from .loading import Request, requested, section, without_prefix
from .towers.siglip import PREFIX, PROBE, VisionTower, build_siglip, siglip_sizes

LINEAR = (0, 2, 4, 6, 8)
BACKBONE = (PREFIX, "text_model.", "logit_scale", "logit_bias")  # SigLIP's own names, text tower included
MIDDLE = 0.5  # both the mean and the standard deviation of the pixels


class AestheticHead(nn.Module):
    """Linear layers with nothing between them that scoring would see; named as in the published file."""

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        layers: dict[str, nn.Module] = {}
        for index, inner, outer in zip(LINEAR, sizes, (*sizes[1:], 1)):
            layers[str(index)] = nn.Linear(inner, outer)
        self.scoring_head = nn.ModuleDict(layers)

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.scoring_head.values():
            features = layer(features)
        return features


class AestheticV25Scorer(WithHead):
    """About 1 (poor) to 10 (excellent); above 5.5 is good, its authors say."""

    net: VisionTower

    def encode_images(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.net(pixels).float(), dim=-1)

    def pixels_from_image(self, image: Any) -> Tensor:
        from PIL import Image

        square = to_rgb(image).resize((self.size, self.size), Image.Resampling.BICUBIC)  # whatever its aspect
        return (unit_pixels(square) - MIDDLE) / MIDDLE

    def pixels_from_tensor(self, images: Tensor) -> Tensor:
        images = check_batch(images.to(self.device))
        for step in ((images.shape[-2], self.size), (self.size, self.size)):  # as Pillow: along x, then along y
            images = F.interpolate(images, step, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return ((images - MIDDLE) / MIDDLE).to(self.dtype)


@building()
def build_head(state: dict[str, Tensor], device: torch.device, path: str) -> AestheticHead:
    """The head with its weights, fp32; its widths are those of the file."""
    state = without_prefix(state, ("scoring_head.0.weight",))
    try:
        sizes = [state[f"scoring_head.{index}.weight"].shape[1] for index in LINEAR]
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path} is no head of Aesthetic v2.5: {error} is missing") from error
    head = AestheticHead(sizes)
    state = weights.checked(state, head, (), path)
    head.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True)
    return head.to(device).eval().requires_grad_(False)


def tower_of(state: dict[str, Tensor], request: Request, path: str) -> VisionTower:
    """The backbone from a file of SigLIP, text tower or none."""
    vision = {key: tensor for key, tensor in state.items() if key.startswith(PREFIX)}
    sizes = siglip_sizes(vision, section(request.config, "vision", "vision_config"), path)
    tower = build_siglip(vision, sizes, request.dtype, request.device, path)
    return request.finish(tower, [tower.net])


@building()
def load_aesthetic_v25(name: str = "Aesthetic v2.5", **options: Any) -> AestheticV25Scorer:
    """See `imagereward_core.load_score`. `weights` is the head, or one file of head and backbone."""
    request = requested(name, **options)
    path = request.path()
    state, metadata = weights.read_state(path)
    named = without_prefix(state, (PROBE,))
    own = {key: value for key, value in named.items() if not key.startswith(BACKBONE)}
    head = build_head(own, request.device, path)
    if PROBE in named:
        net = tower_of(named, request, path)
    else:
        source = request.backbone_path(request.info.sources[1])
        build = functools.partial(_backbone, source, request)
        net = request.pool.get((source, str(request.device), request.precision), build)
    weights.keep_converted(path, state, metadata)
    return AestheticV25Scorer(net, head, request.info, request.device, size=net.image_size)


def _backbone(path: str, request: Request) -> VisionTower:
    return tower_of(without_prefix(weights.read_state(path)[0], (PROBE,)), request, path)
