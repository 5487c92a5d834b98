"""Validation: loss and accuracy per pair, mean and spread of the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from imagereward_core.pipeline import ahead

from .batches import Collator, samples, share
from .items import Item
from .loss import pairwise_loss


@dataclass(frozen=True)
class Validation:
    """Of one pass: mean loss and share of rightly ordered pairs (equal rewards count as wrong, as the authors count),
    mean and standard deviation of the rewards over all (prompt, image)."""

    loss: float
    accuracy: float
    mean: float
    std: float
    pairs: int


def summarise(items: Sequence[Item], rewards: Sequence[Sequence[float]]) -> Validation:
    """Validation values from the rewards of each item's images."""
    differences = np.array(
        [r[better] - r[worse] for item, r in zip(items, rewards) for better, worse in item.pairs], dtype=np.float64
    )
    flat = np.array([value for r in rewards for value in r], dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a NaN stays one, and the caller says what it means
        loss = float(np.mean(np.logaddexp(0, -differences)))
    return Validation(loss, float(np.mean(differences > 0)), float(flat.mean()), float(flat.std()), len(differences))


def all_rewards(model: torch.nn.Module, collate: Collator, accelerator: Any, micro: int) -> list[list[float]]:
    """The reward of every image of every item, computed in shares by all processes and known to each of them."""
    items = collate.items
    whole = samples(items, rank_pair=False)
    parts = share(whole, micro, accelerator.num_processes, accelerator.process_index)
    found: dict[tuple[int, int], float] = {}
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        for batch in ahead(parts, collate, workers=1):
            values = model(*batch.to(accelerator.device).inputs)[:, 0].float().cpu().tolist()
            found.update(zip(batch.rows, values))
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        found = dict(gather_object(list(found.items())))
    return [[found[index, image] for image in range(len(item.images))] for index, item in enumerate(items)]


def validate(model: torch.nn.Module, collate: Collator, accelerator: Any, micro: int) -> Validation:
    """One pass over the collator's items in evaluation mode."""
    return summarise(collate.items, all_rewards(model, collate, accelerator, micro))


def batch_loss(model: torch.nn.Module, batch: Any, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, rewards [N]) of a training batch whose update has `total` pairs."""
    rewards = model(*batch.inputs)[:, 0].float()
    if not len(batch.pairs):
        return rewards.sum() * 0, rewards
    return pairwise_loss(rewards, batch.pairs, total), rewards
