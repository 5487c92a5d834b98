"""Rankings of renders in ImageRewardDB's format, from flaws that are put in on purpose.

Every item is one caption with several pictures. A picture's penalty is the sum over its flaws; fewer is better, equal
penalties tie. A wrong colour, shape or size comes in degrees, since what a generator gets wrong is seldom another thing
but something in between, and a reward that steps at the middle gives nothing to climb. What no trainer sees is written
beside the rankings: which flaws each picture has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .world import ERROR_TYPES, RADIUS, SIZE, Placed, Scene, Thing, corrupt_scene, draw, place, sample_scene

PENALTIES: dict[str, int] = {
    "background": 2,
    "colour": 2,
    "shape": 2,
    "size": 2,
    "relation": 2,
    "missing": 2,
    "extra": 2,
    "clutter": 1,
    "blur": 1,
    "noise": 1,
}
"""The kinds of flaw. A picture of something else than asked for is worse than an ugly one."""
GRADED: tuple[str, ...] = ("colour", "shape", "size")
"""The kinds of flaw that a picture can have in part; the penalty is in proportion."""
DEGREES: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)

View = Callable[[list[Image.Image]], list[Image.Image]]


@dataclass(frozen=True)
class Item:
    """One caption, its pictures, the flaws of each, and the degree to which each has those in GRADED."""

    scene: Scene
    pictures: list[Image.Image]
    flaws: list[tuple[str, ...]]
    degrees: list[float]

    @property
    def ranking(self) -> list[int]:
        """Rank per picture, 1 = best; equal penalties share a rank."""
        penalties = [
            sum(PENALTIES[flaw] * (degree if flaw in GRADED else 1.0) for flaw in flaws)
            for flaws, degree in zip(self.flaws, self.degrees, strict=True)
        ]
        order = sorted(set(penalties))
        return [order.index(penalty) + 1 for penalty in penalties]


def possible_flaws(scene: Scene) -> list[str]:
    """The kinds of flaw that a picture of ``scene`` can have."""
    sized = any(thing.size for thing in scene.things)
    return [
        flaw
        for flaw in PENALTIES
        if not (flaw == "relation" and scene.relation is None) and not (flaw == "size" and not sized)
    ]


@dataclass(frozen=True)
class Composition:
    """A picture and what lies where in it: ``placed`` holds the objects drawn, ``missing`` the index of the scene's
    object left out, ``wrong`` the scene that it shows to the degree of its flaws.
    """

    picture: Image.Image
    placed: tuple[Placed, ...]
    missing: int | None
    wrong: Scene


def flawed_picture(
    scene: Scene, flaws: Sequence[str], rng: np.random.Generator, *, degree: float = 1.0
) -> Image.Image | None:
    """A 64x64 picture of ``scene`` with exactly these flaws, those in GRADED to this degree; None if the draw cannot
    give one of them.
    """
    composition = compose(scene, flaws, rng, degree=degree)
    return None if composition is None else composition.picture


def compose(scene: Scene, flaws: Sequence[str], rng: np.random.Generator, *, degree: float = 1.0) -> Composition | None:
    """:func:`flawed_picture` with what lies where."""
    shown = scene
    for error in ERROR_TYPES:
        if error in flaws:
            changed = corrupt_scene(shown, error, rng)
            if changed is None:
                return None
            shown = changed
    placed = list(place(shown, rng))
    if degree < 1:
        placed = [between(wanted, item, degree, rng) for wanted, item in zip(scene.things, placed, strict=True)]
    missing = int(rng.integers(len(placed))) if "missing" in flaws else None
    if missing is not None:
        placed.pop(missing)
    if "extra" in flaws:
        spot = _free_spot(placed, rng)
        if spot is None:
            return None
        placed.append(spot)
    picture = draw(shown.background, tuple(placed), rng, clutter="clutter" in flaws)
    if "blur" in flaws:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(1.3, 2.6))))
    if "noise" in flaws:
        values = np.asarray(picture).astype(np.float32) + rng.normal(0, rng.uniform(14, 40), (SIZE, SIZE, 3))
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return Composition(picture, tuple(placed), missing, shown)


def between(wanted: Thing, wrong: Placed, degree: float, rng: np.random.Generator) -> Placed:
    """An object on its way from ``wanted`` to ``wrong``: size, outline and colour."""
    if wanted == wrong.thing:
        return wrong
    radius = wrong.radius
    if wanted.size is not None and wanted.size != wrong.thing.size:
        low, high = RADIUS[
            wanted.size
        ]  # at most the 12 pixels that `place` gives one of two objects, so that they never touch
        radius = (1 - degree) * float(rng.uniform(low, min(high, max(low, 12.0)))) + degree * wrong.radius
    return replace(wrong, thing=wanted, radius=radius, other=wrong.thing, share=degree)


def _free_spot(placed: Sequence[Placed], rng: np.random.Generator) -> Placed | None:
    """A small object of any kind that overlaps none of ``placed``."""
    extra = sample_scene(rng, pair_share=0).things[0]
    for _ in range(200):
        radius = float(rng.uniform(6.5, 8.5))
        x, y = rng.uniform(radius + 2, SIZE - radius - 2, size=2)
        if all(math.hypot(x - item.x, y - item.y) > 1.25 * (item.radius + radius) + 1 for item in placed):
            return Placed(Thing(extra.shape, extra.colour), float(x), float(y), radius, float(rng.uniform(-15, 15)))
    return None


def sample_item(rng: np.random.Generator, *, held_out: bool, pictures: int = 4, pair_share: float = 0.25) -> Item:
    """A caption with one flawless picture (four times in five) and others with one to three flaws."""
    scene = sample_scene(rng, held_out=held_out, pair_share=pair_share)
    kinds = possible_flaws(scene)
    shown: list[Image.Image] = []
    flaws: list[tuple[str, ...]] = []
    degrees: list[float] = []
    while len(shown) < pictures:
        if not shown and rng.random() < 0.8:
            chosen: tuple[str, ...] = ()
        else:
            count = int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
            chosen = tuple(sorted(str(flaw) for flaw in rng.choice(kinds, size=count, replace=False)))
        degree = float(rng.choice(DEGREES))
        picture = flawed_picture(scene, chosen, rng, degree=degree)
        if picture is not None:
            shown.append(picture)
            flaws.append(chosen)
            degrees.append(degree)
    return Item(scene, shown, flaws, degrees)


def sample_pair(flaw: str, rng: np.random.Generator, *, held_out: bool) -> Item:
    """A flawless picture and one with ``flaw`` alone, of one caption."""
    while True:
        scene = sample_scene(rng, held_out=held_out, pair_share=1.0 if flaw == "relation" else 0.25)
        if flaw not in possible_flaws(scene):
            continue
        wrong = flawed_picture(scene, (flaw,), rng)
        right = flawed_picture(scene, (), rng)
        if wrong is not None and right is not None:
            return Item(scene, [right, wrong], [(), (flaw,)], [1.0, 1.0])


def write_preferences(
    folder: Path,
    name: str,
    count: int,
    seed: int,
    *,
    held_out: bool = False,
    view: View | None = None,
    view_share: float = 0.4,
    pair_share: float = 0.45,
    shuffled: bool = False,
) -> Path:
    """Write ``count`` items as ``folder/NAME.json`` with their PNG files in ``folder/NAME/``; returns the JSON's path.

    ``pair_share`` of the captions name two objects: what only they can teach, relations, is otherwise seen too rarely.
    ``shuffled`` deals the ranks of every item anew, at random: the negative control.

    ``view`` redraws all pictures of a ``view_share`` of the items, for example through an autoencoder, so that a reward
    model also meets pictures of the texture a generator makes.
    """
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True, exist_ok=True)
    items: list[Item] = []
    while len(items) < count:
        item = sample_item(rng, held_out=held_out, pair_share=pair_share)
        if len(set(item.ranking)) > 1:
            items.append(item)
    if view is not None:
        items = _viewed(items, view, rng.random(count) < view_share)
    rankings = []
    for index, item in enumerate(items):
        files = [f"{name}/{index:05d}_{place_}.png" for place_ in range(len(item.pictures))]
        for file, picture in zip(files, item.pictures, strict=True):
            picture.save(folder / file)
        rankings.append(
            {
                "id": f"{name}-{index:05d}",
                "prompt": item.scene.caption,
                "generations": files,
                "ranking": [int(rank) for rank in rng.permutation(item.ranking)] if shuffled else item.ranking,
                "flaws": [list(flaws) for flaws in item.flaws],
                "degrees": item.degrees,
            }
        )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rankings, indent=1) + "\n", encoding="utf-8")
    return path


def _viewed(items: list[Item], view: View, chosen: np.ndarray) -> list[Item]:
    indices = [index for index, use in enumerate(chosen) if use]
    redrawn = iter(view([picture for index in indices for picture in items[index].pictures]))
    result = list(items)
    for index in indices:
        result[index] = replace(items[index], pictures=[next(redrawn) for _ in items[index].pictures])
    return result
