"""A small golden test that needs no download: a seeded network whose scores on this machine must equal the recorded
ones.

The network has the published form at a small size. Its weights come from the raw 64-bit output of PCG64, which numpy
guarantees never to change, seeded by the key's name; so do the images. What passes here: tokeniser, preprocessing
(resize, crop, modes), the network's arithmetic. What does not: the published weights themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .config import ModelConfig, TextConfig, VisionConfig

if TYPE_CHECKING:
    import numpy as np

    from .scorers.imagereward import ImageRewardScorer

SEED = 20231
CONFIG = ModelConfig(
    vision=VisionConfig(image_size=64, patch_size=16, width=48, depth=2, heads=3),
    text=TextConfig(width=48, depth=2, heads=3, intermediate=96, max_positions=64),
    projection=16,
    head=(32, 16, 8, 4),
    mean=0.0,
    std=1.0,
)
PROMPTS = (
    "",
    "a painting of an ocean with clouds and birds, day time, low depth field effect",
    "ünïcode 猫 café " * 20,
)
IMAGES = (("RGB", 64, 64), ("RGB", 90, 130), ("RGBA", 200, 100), ("L", 48, 64))  # mode, width, height
# One row per prompt, one column per image: recorded in fp32 on a CPU. One level (1/255) in the pixels moves a score by
# 3e-3.
EXPECTED = (
    (0.423041, 0.392461, 0.416821, 0.352385),
    (0.075804, 0.027500, -0.006245, 0.014732),
    (-0.017912, -0.044453, -0.119687, -0.054863),
)
TOLERANCE = 1e-4


def uniform(name: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Numbers in [-1, 1), float64, the same on every machine and numpy version."""
    import numpy as np

    count = int(np.prod(shape))
    raw = np.random.PCG64(np.random.SeedSequence([SEED, zlib.crc32(name.encode())])).random_raw(count)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(tuple(shape))


def build_scorer(device: Any = "cpu") -> ImageRewardScorer:
    """The scorer of the seeded network, fp32."""
    import torch

    from . import registry
    from .model import RewardModel
    from .scorers.imagereward import ImageRewardScorer, build

    with torch.device("meta"):
        shapes = {
            key: tensor.shape for key, tensor in RewardModel(CONFIG).state_dict().items() if tensor.is_floating_point()
        }
    state = {key: torch.from_numpy(_weight(key, tuple(shape))).float() for key, shape in shapes.items()}
    net = build(state, CONFIG, torch.float32, torch.device(device), "self-test")
    return ImageRewardScorer(net, registry.MODELS[0], torch.device(device), size=CONFIG.vision.image_size)


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    noise = uniform(key, shape) * 3**0.5  # variance 1
    if "norm" in key.lower() and key.endswith("weight"):
        return 1 + 0.1 * noise
    if key.endswith("bias"):
        return 0.02 * noise
    if "embed" in key or key.endswith("cls_token"):
        return 0.5 * noise
    fan_in = noise[0].size if noise.ndim > 1 else 1
    return noise / fan_in**0.5


def images() -> list[Any]:
    """The test's PIL images."""
    import numpy as np
    from PIL import Image

    made = []
    for mode, width, height in IMAGES:
        channels = len(mode)
        coarse = uniform(f"{mode} {width}x{height}", (height // 16 + 1, width // 16 + 1, channels))
        blocks = np.kron(coarse, np.ones((16, 16, 1)))[
            :height, :width
        ]  # blocks: a picture of noise says nothing about resizing
        pixels = np.clip((blocks + 1) * 128, 0, 255).astype(np.uint8)
        made.append(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels))
    return made


def scores(device: Any = "cpu") -> list[list[float]]:
    """What this machine computes: one row per prompt, one column per image."""
    return build_scorer(device).score_matrix(PROMPTS, images())


def largest_difference(found: Sequence[Sequence[float]]) -> float:
    """max |found - expected| over all prompts and images."""
    return max(abs(a - b) for ours, golden in zip(found, EXPECTED) for a, b in zip(ours, golden))
