"""The small world: a caption grammar and the renderer that draws its pictures.

A :class:`Scene` is one or two coloured shapes on a plain background. It has exactly one caption
(:attr:`Scene.caption`), :func:`parse_caption` reads that caption back, and :func:`render` draws it at 64x64 pixels
with what a generator has to be robust against: position, rotation, shade and, on request, clutter.
Everything is a pure function of the scene and a :class:`numpy.random.Generator`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Edge of a picture in pixels: eight latent cells of the factor-8 VAE that Stable Diffusion hosts assume."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 225),
    "purple": (150, 50, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (243, 243, 243),
    "black": (14, 14, 14),
    "gray": (128, 128, 128),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
RELATIONS: tuple[str, ...] = ("above", "below", "left of", "right of")
RADIUS: dict[str, tuple[float, float]] = {"small": (7.5, 9.0), "large": (11.5, 15.0)}
"""Nominal radius in pixels; an object without a size word may have either."""

_SUPERSAMPLE = 4
_SHADE_JITTER = 12
# Outlines are scaled so that the four shapes cover comparable areas at the same nominal radius.
_OUTLINE_SCALE = {"circle": 1.0, "square": 1.18, "triangle": 1.3, "star": 1.32}


@dataclass(frozen=True)
class Thing:
    """One object of a scene; ``size`` is None when the caption does not name it."""

    shape: str
    colour: str
    size: str | None = None

    @property
    def phrase(self) -> str:
        words = " ".join(filter(None, (self.size, self.colour, self.shape)))
        return ("an " if words[0] in "aeiou" else "a ") + words


@dataclass(frozen=True)
class Scene:
    """One object, or two objects and the relation of the first to the second, on a background."""

    background: str
    things: tuple[Thing, ...]
    relation: str | None = None

    @property
    def caption(self) -> str:
        subject = self.things[0].phrase
        if self.relation is not None:
            subject += f" {self.relation} {self.things[1].phrase}"
        return f"{subject} on a {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether the scene contains a (colour, shape, background) combination reserved for evaluation."""
        return any(_combination_is_held_out(thing, self.background) for thing in self.things)


def _combination_is_held_out(thing: Thing, background: str) -> bool:
    colour = list(COLOURS).index(thing.colour)
    shape = SHAPES.index(thing.shape)
    return (colour + 2 * shape + 3 * list(BACKGROUNDS).index(background)) % 5 == 0


_THING = rf"an? (?:(small|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(rf"{_THING}(?: ({'|'.join(RELATIONS)}) {_THING})? on a ({'|'.join(BACKGROUNDS)}) background")


def parse_caption(caption: str) -> Scene | None:
    """The scene that a caption of the grammar describes, or None for any other text."""
    match = _CAPTION.fullmatch(" ".join(caption.lower().strip(" .").split()))
    if match is None:
        return None
    size, colour, shape, relation, size2, colour2, shape2, background = match.groups()
    things = [Thing(shape, colour, size)]
    if relation is not None:
        things.append(Thing(shape2, colour2, size2))
    return Scene(background, tuple(things), relation)


def sample_scene(rng: np.random.Generator, *, held_out: bool = False, pair_share: float = 0.25) -> Scene:
    """Draw a scene from the training captions, or (``held_out``) from those no training ever sees."""
    while True:
        count = 2 if rng.random() < pair_share else 1
        things = tuple(_sample_thing(rng) for _ in range(count))
        background = str(rng.choice(list(BACKGROUNDS)))
        relation = str(rng.choice(RELATIONS)) if count == 2 else None
        scene = Scene(background, things, relation)
        if scene.held_out == held_out and (count == 1 or _same_object(things) is False):
            return scene


def _sample_thing(rng: np.random.Generator) -> Thing:
    size = (None, "small", "large")[int(rng.integers(3))]
    return Thing(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), size)


def _same_object(things: tuple[Thing, ...]) -> bool:
    return (things[0].shape, things[0].colour) == (things[1].shape, things[1].colour)


