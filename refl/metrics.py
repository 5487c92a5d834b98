"""What tells improvement from over-optimisation: statistics of pictures that no reward is trained on, and the stop
rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imagereward_core.proportions import wilson

MIXED = "(mixed reward)"  # key of the mix among the scores; no file name and no model has this name
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def diversity(images: Tensor, seeds: int) -> float:
    """Mean distance between pictures of one prompt: RMS difference at 32×32, averaged over pairs of seeds, then
    prompts.

    images [P * seeds, 3, H, W] in [0, 1], all seeds of a prompt in a row. 0 = every seed gives the same picture.
    """
    if seeds < 2:
        return float("nan")
    small = F.interpolate(images.float(), (32, 32), mode="area").flatten(1).view(-1, seeds, 3 * 32 * 32)
    distances = torch.cdist(small, small) / math.sqrt(small.shape[-1])  # [P, S, S]
    return float(distances.sum(dim=(1, 2)).mean() / (seeds * (seeds - 1)))


def saturation(images: Tensor) -> float:
    """Mean HSV saturation of [N, 3, H, W] in [0, 1]."""
    high, low = images.amax(dim=1), images.amin(dim=1)
    return float(((high - low) / high.clamp(min=1e-4)).mean())


def contrast(images: Tensor) -> float:
    """Mean over pictures of the standard deviation of luminance."""
    weights = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return float((images * weights).sum(dim=1).flatten(1).std(dim=1).mean())


@dataclass
class Evaluation:
    """Metrics of one evaluation. `scores` holds each scorer's score per picture, in the same order at every
    evaluation.
    """

    step: int
    reward: float
    reward_std: float
    diversity: float
    saturation: float
    contrast: float
    eps_mse: float
    scores: dict[str, list[float]] = field(default_factory=dict)
    judges: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Without the single scores, for the event log."""
        data = dict(self.__dict__)
        data.pop("scores")
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in data.items()}


def paired_change(before: list[float], after: list[float]) -> tuple[float, float]:
    """Mean change of paired scores and its standard error."""
    change = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    error = float(change.std() / math.sqrt(len(change))) if len(change) > 1 else float("nan")
    return float(change.mean()), error


def win_rate(before: list[float], after: list[float], tie: float = 1e-6) -> tuple[float, float, float]:
    """Share of pictures that score higher than their twin of the same prompt and seed, ties counting half, with
    Wilson's 95 % interval.
    """
    count = len(before)
    wins = sum(0.5 if abs(b - a) <= tie else float(a > b) for b, a in zip(before, after))
    share = wins / count
    return share, *wilson(share, count)


@dataclass(frozen=True)
class StopRule:
    """Recognises over-optimisation: the reward rises while something it is not trained on breaks. And damage: it falls.

    A judge counts as fallen when its paired change is negative by more than two standard errors. On the small world a
    collapsed run raised even a second reward model, while diversity and the denoising error gave it away; so those have
    fixed limits of their own.
    """

    min_diversity: float = 0.7
    max_eps_mse: float = 1.75

    def verdict(self, base: Evaluation, now: Evaluation) -> str:
        """Why to stop, in plain words; empty if there is no reason."""
        reasons = []
        if now.diversity < self.min_diversity * base.diversity:
            reasons.append(
                "pictures of one prompt look more and more alike: seed diversity is"
                f" {now.diversity / base.diversity:.0%} of the base model's (limit {self.min_diversity:.0%})"
            )
        if now.eps_mse > self.max_eps_mse * base.eps_mse:
            reasons.append(
                f"the model is forgetting how to denoise: its error is {now.eps_mse / base.eps_mse:.1f} times the base"
                f" model's (limit {self.max_eps_mse:g})"
            )
        change, error = paired_change(base.scores[MIXED], now.scores[MIXED])
        if change < -2 * error:
            reasons.append(
                f"the reward itself falls on held-out prompts ({base.reward:.2f} to {now.reward:.2f}): the learning"
                " rate is too high"
            )
        if now.reward > base.reward:
            for name in now.judges:
                change, error = paired_change(base.scores[name], now.scores[name])
                if change < -2 * error:
                    reasons.append(
                        f"the reward rises ({base.reward:.2f} to {now.reward:.2f}) while {name}, which is not trained"
                        f" on, falls by {-change:.3g}"
                    )
        return "; ".join(reasons)
