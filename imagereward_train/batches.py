"""What each process computes in each update. The plan depends on the seed and the update's number alone, so that one
process or many, whole or resumed, see the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

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
        judged: dict[int, list[Pair]] = {}
        for index, pairs in drawn:
            judged.setdefault(index, []).extend(pairs)
        rows: list[tuple[int, int]] = []
        better_worse: list[tuple[int, int]] = []
        for index, judged_pairs in judged.items():
            used = (
                range(len(self.items[index].images))
                if self.all_images
                else sorted({image for pair in judged_pairs for image in pair}) or [0]
            )
            place = {image: len(rows) + offset for offset, image in enumerate(used)}
            rows += [(index, image) for image in used]
            better_worse += [(place[better], place[worse]) for better, worse in judged_pairs]
        return Batch(self._inputs(rows), torch.tensor(better_worse, dtype=torch.int64).reshape(-1, 2), tuple(rows))

    def _inputs(self, rows: list[tuple[int, int]]) -> tuple[Tensor, ...]:
        if self.features is not None:
            return (
                torch.cat([self.features.features(self.items[i].prompt, [self.items[i].images[k]]) for i, k in rows]),
            )
        prompts = list(dict.fromkeys(index for index, _ in rows))
        ids, mask = tokenize([self.items[index].prompt for index in prompts], self.max_tokens)
        source = torch.tensor([prompts.index(index) for index, _ in rows])
        return ids[source], mask[source], self.pixels.pixels([self.items[i].images[k] for i, k in rows])


def prefetch(make: Callable[[Any], Batch], parts: Sequence[Any]) -> Iterator[Batch]:
    """make(part) for each part, the next one being read while this one is computed."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="imagereward-batch") as pool:
        waiting = [pool.submit(make, part) for part in parts[:1]]
        for part in [*parts[1:], None] if parts else []:
            batch = waiting.pop().result()
            if part is not None:
                waiting.append(pool.submit(make, part))
            yield batch