def single_scenes(*, held_out: bool) -> Iterator[Scene]:
    """Every one-object scene of one side of the split, in a fixed order."""
    for background in BACKGROUNDS:
        for colour in COLOURS:
            for shape in SHAPES:
                for size in (None, "small", "large"):
                    scene = Scene(background, (Thing(shape, colour, size),))
                    if scene.held_out == held_out:
                        yield scene


ERROR_TYPES: tuple[str, ...] = ("background", "colour", "shape", "size", "relation")


def corrupt_scene(scene: Scene, error: str, rng: np.random.Generator) -> Scene | None:
    """``scene`` with one attribute of kind ``error`` made wrong, or None where the scene does not name that
    attribute.
    """
    if error == "background":
        return replace(scene, background=_other(list(BACKGROUNDS), scene.background, rng))
    if error == "relation":
        if scene.relation is None:
            return None
        opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
        return replace(scene, relation=opposite[scene.relation])
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    if error == "colour":
        changed = replace(thing, colour=_other(list(COLOURS), thing.colour, rng))
    elif error == "shape":
        changed = replace(thing, shape=_other(list(SHAPES), thing.shape, rng))
    elif thing.size is None:
        return None
    else:
        changed = replace(thing, size="small" if thing.size == "large" else "large")
    return replace(scene, things=scene.things[:index] + (changed,) + scene.things[index + 1 :])


def _other(values: list[str], current: str, rng: np.random.Generator) -> str:
    return str(rng.choice([value for value in values if value != current]))


@dataclass(frozen=True)
class Placed:
    """Where :func:`render` put one object: centre and nominal radius in pixels, rotation in degrees.

    ``other`` is what it is on its way to, and ``share`` how far, 0..1: outline and colour are drawn in between, as a
    generator that cannot decide draws them.
    """

    thing: Thing
    x: float
    y: float
    radius: float
    angle: float
    other: Thing | None = None
    share: float = 0.0

    @property
    def nearest(self) -> Thing:
        """What the drawn object resembles more."""
        return self.other if self.other is not None and self.share > 0.5 else self.thing


def place(scene: Scene, rng: np.random.Generator, *, spread: float = 1.0) -> tuple[Placed, ...]:
    """Choose position, radius and rotation of every object; objects never overlap and never leave the picture.

    ``spread`` scales how far positions and angles scatter.
    """
    reach = 7 * spread
    if scene.relation is None:
        centres = [(SIZE / 2 + rng.uniform(-reach, reach), SIZE / 2 + rng.uniform(-reach, reach))]
    else:
        near, far = (15.5 + rng.uniform(-0.5, 0.5), 48.5 + rng.uniform(-0.5, 0.5))
        first, second = (near, far) if scene.relation in ("above", "left of") else (far, near)
        across = [SIZE / 2 + rng.uniform(-6 * spread, 6 * spread) for _ in range(2)]
        if scene.relation in ("above", "below"):
            centres = [(across[0], first), (across[1], second)]
        else:
            centres = [(first, across[0]), (second, across[1])]
    placed = []
    for thing, (x, y) in zip(scene.things, centres, strict=True):
        size = thing.size or str(rng.choice(list(RADIUS)))
        low, high = RADIUS[size]
        if scene.relation is not None:
            high = min(high, 12.0)  # two large objects still fit beside each other
        placed.append(Placed(thing, x, y, float(rng.uniform(low, high)), float(rng.uniform(-15, 15) * spread)))
    return tuple(placed)


def render(scene: Scene, rng: np.random.Generator, *, clutter: bool = False, spread: float = 1.0) -> Image.Image:
    """Draw ``scene`` as a 64x64 RGB picture, anti-aliased by 4x supersampling."""
    return draw(scene.background, place(scene, rng, spread=spread), rng, clutter=clutter)


