"""The independent judge: reads a picture's attributes back. Nothing that is trained ever sees its answers.

Geometry is analytic: the background is the median colour of the border, objects are connected regions that differ
from it, and position, size and clutter follow from the regions. Only shape and colour of a region are read by a small
convolutional classifier, trained on renders alone (:mod:`smallworld.train_oracle`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from .world import BACKGROUNDS, COLOURS, SHAPES, SIZE, Scene, Thing

CROP = 24
"""Edge in pixels of the square that the classifier sees of each object."""
MIN_AREA = 60
"""Regions of fewer pixels are clutter: the smallest object covers about 110, the largest speck about 20."""
_CONTRAST = 48.0
_BACKGROUND_TOLERANCE = 60.0
_SMALL_BELOW = 10.25
# Area of each shape in units of its squared nominal radius, from the outlines that smallworld.world draws.
_AREA = {
    "circle": math.pi,
    "square": 2 * 1.18**2,
    "triangle": 0.75 * math.sqrt(3) * 1.3**2,
    "star": 10 * 0.5 * math.sin(math.pi / 5) * 0.45 * 1.32**2,
}


@dataclass(frozen=True)
class SeenThing:
    """One object in a picture: attributes, centre and area in pixels."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    area: int


@dataclass(frozen=True)
class Reading:
    """What the oracle sees; ``background`` is None for a colour that is none of the world's.

    ``clutter`` is the share of pixels that belong neither to the background nor to an object; objects come largest
    first.
    """

    background: str | None
    things: tuple[SeenThing, ...]
    clutter: float


class RegionClassifier(nn.Module):
    """Shape and colour of one object from its [B, 3, 24, 24] crop in [0, 1]: logits [B, 4] and [B, 6]; 56 k
    parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(nn.Linear(48 * (CROP // 4) ** 2, 48), nn.ReLU())
        self.shape = nn.Linear(48, len(SHAPES))
        self.colour = nn.Linear(48, len(COLOURS))

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden(self.features(crops))
        return self.shape(hidden), self.colour(hidden)


def regions(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected regions of a boolean [64, 64] mask as boolean masks, largest first."""
    labels = torch.arange(1, mask.size + 1, dtype=torch.float32).view(1, 1, *mask.shape) * torch.from_numpy(mask)
    inside = labels > 0
    while True:
        spread = functional.max_pool2d(labels, 3, stride=1, padding=1) * inside
        if torch.equal(spread, labels):
            break
        labels = spread
    grid = labels[0, 0].numpy()
    values, counts = np.unique(grid[grid > 0], return_counts=True)
    return [grid == values[index] for index in np.argsort(-counts, kind="stable")]


@dataclass(frozen=True)
class Segmentation:
    """Background colour [3], boolean object masks [64, 64] and the share of pixels that are clutter."""

    background: np.ndarray
    objects: tuple[np.ndarray, ...]
    clutter: float


def segment(picture: np.ndarray) -> Segmentation:
    """Split a uint8 [64, 64, 3] picture into background, objects and clutter."""
    values = picture.astype(np.float32)
    border = np.concatenate(
        [
            values[:2].reshape(-1, 3),
            values[-2:].reshape(-1, 3),
            values[:, :2].reshape(-1, 3),
            values[:, -2:].reshape(-1, 3),
        ]
    )
    background = np.median(border, axis=0)
    mask = np.linalg.norm(values - background, axis=-1) > _CONTRAST
    objects = tuple(region for region in regions(mask) if region.sum() >= MIN_AREA)
    clutter = float(mask.sum() - sum(int(region.sum()) for region in objects)) / mask.size
    return Segmentation(background, objects, clutter)


def crop(picture: np.ndarray, region: np.ndarray) -> torch.Tensor:
    """The square around ``region`` with two pixels of margin, as float32 [3, 24, 24] in [0, 1]."""
    rows, columns = np.nonzero(region)
    side = max(int(np.ptp(rows)), int(np.ptp(columns))) + 5
    centre_x, centre_y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    box = (centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2)
    padded = Image.fromarray(np.pad(picture, ((SIZE, SIZE), (SIZE, SIZE), (0, 0)), mode="edge"))
    square = padded.resize((CROP, CROP), Image.Resampling.BILINEAR, box=tuple(edge + SIZE for edge in box))
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 255


