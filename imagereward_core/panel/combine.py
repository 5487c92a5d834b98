"""The panel's view of scores that are there."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, PromptError
from .constants import Constants, registry_constants


@dataclass(frozen=True)
class PanelScore:
    """One image: the panel's value, the scorers' disagreement, and by scorer the own and the standardised value."""

    value: float
    disagreement: float
    by_scorer: dict[str, float]
    standardised: dict[str, float]


@dataclass(frozen=True)
class PanelResult:
    """All images in their order. `constants` belong to the values and are stored with them; empty where ranks count.

    `absolute`: whether values of several jobs, or a limit, mean the same.
    """

    scores: list[PanelScore]
    constants: dict[str, Constants]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def absolute(self) -> bool:
        """Whether the values are standardised by constants."""
        return bool(self.constants)


def combine(
    prompts: Sequence[str],
    by_scorer: Mapping[str, Sequence[float]],
    higher_is_better: Mapping[str, bool] | None = None,
    constants: Mapping[str, Constants] | None = None,
) -> PanelResult:
    """The panel's view of scores that are there: name → one score per prompt and image pair.

    constants: those to use, by name; the registry's stand in for a name that is missing. Raises ConfigError.
    """
    if not by_scorer:
        raise ConfigError("a panel needs at least one scorer")
    for name, values in by_scorer.items():
        if len(values) != len(prompts):
            raise PromptError(f"{name} has {len(values)} scores for {len(prompts)} images")
    better = higher_is_better or {}
    known = {name: (constants or {}).get(name) or registry_constants(name) for name in by_scorer}
    used = {name: found for name, found in known.items() if found is not None}
    absolute = len(used) == len(by_scorer)
    standard: dict[str, list[float]] = {}
    for name, values in by_scorer.items():
        made = [used[name].standardised(value) for value in values] if absolute else ranks(prompts, values)
        standard[name] = made if better.get(name, True) else [-value for value in made]
    scores = []
    for index in range(len(prompts)):
        row = {name: values[index] for name, values in standard.items()}
        scores.append(
            PanelScore(
                statistics.fmean(row.values()),
                statistics.pstdev(row.values()),
                {name: values[index] for name, values in by_scorer.items()},
                row,
            )
        )
    return PanelResult(scores, used if absolute else {})


def ranks(prompts: Sequence[str], values: Sequence[float]) -> list[float]:
    """Ranks within each prompt, the best highest, shifted and scaled to mean 0 and SD 1; equal values share a rank, and
    a prompt whose images are all equal, or that has one, gives 0.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    found = [0.0] * len(values)
    for members in groups.values():
        own = [values[index] for index in members]
        placed = [sum(other < value for other in own) + (own.count(value) + 1) / 2 for value in own]
        spread = statistics.pstdev(placed)
        middle = statistics.fmean(placed)
        for index, rank in zip(members, placed):
            found[index] = (rank - middle) / spread if spread else 0.0
    return found
