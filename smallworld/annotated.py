"""Pictures of the small world with everything that is known of them: the ground that tiny-imagereward is pre-trained
on.

The renderer knows what lies where, so a picture can say, patch by patch, which shape of which colour covers it.
ImageReward starts from BLIP, which brings that kind of knowledge from 129 million captioned pictures; a small network
has to be told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from .preferences import GRADED, Composition, View, compose
from .train_text import targets
from .world import COLOURS, SHAPES, SIZE, Placed, Scene, outline, sample_scene

FLAWS: dict[str, float] = {"missing": 0.08, "extra": 0.12, "clutter": 0.25, "blur": 0.15, "noise": 0.15}
"""What can be wrong with a picture whatever its caption says, and how often it is."""
PATCH = 8
BETWEEN = 0.35
"""How often one object is meant to be on its way to something else; a quarter of the pictures come out so, since not
every draw can (no size named).
"""
COVERED = 0.25
"""Share of a patch that an object has to cover to be what the patch shows."""


@dataclass(frozen=True)
class Annotated:
    """``n`` pictures: uint8 [n, 64, 64, 3]; per patch [n, 64] the shape and the colour, 0 = none; per object of the
    scene [n, 2, 2] its centre in [-1, 1], NaN if it is not there (the second place of a one-object scene is the extra
    object's); per entry of FLAWS [n, 5] whether the picture has it; [n, fields] what the picture shows
    (train_text.FIELDS); and whether it was redrawn by the autoencoder. A picture shows ``scenes[i]`` to 1 -
    ``degrees[i]`` and ``others[i]`` to ``degrees[i]``.
    """

    scenes: list[Scene]
    others: list[Scene]
    degrees: np.ndarray
    pictures: np.ndarray
    shapes: np.ndarray
    colours: np.ndarray
    centres: np.ndarray
    flaws: np.ndarray
    shown: torch.Tensor
    redrawn: np.ndarray


def canonical(scene: Scene) -> Scene:
    """The same picture described from the top or from the left, so that a picture has one set of labels."""
    opposite = {"below": "above", "right of": "left of"}
    if scene.relation in opposite:
        return Scene(scene.background, scene.things[::-1], opposite[scene.relation])
    return scene


def annotated_pictures(
    count: int,
    seed: int,
    *,
    view: View | None = None,
    view_share: float = 0.35,
    pair_share: float = 0.5,
    held_out: bool = False,
) -> Annotated:
    """Draw ``count`` pictures; ``view`` redraws a share of them, so that attributes are also found in what a generator
    draws.
    """
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    made: list[Composition] = []
    degrees: list[float] = []
    flaws = []
    while len(made) < count:
        scene = sample_scene(rng, held_out=held_out, pair_share=pair_share)
        chosen = [name for name, share in FLAWS.items() if rng.random() < share]
        degree = 0.0
        graded: list[str] = []
        if rng.random() < BETWEEN:
            degree = float(rng.uniform(0.1, 0.9))
            graded = [str(rng.choice(GRADED))]
        composition = compose(scene, [*chosen, *graded], rng, degree=degree)
        if composition is not None and composition.wrong.held_out == held_out:
            scenes.append(scene)
            made.append(composition)
            degrees.append(degree)
            flaws.append([name in chosen for name in FLAWS])
    redrawn = rng.random(count) < (view_share if view is not None else 0.0)
    pictures = [composition.picture for composition in made]
    if view is not None:
        for index, picture in zip(
            np.flatnonzero(redrawn), view([pictures[index] for index in np.flatnonzero(redrawn)]), strict=True
        ):
            pictures[index] = picture
    maps = np.stack([patch_labels(composition.placed) for composition in made])
    others = [composition.wrong for composition in made]
    return Annotated(
        scenes,
        others,
        np.array(degrees, dtype=np.float32),
        np.stack([np.asarray(_soften(picture, rng)) for picture in pictures]),
        maps[:, 0],
        maps[:, 1],
        np.stack([_centres(composition) for composition in made]),
        np.array(flaws, dtype=np.float32),
        torch.tensor(
            [
                targets(canonical(other if degree > 0.5 else scene))
                for scene, other, degree in zip(scenes, others, degrees, strict=True)
            ]
        ),
        redrawn,
    )


def patch_labels(placed: tuple[Placed, ...]) -> np.ndarray:
    """int64 [2, 64]: shape and colour per patch, row by row, 0 = background."""
    labels = np.zeros((2, (SIZE // PATCH) ** 2), dtype=np.int64)
    for item in placed:
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).polygon(outline(item), fill=1)
        share = np.asarray(mask).reshape(SIZE // PATCH, PATCH, SIZE // PATCH, PATCH).mean(axis=(1, 3)).ravel()
        labels[0, share >= COVERED] = SHAPES.index(item.nearest.shape) + 1
        labels[1, share >= COVERED] = list(COLOURS).index(item.nearest.colour) + 1
    return labels


def _centres(composition: Composition) -> np.ndarray:
    """[2, 2]: x and y of the scene's first and second object, NaN where it is missing. Of a one-object scene the second
    is what was added to it.
    """
    centres = np.full((2, 2), np.nan, dtype=np.float32)
    drawn = iter(composition.placed)
    for index in range(2):
        if index == composition.missing:
            continue
        item = next(drawn, None)
        if item is not None:
            centres[index] = (item.x / SIZE * 2 - 1, item.y / SIZE * 2 - 1)
    return centres


def _soften(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A blur below that of the flaw on a third of the pictures."""
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.8)))) if rng.random() < 1 / 3 else picture
