"""Who judges a job's images: one scorer, or a panel of several whose standardised values are averaged.

A panel's value is known as soon as an image is scored if every scorer has a mean and SD: the registry's, or those given
with the job. Otherwise all scorers count by their ranks within the prompt, known when the job's images are complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .core import RM, ImageRewardError, naming, registry, tastes
from .core import module as core_module

RANKS = "ranks within the prompt"


def entry(name: str, folder: Path) -> registry.ModelInfo:
    """The entry of a scorer as the WebUI names it: the registry's, that of a file in the models folder (the one that a
    JSON beside it names, else an own reward model's), or what can be said of an installed package's.
    """
    if name in registry.names():
        return registry.get(name)
    if tastes.find(name) is not None:
        return registry.describe(name)
    if described := _described(name, folder):
        return described[0]
    info = registry.describe(name)
    if name not in RM.available_scores():
        return info
    key = info.key if naming.key_problem(name) else name
    return replace(info, key=key, scale=registry.Scale(info.scale.low, info.scale.high), description="")


def stored_name(name: str, folder: Path) -> str:
    """What stands beside a scorer's scores: the registry's name, or an own file's or a taste's with its hash."""
    if name in registry.names():
        return name
    if (taste := tastes.find(name)) is not None:
        return naming.own_model_name(taste)
    described = _described(name, folder)
    return described[1] if described else naming.own_model_name(folder / name)


def _described(name: str, folder: Path) -> tuple[registry.ModelInfo, str] | None:
    """(entry, stored name) by the JSON beside a file; None without one. What is wrong with it is said by loading."""
    if not (folder / name).with_suffix(".json").is_file():
        return None
    try:
        return core_module("scorers").entry_of(folder / name)
    except ImageRewardError:
        return None


@dataclass(frozen=True)
class Judged:
    """One image: the value that counts (None while ranks are open), and of a panel the rest."""

    score: float | None
    disagreement: float | None = None
    by_scorer: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Judges:
    """The scorers of a job. `keys` are where each one's own values are stored; `constants` what a panel's are
    standardised by, empty where ranks count.
    """

    names: tuple[str, ...]
    is_panel: bool
    infos: Mapping[str, registry.ModelInfo]
    keys: Mapping[str, str]
    constants: Mapping[str, Any]
    unknown: tuple[str, ...] = ()

    @property
    def absolute(self) -> bool:
        """Whether values mean the same in every job, so that a limit can be set."""
        return not self.unknown

    @property
    def key(self) -> str:
        """Where the value that counts is stored."""
        return naming.PANEL_KEY if self.is_panel else self.keys[self.names[0]]

    @property
    def scale(self) -> registry.Scale:
        """What the value that counts means."""
        return PANEL_SCALE if self.is_panel else self.infos[self.names[0]].scale

    @property
    def uses_prompt(self) -> bool:
        """Whether any of them reads the prompt."""
        return any(info.uses_prompt for info in self.infos.values())

    @property
    def standardised_by(self) -> str:
        """The constants as text, or that ranks count."""
        return core_module("panel").to_text(self.constants) if self.absolute else RANKS

    @property
    def no_limit(self) -> str:
        """Why no limit can be set, and what to do; "" where one can."""
        if self.absolute:
            return ""
        return (
            f"no limit on the panel's value, only order and top k: nobody published mean and SD of"
            f" {', '.join(self.unknown)}, so ranks within the prompt count. Give constants, or take those of your own"
            " scores by the button in the accordion"
        )

    def judged(self, prompts: Sequence[str], by_scorer: Mapping[str, Sequence[float]]) -> list[Judged]:
        """The images' values from each scorer's own. Ranks count only where these are all images of a job."""
        if not self.is_panel:
            return [Judged(score) for score in by_scorer[self.names[0]]]
        better = {name: info.higher_is_better for name, info in self.infos.items()}
        constants = self.constants if self.absolute else {}
        result = core_module("panel").combine(prompts, by_scorer, better, constants)
        return [Judged(score.value, score.disagreement, score.by_scorer) for score in result.scores]

    def at_once(self, prompt: str, by_scorer: Mapping[str, Sequence[float]]) -> Judged:
        """One image as it is finished, from each scorer's own value. Its rank among the others is still open."""
        (found,) = self.judged([prompt], by_scorer)
        return found if self.absolute else replace(found, score=None, disagreement=None)


# A mean of several standardised values spreads less than one of them.
PANEL_SCALE = registry.Scale(-1.5, 1.5, mean=0.0, std=1.0)


def judges_of(
    names: Sequence[str], is_panel: bool, folder: Path, own_key: str = "", given: Mapping[str, Any] | None = None
) -> Judges:
    """The judges by name. `own_key`: what the user calls reward models' score; `given`: constants that go before the
    registry's. Raises ConfigError.
    """
    infos = {name: entry(name, folder) for name in names}
    if not is_panel:
        return Judges(tuple(names), False, infos, naming.panel_keys(infos, own_key), {})
    known = core_module("panel").of_infos(infos, given)
    unknown = tuple(name for name in names if name not in known)
    return Judges(tuple(names), True, infos, naming.panel_keys(infos, own_key), {} if unknown else known, unknown)
