"""Split a data set so that nothing seen in training is met again in validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from imagereward_core.errors import DataError

from .items import Item, normal_prompt


def split_items(
    items: Sequence[Item], valid: float = 0.1, test: float = 0.0, seed: int = 1234
) -> tuple[list[Item], list[Item], list[Item]]:
    """(train, valid, test) by prompt: items with the same prompt, or that share an image file, stay together.

    Groups are ordered by a hash of seed and prompt and dealt out until `valid` and `test` hold their fraction of the
    items. Fractions in [0, 1); each that is not 0 gets at least one group.
    """
    if not 0 <= valid < 1 or not 0 <= test < 1 or valid + test >= 1:
        raise DataError(
            f"valid and test fractions must lie in [0, 1) and leave something to train on, found {valid} and {test}"
        )
    groups = _groups(items)
    order = sorted(
        groups,
        key=lambda group: hashlib.sha256(
            f"{seed}:{min(normal_prompt(items[i].prompt) for i in group)}".encode()
        ).digest(),
    )
    parts: list[list[Item]] = [[], [], []]  # test, valid, train
    for index, fraction in ((0, test), (1, valid)):
        while (
            fraction and order and (not parts[index] or len(parts[index]) + len(order[0]) / 2 <= fraction * len(items))
        ):
            parts[index] += [items[i] for i in order.pop(0)]
    parts[2] = [items[i] for group in order for i in sorted(group)]
    if not parts[2]:
        raise DataError(f"{len(groups)} independent prompts are too few to split into training, validation and test")
    return parts[2], parts[1], parts[0]


def without_overlap(train: Sequence[Item], held_out: Sequence[Item]) -> list[Item]:
    """The training items whose prompt and images do not occur in `held_out`."""
    prompts = {normal_prompt(item.prompt) for item in held_out}
    images = {image for item in held_out for image in item.images}
    return [item for item in train if normal_prompt(item.prompt) not in prompts and images.isdisjoint(item.images)]


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """Connected components: items are linked by an equal prompt or a shared image."""
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    owner: dict[tuple[str, str], int] = {}
    for index, item in enumerate(items):
        for key in [("prompt", normal_prompt(item.prompt)), *(("image", image) for image in item.images)]:
            first = owner.setdefault(key, index)
            parent[root(index)] = root(first)
    groups: dict[int, list[int]] = {}
    for index in range(len(items)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())
