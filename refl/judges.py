"""Judges: scorers that a run watches and never trains on. Which are taken when none was named, where they compute, and
what is left of a run's guard when one of them fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagereward_core import registry, weights
from imagereward_core.errors import ModelNotFoundError

from .errors import ConfigError, RewardError
from .log import logger
from .rewards import DifferentiableScorer, load_scorer

DEFAULT = ("PickScore", "CycleReward", "CLIP", "Aesthetic")  # the most telling first
MOST = 2
NONE = "none"  # in place of names: no judge on purpose
NOBODY = "No judge watches this run: its reward can rise while its pictures get worse."


class Judge:
    """A scorer as a run asks it: without gradient, where it has room; failing, it answers NaN and says why.

    kept_on_cpu: it does not follow the run to its device.
    """

    def __init__(self, scorer: DifferentiableScorer, *, kept_on_cpu: bool = False):
        self.scorer, self.kept_on_cpu = scorer, kept_on_cpu
        self.failure = ""

    @property
    def name(self) -> str:
        """The scorer's name."""
        return self.scorer.name

    @torch.no_grad()
    def score(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """Scores [B] on the CPU of images [B, 3, H, W] in [0, 1]; NaN where the scorer raises."""
        try:
            try:
                return self._ask(prompts, images)
            except torch.cuda.OutOfMemoryError:
                if self.kept_on_cpu:
                    raise
            logger.warning("the GPU has no room for the judge %s: it computes on the CPU from now on", self.name)
            self.kept_on_cpu = True
            self.scorer.to(torch.device("cpu"))
            return self._ask(prompts, images)
        except Exception as error:  # noqa: BLE001 - whatever a scorer raises, the run must end with its weights saved
            self.failure = f"{type(error).__name__}: {error}"
            logger.warning("the judge %s failed", self.name, exc_info=True)
            return torch.full((len(prompts),), float("nan"))

    def _ask(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        block = images.cpu() if self.kept_on_cpu else images
        return self.scorer.differentiable(prompts, block).float().cpu()

    def to(self, device: torch.device) -> None:
        """Follow the run to a device."""
        if not self.kept_on_cpu:
            self.scorer.to(device)


def check_measured(judges: Sequence[Judge], scores: dict[str, Tensor]) -> None:
    """RewardError for a judge that cannot score the base model's pictures: it would never tell anything."""
    for judge in judges:
        if not torch.isfinite(scores[judge.name]).all():
            raise RewardError(
                f"the judge {judge.name} cannot score the base model's pictures ("
                + (judge.failure or "it returned NaN or infinity")
                + "): name others with --judges, or none"
            )


def nobody(trained_on: Collection[str], there: Callable[[str], bool]) -> str:
    """What a run without judges says, and what to do about it; the arguments are those of `choose`."""
    ready = choose(trained_on, there)
    if ready:
        return f"{NOBODY} --judges {' '.join(ready)} would."
    wanted = _untrained(trained_on)
    return f"{NOBODY} None of {', '.join(wanted)} is on this machine: fetch one with `imagereward fetch {wanted[0]}`."


def choose(trained_on: Collection[str], there: Callable[[str], bool]) -> list[str]:
    """The default judges: the first of DEFAULT that are not trained on and are there, MOST of them.

    trained_on: names or paths of the rewards. there: whether a scorer's weights are on this machine.
    """
    return [name for name in _untrained(trained_on) if there(name)][:MOST]


def _untrained(trained_on: Collection[str]) -> list[str]:
    used = {_plain(name) for name in trained_on}
    return [name for name in DEFAULT if name not in used]


def _plain(name: str) -> str:
    """The registry's spelling of a name, or the name itself."""
    try:
        return registry.get(name).name
    except ModelNotFoundError:
        return name


def files_of(name: str, models_dir: str = "") -> list[Path]:
    """The weights of a scorer by name or path, as far as they can be found without loading it. Raises
    ModelNotFoundError for a name whose files are not on this machine.
    """
    if weights.is_path(name):
        path = Path(name).expanduser()
        return [path] if path.is_file() else []
    if _plain(name) not in registry.names():
        return []  # an installed package's, or code
    sources = registry.get(name).sources
    return [weights.locate(source, models_dir=models_dir or None, download=False) for source in sources]


def here(models_dir: str = "") -> Callable[[str], bool]:
    """Tells of a scorer of the registry whether all its weights are on this machine."""

    def there(name: str) -> bool:
        try:
            return bool(files_of(name, models_dir))
        except ModelNotFoundError:
            return False

    return there


def load(
    names: Sequence[str], device: torch.device, precision: str, models_dir: str, room: int | None, *, named: bool
) -> list[Judge]:
    """The judges of these names, on the device as long as `room` bytes last there (None: no limit), else on the CPU.

    named: the user named them, so that one which cannot be loaded is a RewardError; of those that were chosen for the
    user, it is left out with a warning.
    """
    if NONE in names and len(names) > 1:
        raise ConfigError(f"judges: {NONE} stands alone, found {', '.join(names)}")
    judges = []
    for name in [name for name in names if name != NONE]:
        size = _size(name, models_dir)
        fits = room is None or size <= room
        if not fits:
            logger.info("the judge %s computes on the CPU: the GPU's memory is needed for training", name)
        place: Any = device if fits else torch.device("cpu")
        try:
            judges.append(Judge(load_scorer(name, place, precision, models_dir, "judge"), kept_on_cpu=not fits))
        except RewardError as error:
            if named:
                raise
            logger.warning("%s: it does not judge this run", error)
            continue
        if room is not None and fits:
            room -= size
    return judges


def _size(name: str, models_dir: str) -> int:
    """Bytes of a scorer's weights on disk, which is the most they take in memory; 0 if that is not known."""
    try:
        return sum(path.stat().st_size for path in files_of(name, models_dir))
    except ModelNotFoundError:
        return 0  # it will be downloaded
