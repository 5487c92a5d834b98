"""Sixteen plain numbers of how a picture looks: what a taste for a colour, for light, contrast or sharpness needs, and
a reward model's features may have thrown away.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..preprocess import to_rgb, unit_pixels

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 512  # pixels of the longer side that are looked at: sharpness means nothing without a common size
VALUES = 1 << 16  # brightness values of a picture from which its quantiles are taken
TINY = 1e-6  # keeps the slope of a square root finite at zero
NAMES = (
    "brightness",
    "red against green and blue",
    "green against blue",
    "contrast",
    "saturation",
    "spread of saturation",
    "hue, second harmonic, cosine",
    "hue, second harmonic, sine",
    "hue, third harmonic, cosine",
    "hue, third harmonic, sine",
    "steps of brightness",
    "sharpness",
    "darkest",
    "brightest",
    "what stands out, to the right",
    "what stands out, downwards",
)


def appearance(images: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] → [B, 16], named by NAMES, float32; with a gradient to the images.

    Colours as opponents, not as red, green and blue: these rise and fall together with the light, and what a taste for
    a colour needs would be their small differences. A mean colour does not say whether two colours are there or their
    mixture; the second and third harmonic of the hue, weighted by its chroma, do.
    """
    x = _shrunk(images.float())
    red, green, blue = x.unbind(1)
    grey = x.mean(1)  # [B, H, W]
    highest, lowest = x.amax(1), x.amin(1)
    saturation = ((highest - lowest) / (highest + TINY)).flatten(1)
    across, up = red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)  # the colour circle
    square = across**2 + up**2
    chroma = (square + TINY).sqrt()
    harmonics = (
        (across**2 - up**2) / chroma,
        2 * across * up / chroma,
        (across**3 - 3 * across * up**2) / (square + TINY),
        (3 * across**2 * up - up**3) / (square + TINY),
    )
    steps_x, steps_y = grey.diff(dim=2).abs(), grey.diff(dim=1).abs()
    values = grey.flatten(1)
    values = values[:, :: max(1, values.shape[1] // VALUES)]
    quantiles = torch.quantile(values, torch.tensor([0.05, 0.95], device=x.device), dim=1)
    return torch.stack(
        [
            grey.mean((1, 2)),
            across.mean((1, 2)),
            up.mean((1, 2)),
            _deviation(grey.flatten(1)),
            saturation.mean(1),
            _deviation(saturation),
            *(part.mean((1, 2)) for part in harmonics),
            _mean(steps_x) + _mean(steps_y),
            (1e-5 + _laplacian(grey)).log(),
            *quantiles,
            *_standing_out(x),
        ],
        dim=1,
    )


def appearance_of(image: Image.Image) -> Tensor:
    """A PIL image of any mode → [16], float32."""
    with torch.no_grad():
        return appearance(unit_pixels(to_rgb(image))[None])[0]


def _shrunk(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    longest = max(height, width)
    if longest <= LONGEST:
        return x
    size = (max(1, round(height * LONGEST / longest)), max(1, round(width * LONGEST / longest)))
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation of [B, N] along N, with a finite slope where all are equal."""
    return (values.var(dim=1, unbiased=False) + TINY).sqrt()


def _standing_out(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels lie whose colour is not the picture's mean: centre of gravity (right, down) [B] each, from -1
    to 1.
    """
    weight = ((x - x.mean((2, 3), keepdim=True)) ** 2).sum(1) + TINY
    right = torch.linspace(-1, 1, x.shape[3], device=x.device)
    down = torch.linspace(-1, 1, x.shape[2], device=x.device)[:, None]
    total = weight.sum((1, 2))
    return (weight * right).sum((1, 2)) / total, (weight * down).sum((1, 2)) / total


def _mean(values: Tensor) -> Tensor:
    """Mean of [B, H, W] over H and W; 0 of a picture one pixel wide, which has no steps."""
    return values.sum((1, 2)) / max(1, values[0].numel())


def _laplacian(grey: Tensor) -> Tensor:
    """Variance of the discrete Laplacian of [B, H, W]: how much fine detail there is."""
    if min(grey.shape[1:]) < 3:
        return grey.new_zeros(len(grey))
    inner = 4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    return inner.flatten(1).var(dim=1, unbiased=False)
