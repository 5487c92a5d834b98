"""What each process computes in each update. The plan depends on the seed and the update's number alone, so that one
process or many, whole or resumed, see the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagereward_core.tokenizer import tokenize

from .cache import FeatureCache, PixelCache
from .config import TrainConfig
from .items import Item, Pair

Sample = tuple[int, tuple[Pair, ...]]  # index of the item, and which of its pairs count


@dataclass(frozen=True)
class Batch:
    """One forward. `inputs` are (ids [N, T], mask [N, T], pixels [N, 3, S, S]) or, for the head alone, (features [N,
    W],).

    `pairs` [P, 2] are (better, worse) rows; `rows` names the (item, image) of each row.
    """

    inputs: tuple[Tensor, ...]
    pairs: Tensor
    rows: tuple[tuple[int, int], ...]

    def to(self, device: torch.device) -> Batch:
        return Batch(tuple(part.to(device) for part in self.inputs), self.pairs.to(device), self.rows)


def samples(items: Sequence[Item], rank_pair: bool) -> list[Sample]:
    """What is drawn: whole items with all their pairs, or single pairs."""
    if rank_pair:
        return [(index, (pair,)) for index, item in enumerate(items) for pair in item.pairs]
    return [(index, item.pairs) for index, item in enumerate(items)]


@dataclass(frozen=True)
class Plan:
    """Which samples make up which update. `world` processes, micro-batches of `micro` samples, `total` per update."""

    samples: list[Sample]
    total: int
    micro: int
    world: int
    seed: int

    @classmethod
    def of(cls, config: TrainConfig, items: Sequence[Item], world: int) -> Plan:
        total = config.accumulation_steps * config.batch_size * world or config.total_batch
        return cls(
            samples(items, config.rank_pair), total, min(config.batch_size, -(-total // world)), world, config.seed
        )

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.samples) // self.total)

    def update(self, number: int) -> list[Sample]:
        """All samples of update `number` = 0, 1, …; the last one of an epoch may be smaller."""
        epoch, place = divmod(number, self.updates_per_epoch)
        order = torch.randperm(
            len(self.samples), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        ).tolist()
        return [self.samples[index] for index in order[place * self.total : (place + 1) * self.total]]

    def share(self, number: int, rank: int) -> list[list[Sample]]:
        """The micro-batches of one process. All processes get equally many; one that has none left repeats the first
        sample of the update without its pairs, which adds nothing."""
        return share(self.update(number), self.micro, self.world, rank)


def share(whole: Sequence[Sample], micro: int, world: int, rank: int) -> list[list[Sample]]:
    """Cut into micro-batches, deal them to the processes in turn, and fill up with empty ones."""
    parts = [list(whole[start : start + micro]) for start in range(0, len(whole), micro)]
    while len(parts) % world:
        parts.append([(whole[0][0], ())])
    return parts[rank::world]


class Collator:
    """Samples to a Batch. Every image of an item is read once, however many pairs it is in."""

    def __init__(
        self,
        items: Sequence[Item],
        pixels: PixelCache,
        max_tokens: int,
        features: FeatureCache | None = None,
        all_images: bool = False,
    ):
        self.items, self.pixels, self.max_tokens, self.features = items, pixels, max_tokens, features
        self.all_images = all_images  # also those in no pair (all of them count in validation's mean and std)

    def __call__(self, drawn: Sequence[Sample]) -> Batch:
        rows: list[tuple[int, int]] = []
        better_worse: list[tuple[int, int]] = []
        for index, pairs in _by_item(drawn).items():
            images = self._images(index, pairs)
            row_of = {image: len(rows) + offset for offset, image in enumerate(images)}
            rows += [(index, image) for image in images]
            better_worse += [(row_of[better], row_of[worse]) for better, worse in pairs]
        pairs_of_rows = torch.tensor(better_worse, dtype=torch.int64).reshape(-1, 2)
        return Batch(self._inputs(rows), pairs_of_rows, tuple(rows))

    def _images(self, index: int, pairs: Sequence[Pair]) -> list[int]:
        """Which images of an item are computed. An item without pairs only fills up a batch: one image is enough."""
        if self.all_images:
            return list(range(len(self.items[index].images)))
        return sorted({image for pair in pairs for image in pair}) or [0]

    def _inputs(self, rows: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        if self.features is not None:
            return (torch.cat([self._features(index, image) for index, image in rows]),)
        items = list(dict.fromkeys(index for index, _ in rows))
        place = {index: number for number, index in enumerate(items)}
        ids, mask = tokenize([self.items[index].prompt for index in items], self.max_tokens)
        prompt_of_row = torch.tensor([place[index] for index, _ in rows])
        files = [self.items[index].images[image] for index, image in rows]
        return ids[prompt_of_row], mask[prompt_of_row], self.pixels.pixels(files)

    def _features(self, index: int, image: int) -> Tensor:
        assert self.features is not None
        item = self.items[index]
        return self.features.features(item.prompt, [item.images[image]])


def _by_item(drawn: Sequence[Sample]) -> dict[int, list[Pair]]:
    """{item: its pairs}: the samples of one item share their images."""
    found: dict[int, list[Pair]] = {}
    for index, pairs in drawn:
        found.setdefault(index, []).extend(pairs)
    return found