def draw(
    background: str, placed: tuple[Placed, ...], rng: np.random.Generator, *, clutter: bool = False
) -> Image.Image:
    """Draw objects at given places; ``rng`` supplies the shades and the clutter."""
    canvas = Image.new("RGB", (SIZE * _SUPERSAMPLE,) * 2, _shade(BACKGROUNDS[background], rng, 8))
    pen = ImageDraw.Draw(canvas)
    for item in placed:
        points = [(px * _SUPERSAMPLE, py * _SUPERSAMPLE) for px, py in outline(item)]
        pen.polygon(points, fill=_shade(_fill(item), rng, _SHADE_JITTER))
    if clutter:
        _draw_clutter(pen, placed, rng)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def outline(item: Placed) -> list[tuple[float, float]]:
    """The polygon of an object in pixels; a circle is a 48-gon."""
    if item.other is None or item.other.shape == item.thing.shape:
        corners = _corners(item.thing.shape)
    else:
        angles = np.arange(0, 360, 3.0)
        one, other = (_reach(_corners(thing.shape), angles) for thing in (item.thing, item.other))
        corners = list(zip(angles.tolist(), ((1 - item.share) * one + item.share * other).tolist(), strict=True))
    points = []
    for degrees, reach in corners:
        theta, distance = math.radians(degrees + item.angle), reach * item.radius
        points.append((item.x + distance * math.sin(theta), item.y - distance * math.cos(theta)))
    return points


def _corners(shape: str) -> list[tuple[float, float]]:
    """Angle in degrees and distance in nominal radii of a shape's corners."""
    reach = _OUTLINE_SCALE[shape]
    if shape == "circle":
        return [(i * 360 / 48, reach) for i in range(48)]
    if shape == "square":
        return [(45 + i * 90, reach) for i in range(4)]
    if shape == "triangle":
        return [(i * 120, reach) for i in range(3)]
    return [(i * 36, reach if i % 2 == 0 else reach * 0.45) for i in range(10)]


def _reach(corners: list[tuple[float, float]], angles: np.ndarray) -> np.ndarray:
    """Distance of a polygon's edge from its centre in each direction; the corners go once round the centre."""
    degrees = np.array([corner[0] for corner in corners])
    distances = np.array([corner[1] for corner in corners])
    after = np.searchsorted(degrees, angles, side="right") % len(corners)
    before = after - 1
    gap = np.radians((degrees[after] - degrees[before]) % 360)
    way = np.radians((angles - degrees[before]) % 360)
    # The edge between two corners in polar form: the sine rule in the triangle that they make with the centre.
    return (
        distances[before]
        * distances[after]
        * np.sin(gap)
        / (distances[before] * np.sin(way) + distances[after] * np.sin(gap - way))
    )


def _fill(item: Placed) -> tuple[int, int, int]:
    one = COLOURS[item.thing.colour]
    other = COLOURS[item.other.colour] if item.other is not None else one
    red, green, blue = (round((1 - item.share) * a + item.share * b) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _shade(colour: tuple[int, int, int], rng: np.random.Generator, jitter: int) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, c + rng.integers(-jitter, jitter + 1)))) for c in colour)
    return red, green, blue


def _draw_clutter(pen: ImageDraw.ImageDraw, placed: tuple[Placed, ...], rng: np.random.Generator) -> None:
    """Four to nine specks and dashes, each small beside the smallest object and clear of every object."""
    wanted, tries = int(rng.integers(4, 10)), 0
    while wanted and tries < 400:
        tries += 1
        x, y = rng.uniform(3, SIZE - 3, size=2)
        if any(math.hypot(x - item.x, y - item.y) < item.radius * 1.32 + 5 for item in placed):
            continue
        wanted -= 1
        fill = tuple(int(v) for v in rng.integers(0, 256, size=3))
        s = _SUPERSAMPLE
        if rng.random() < 0.5:
            radius = rng.uniform(1.0, 2.0)
            pen.ellipse([(x - radius) * s, (y - radius) * s, (x + radius) * s, (y + radius) * s], fill=fill)
        else:
            theta, half = rng.uniform(0, math.pi), rng.uniform(1.5, 3.5)
            dx, dy = half * math.cos(theta), half * math.sin(theta)
            pen.line([(x - dx) * s, (y - dy) * s, (x + dx) * s, (y + dy) * s], fill=fill, width=6)
