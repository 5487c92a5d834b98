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
from imagereward_core.runs.measures import MIXED, REWARD

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
    inflation: float = math.nan  # length of the network's output as velocity, over the base model's; NaN: not measured
    pick_accuracy: float = math.nan  # share of held-out picks that come true; NaN in a run without picks
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


def changes(base: Evaluation, now: Evaluation) -> dict[str, list[float]]:
    """For the event log: the mixed reward's (`REWARD`) and each judge's paired change since `base`, with its standard
    error.
    """
    pairs = {REWARD: MIXED, **{name: name for name in now.judges}}
    return {name: list(paired_change(base.scores[key], now.scores[key])) for name, key in pairs.items()}


def win_rate(before: list[float], after: list[float], tie: float = 1e-6) -> tuple[float, float, float]:
    """Share of pictures that score higher than their twin of the same prompt and seed, ties counting half, with
    Wilson's 95 % interval.
    """
    count = len(before)
    wins = sum(0.5 if abs(b - a) <= tie else float(a > b) for b, a in zip(before, after))
    share = wins / count
    return share, *wilson(share, count)


CANNOT_JUDGE = "cannot judge"  # begins a verdict of what could not be measured


@dataclass(frozen=True)
class StopRule:
    """Recognises over-optimisation and damage by what the reward is not: judges, seed diversity, denoising error, the
    length of the network's output; and the reward where it falls. What could not be measured is a reason to stop, too.

    A score counts as fallen when its paired change is negative by more than two standard errors. On the small world a
    collapsed run raised even a second reward model, while diversity and the denoising error gave it away; so those have
    fixed limits of their own.
    """

    min_diversity: float = 0.7
    max_eps_mse: float = 1.75
    max_inflation: float = 1.015

    def verdict(self, base: Evaluation, now: Evaluation) -> str:
        """Why to stop, in plain words; empty if there is no reason."""
        missing = self._missing(base, now)
        reasons = [f"{CANNOT_JUDGE}: {', '.join(missing)} could not be measured"] if missing else []
        return "; ".join([*reasons, *self._limits(base, now), *self._falls(base, now)])

    @staticmethod
    def _missing(base: Evaluation, now: Evaluation) -> list[str]:
        """What is no number in one of the two evaluations."""
        measured = {
            "seed diversity": (base.diversity, now.diversity),
            "the denoising error": (base.eps_mse, now.eps_mse),
            "the length of the network's output": (base.inflation, now.inflation),
            "the reward": paired_change(base.scores[MIXED], now.scores[MIXED]),
        }
        for name in now.judges:
            measured[name] = paired_change(base.scores[name], now.scores[name])
        return [name for name, values in measured.items() if not all(map(math.isfinite, values))]

    def _limits(self, base: Evaluation, now: Evaluation) -> list[str]:
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
        length = now.inflation / base.inflation
        if max(length, 1 / length) > self.max_inflation:
            reasons.append(
                f"the network's output {'grows' if length > 1 else 'shrinks'}: as velocity it is {length:.3f} times as"
                f" long as the base model's (limit {self.max_inflation:g} in either direction)"
            )
        return reasons

    @staticmethod
    def _falls(base: Evaluation, now: Evaluation) -> list[str]:
        reasons = []
        if fallen(base.scores[MIXED], now.scores[MIXED]):
            reasons.append(
                f"the reward itself falls on held-out prompts ({base.reward:.2f} to {now.reward:.2f}): the learning"
                " rate is too high"
            )
        for name in now.judges:
            change, _ = paired_change(base.scores[name], now.scores[name])
            if not fallen(base.scores[name], now.scores[name]):
                continue
            if now.reward > base.reward:
                reasons.append(
                    f"the reward rises ({base.reward:.2f} to {now.reward:.2f}) while {name}, which is not trained on,"
                    f" falls by {-change:.3g}"
                )
            else:
                reasons.append(f"{name}, which is not trained on, falls by {-change:.3g}")
        return reasons


def fallen(before: list[float], after: list[float]) -> bool:
    """Whether paired scores fell by more than two standard errors."""
    change, error = paired_change(before, after)
    return change < -2 * error
