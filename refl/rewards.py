"""Rewards, and how a scorer of imagereward_core is loaded for a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import ConfigError, RewardError
from .settings import parse_reward


class DifferentiableScorer(Protocol):
    """A scorer: `differentiable(prompts, images)` → [B] for images [B, 3, H, W] in [0, 1]."""

    @property
    def name(self) -> str: ...

    def differentiable(self, prompts: Sequence[str], images: Tensor) -> Tensor: ...

    def to(self, device: Any) -> Any: ...


@dataclass
class Component:
    """One reward of a mix. mean and std standardise it; None means they are measured on the base model's pictures."""

    scorer: DifferentiableScorer
    weight: float = 1.0
    mean: float | None = 0.0
    std: float | None = 1.0

    @property
    def name(self) -> str:
        """The scorer's name."""
        return self.scorer.name


class RewardMix:
    """A weighted mean of standardised rewards: sum(w_i z_i) / sum(|w_i|), z_i = (r_i - mean_i) / std_i.

    may_be_empty: for a run that follows no reward; then there is nothing to mix.
    """

    def __init__(self, components: Sequence[Component], *, may_be_empty: bool = False):
        if not components and not may_be_empty:
            raise ConfigError("rewards is empty: name at least one reward model")
        if components and not sum(abs(part.weight) for part in components) > 0:
            raise ConfigError("all rewards have weight 0")
        self.components = list(components)

    def raw(self, prompts: Sequence[str], images: Tensor) -> dict[str, Tensor]:
        """Scores of each reward in its own units, without gradient: name → [B]."""
        with torch.no_grad():
            return {part.name: part.scorer.differentiable(prompts, images).float().cpu() for part in self.components}

    def differentiable(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """The mixed reward [B] with gradient to the images."""
        scores = {part.name: part.scorer.differentiable(prompts, images).float() for part in self.components}
        return self.mix(scores)

    def mix(self, scores: dict[str, Tensor]) -> Tensor:
        """Mixed reward [B] from each reward's own score."""
        total = sum(
            part.weight * (scores[part.name] - (part.mean or 0.0)) / (part.std or 1.0) for part in self.components
        )
        return total / sum(abs(part.weight) for part in self.components)  # type: ignore[return-value]

    def calibrate(self, scores: dict[str, Tensor]) -> None:
        """Fill in missing means and standard deviations from the base model's pictures.

        Raises RewardError for a reward that gives all of them the same score: its gradient would be noise.
        """
        for part in self.components:
            values = scores[part.name]
            spread = float(values.std()) if len(values) > 1 else float("nan")
            if not torch.isfinite(values).all():
                raise RewardError(
                    f"reward {part.name} returned NaN or infinity for the base model's pictures: its weights are"
                    " damaged or the precision too low"
                )
            if len(values) > 1 and spread < 1e-6:
                raise RewardError(
                    f"reward {part.name} gives all {len(values)} pictures of the base model the same score"
                    f" ({float(values[0]):.4g}): it cannot teach anything"
                )
            if part.mean is None or part.std is None:
                part.mean, part.std = float(values.mean()), spread

    def calibration(self) -> dict[str, list[float | None]]:
        """name → [mean, std], to be stored with a run."""
        return {part.name: [part.mean, part.std] for part in self.components}

    def restore(self, calibration: dict[str, list[float | None]]) -> None:
        """Take over stored means and standard deviations."""
        for part in self.components:
            if part.name in calibration:
                part.mean, part.std = calibration[part.name]

    def to(self, device: Any) -> RewardMix:
        """Move all reward models."""
        for part in self.components:
            part.scorer.to(device)
        return self


def load_rewards(texts: Sequence[str], device: Any, precision: str = "auto", models_dir: str = "") -> RewardMix:
    """The mix of the configured rewards. RewardError says which one cannot be had or has no gradient."""
    components = []
    for text in texts:
        name, weight = parse_reward(text)
        scorer = load_scorer(name, device, precision, models_dir)
        if not scorer.info.differentiable:
            raise RewardError(f"reward {name} has no gradient: it can be a judge (--judges), not a reward")
        components.append(Component(scorer, weight, scorer.info.mean, scorer.info.std))
    if len({part.name for part in components}) < len(components):
        raise ConfigError(f"rewards names a model twice: {', '.join(texts)}")
    return RewardMix(components)


def load_scorer(name: str, device: Any, precision: str, models_dir: str, what: str = "reward") -> Any:
    """One scorer of imagereward_core by registry name, path or `package.module:function`, frozen. what: what it is to
    the run, for the RewardError.
    """
    from imagereward_core.errors import ImageRewardError
    from imagereward_core.scorers import load_scorer as load

    if precision == "auto":  # fp16 gradients underflow without a loss scaler
        precision = "bf16" if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    try:
        scorer = load(name, own_code=True, device=device, precision=precision, models_dir=models_dir or None)
    except (ImageRewardError, ImportError) as error:
        raise RewardError(f"{what} {name}: {error}") from error
    return scorer.eval().requires_grad_(False)


def is_here(name: str, models_dir: str) -> bool:
    """Whether a scorer can be loaded without a download."""
    from imagereward_core import registry, weights
    from imagereward_core.errors import ModelNotFoundError

    try:
        sources = () if weights.is_path(name) else registry.get(name).sources
    except ModelNotFoundError:  # not of the registry: loading says whether it is anything
        return True
    try:
        for source in sources:
            weights.locate(source, models_dir=models_dir or None, download=False)
    except ModelNotFoundError:
        return False
    return True


def published_reward_model(device: str = "meta") -> torch.nn.Module:
    """A reward model of ImageReward-v1.0's size without weights, for the memory estimate."""
    from imagereward_core.model import RewardModel

    with torch.device(device):
        return RewardModel()
