"""What a preference data set consists of: one prompt, its images, and which of them people prefer to which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Item:
    """One prompt with k images. `ranking` has 1 = best and allows ties; it is None where only pairs were judged.

    `pairs` holds (better, worse) as indices into `images`; `names` are the images as the source spells them.
    """

    id: str
    prompt: str
    images: tuple[str, ...]
    pairs: tuple[Pair, ...]
    ranking: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()


def pairs_of(ranking: Sequence[float]) -> tuple[Pair, ...]:
    """Every (better, worse) of a ranking: C(k, 2) minus the ties. Rank 1 is the best."""
    found: list[Pair] = []
    for left in range(len(ranking)):
        for right in range(left + 1, len(ranking)):
            if ranking[left] < ranking[right]:
                found.append((left, right))
            elif ranking[left] > ranking[right]:
                found.append((right, left))
    return tuple(found)


def tied_pairs(ranking: Sequence[float]) -> int:
    """How many of the C(k, 2) pairs are ties."""
    return math.comb(len(ranking), 2) - len(pairs_of(ranking))


def normal_prompt(prompt: str) -> str:
    """The form in which two prompts count as the same: case and white space do not matter."""
    return " ".join(prompt.casefold().split())
