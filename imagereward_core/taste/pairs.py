"""Which two pictures to show next: at random among the pairs of one prompt that were not shown yet.

Asking for the pair that would tell most (BALD) did not beat chance on simulated users, and chance cannot go wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ImageError
from ..library import Library, Picture, find, marks
from ..library.conditions import EVERYTHING, Where
from ..library.records import MY_TASTE
from ..preprocess import open_image, to_rgb

if TYPE_CHECKING:
    from PIL import Image

TRIES = 40  # pairs that are drawn before it is said that there is none
EDGE = 32  # pixels at which two pictures are compared
ALIKE = 0.015  # root mean square difference, of 1, below which nobody sees which is which


def next_pair(
    library: Library, taste: str = MY_TASTE, where: Where = EVERYTHING, rng: random.Random | None = None
) -> tuple[Picture, Picture] | None:
    """Two pictures of one prompt whose duel this taste does not know, in random order; None if none was found. Pictures
    that look the same are left out, as are those that cannot be read.
    """
    rng = rng or random.Random()
    groups = _groups(library, where)
    if not groups:
        return None
    weights = [len(group) * (len(group) - 1) for group in groups]
    seen = {frozenset((duel.winner, duel.loser)) for duel in marks.duels(library, taste)}
    for _ in range(TRIES):
        (group,) = rng.choices(groups, weights)
        pair = rng.sample(group, 2)
        if frozenset(pair) in seen:
            continue
        pictures = [find.by_id(library, number) for number in pair]
        first, second = pictures
        if first is not None and second is not None and not alike(first.path, second.path):
            return first, second
    return _any_left(library, groups, seen)


def _groups(library: Library, where: Where) -> list[list[int]]:
    """Pictures by prompt, of prompts that have two."""
    rows = library.query(
        "SELECT p.same, i.id FROM images i JOIN prompts p ON p.id = i.prompt_id"
        f" WHERE i.missing = 0 AND ({where.sql}) ORDER BY p.same, i.id",
        where.values,
    )
    groups: dict[int, list[int]] = {}
    for same, number in rows:
        groups.setdefault(same, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _any_left(
    library: Library, groups: Sequence[Sequence[int]], seen: set[frozenset[int]]
) -> tuple[Picture, Picture] | None:
    """One of the pairs that are left where nearly all were shown; at most TRIES are looked at."""
    looked = 0
    for group in groups:
        for index, one in enumerate(group):
            for other in group[:index]:
                if frozenset((one, other)) in seen:
                    continue
                first, second = find.by_id(library, one), find.by_id(library, other)
                if first is not None and second is not None and not alike(first.path, second.path):
                    return first, second
                looked += 1
                if looked >= TRIES:
                    return None
    return None


def alike(first: str, second: str) -> bool:
    """Whether two pictures look the same, or one of them cannot be read."""
    import numpy as np

    try:
        small = [np.asarray(_small(open_image(path)), np.float32) / 255 for path in (first, second)]
    except ImageError:
        return True
    return float(np.sqrt(((small[0] - small[1]) ** 2).mean())) < ALIKE


def _small(image: Image.Image) -> Image.Image:
    from PIL import Image

    return to_rgb(image).resize((EDGE, EDGE), Image.Resampling.BOX)