class Oracle:
    """Reads pictures; :meth:`load` builds it from weights trained by :mod:`smallworld.train_oracle`."""

    def __init__(self, classifier: RegionClassifier) -> None:
        self.classifier = classifier.eval()

    @classmethod
    def load(cls, path: Path) -> Oracle:
        classifier = RegionClassifier()
        classifier.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return cls(classifier)

    @torch.no_grad()
    def read(self, pictures: np.ndarray | Sequence[Image.Image]) -> list[Reading]:
        """One :class:`Reading` per 64x64 picture (uint8 [N, 64, 64, 3] or PIL images)."""
        arrays = [np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p) for p in pictures]
        segments = [segment(array) for array in arrays]
        crops = [crop(array, region) for array, s in zip(arrays, segments, strict=True) for region in s.objects]
        if crops:
            shapes, colours = (logits.argmax(dim=1).tolist() for logits in self.classifier(torch.stack(crops)))
        else:
            shapes, colours = [], []
        readings, next_crop = [], 0
        for s in segments:
            things = []
            for region in s.objects:
                things.append(_seen(region, SHAPES[shapes[next_crop]], list(COLOURS)[colours[next_crop]]))
                next_crop += 1
            readings.append(Reading(_background_name(s.background), tuple(things), s.clutter))
        return readings


def _seen(region: np.ndarray, shape: str, colour: str) -> SeenThing:
    rows, columns = np.nonzero(region)
    radius = math.sqrt(len(rows) / _AREA[shape])
    size = "small" if radius < _SMALL_BELOW else "large"
    return SeenThing(shape, colour, size, float(columns.mean()), float(rows.mean()), len(rows))


def _background_name(colour: np.ndarray) -> str | None:
    distances = {name: float(np.linalg.norm(colour - np.array(value))) for name, value in BACKGROUNDS.items()}
    best = min(distances, key=lambda name: distances[name])
    return best if distances[best] <= _BACKGROUND_TOLERANCE else None


ATTRIBUTES: tuple[str, ...] = ("background", "colour", "shape", "size", "relation", "count")


def judge(scene: Scene, reading: Reading) -> dict[str, float]:
    """How much of ``scene`` the picture got right, per attribute, 0..1; attributes the caption does not name are
    absent.

    With two objects, the caption's things are matched to the seen ones in the order that fits best; a thing that
    is not there counts as wrong in everything.
    """
    result = {
        "background": float(reading.background == scene.background),
        "count": float(len(reading.things) == len(scene.things)),
    }
    candidates: list[SeenThing | None] = [*reading.things[:2], None, None]
    best = max(
        permutations(candidates, len(scene.things)),
        key=lambda order: (
            sum(_score(thing, seen) for thing, seen in zip(scene.things, order, strict=True))
            + 0.5 * (scene.relation is not None and _holds(scene.relation, order))
        ),
    )
    pairs = list(zip(scene.things, best, strict=True))
    result["colour"] = sum(seen is not None and seen.colour == thing.colour for thing, seen in pairs) / len(pairs)
    result["shape"] = sum(seen is not None and seen.shape == thing.shape for thing, seen in pairs) / len(pairs)
    sized = [(thing, seen) for thing, seen in pairs if thing.size is not None]
    if sized:
        result["size"] = sum(seen is not None and seen.size == thing.size for thing, seen in sized) / len(sized)
    if scene.relation is not None:
        result["relation"] = float(_holds(scene.relation, best))
    return result


def _score(thing: Thing, seen: SeenThing | None) -> float:
    if seen is None:
        return 0.0
    return 0.1 + (seen.colour == thing.colour) + (seen.shape == thing.shape) + 0.5 * (seen.size == thing.size)


def _holds(relation: str, order: Sequence[SeenThing | None]) -> bool:
    first, second = order
    if first is None or second is None:
        return False
    margin = SIZE / 8
    return {
        "above": second.y - first.y,
        "below": first.y - second.y,
        "left of": second.x - first.x,
        "right of": first.x - second.x,
    }[relation] > margin


@dataclass(frozen=True)
class Verdict:
    """Means over many pictures: accuracy per attribute, share with every attribute right, clutter (share of pixels)."""

    accuracy: dict[str, float]
    all_right: float
    clutter: float
    pictures: int


def summarise(scenes: Sequence[Scene], readings: Sequence[Reading]) -> Verdict:
    """Average :func:`judge` over pictures; an attribute's mean runs over the captions that name it."""
    judged = [judge(scene, reading) for scene, reading in zip(scenes, readings, strict=True)]
    accuracy = {}
    for attribute in ATTRIBUTES:
        values = [result[attribute] for result in judged if attribute in result]
        if values:
            accuracy[attribute] = float(np.mean(values))
    all_right = float(np.mean([min(result.values()) == 1.0 for result in judged]))
    return Verdict(accuracy, all_right, float(np.mean([reading.clutter for reading in readings])), len(judged))
