"""HPSv2.1 (Wu et al. 2023): the cosine of CLIP-H/14 tuned on HPDv2. The whole image is seen: its longer side fills the
square, black stands beside or above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .. import weights
from ..clip_bpe import tokenize
from ..preprocess import check_batch, normalize, to_rgb, unit_pixels
from .base import building
from .clip import image_size, tower_net
from .loading import requested
from .twotower import TwoTowerScorer

ACT = "gelu"


class HpsScorer(TwoTowerScorer):
    """About 0.2 (poor) to 0.33 (good) on the published weights.

    `settings["antialias"]`: the reference's resize of a tensor smooths with torchvision 0.17 and later, which is the
    default here, and did not when its figures were published.
    """

    def letterbox(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] → normalised [B, 3, S, S]; black (before normalising) around the image."""
        images = check_batch(images)
        height, width = images.shape[-2:]
        scale = self.size / max(height, width)
        target = (max(round(height * scale), 1), max(round(width * scale), 1))
        if target != (height, width):
            antialias = bool(self.settings["antialias"])
            images = F.interpolate(images, target, mode="bicubic", align_corners=False, antialias=antialias)
        above, left = (self.size - target[0]) // 2, (self.size - target[1]) // 2
        images = F.pad(images, (left, self.size - target[1] - left, above, self.size - target[0] - above))
        return normalize(images)

    def pixels_from_image(self, image: Any) -> Tensor:
        return self.letterbox(unit_pixels(to_rgb(image))[None])[0]

    def pixels_from_tensor(self, images: Tensor) -> Tensor:
        return self.letterbox(images.to(self.device)).to(self.dtype)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return tokenize(prompts, pad_to_max=True)


@building()
def load_hpsv2(name: str = "HPSv2.1", **options: Any) -> HpsScorer:
    """See `imagereward_core.load_score`. `config`: open_clip's sizes, and `antialias`."""
    request = requested(name, **options)
    state, config, path = request.read()
    net = tower_net(state, config, ACT, request, path)
    weights.keep_converted(path, state, {})
    scorer = HpsScorer(net, request.info, request.device, size=image_size(net))
    scorer.settings = request.settings(config)
    return scorer
