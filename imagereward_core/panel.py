"""One view over several scorers: each one's own value, their common value, and how much they disagree.

The panel's value of an image is the mean of its standardised scores, (score - mean) / SD, with constants that hold for
every image: the registry's, or those of the user's own scores (`constants_of`). Where a scorer has neither, every
scorer counts by its ranks within the prompt instead; such a value compares images of one prompt and of one job only, so
no limit can be set on it (`Panel.absolute`). The disagreement is the standard deviation of the standardised scores.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import registry
from .errors import ConfigError, ImageRewardError, PromptError

if TYPE_CHECKING:
    from .scorers.base import Scorer

Progress = Callable[[int, int], None]
Load = Callable[..., "Scorer"]
POLICIES = ("auto", "together", "one by one")
SPARE = 1.5  # memory wanted for each byte of weights: activations, and the file while it is read
AUTHORS = "the authors'"
OWN = "own scores"


@dataclass(frozen=True)
class Constants:
    """What a scorer's values are standardised by, and where that comes from."""

    mean: float
    std: float
    source: str = AUTHORS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(f"a mean and a positive standard deviation are wanted, found {self.mean}, {self.std}")

    def standardised(self, value: float) -> float:
        """(value - mean) / std."""
        return (value - self.mean) / self.std


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


def registry_constants(name: str) -> Constants | None:
    """The constants that the registry has for a scorer; None where its authors published none."""
    try:
        info = registry.get(name)
    except ImageRewardError:
        return None
    return None if info.mean is None or info.std is None else Constants(info.mean, info.std)


def constants_of(values: Mapping[str, Sequence[float]]) -> dict[str, Constants]:
    """Constants from the user's own scores: name → at least two values that differ. Raises ConfigError."""
    found = {}
    for name, scores in values.items():
        if len(scores) < 2 or statistics.pstdev(scores) == 0:
            raise ConfigError(f"{name}: two scores that differ are wanted, to standardise by; found {len(scores)}")
        found[name] = Constants(statistics.fmean(scores), statistics.pstdev(scores), OWN)
    return found


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


class Panel:
    """Several scorers on the same images. Backbones that scorers share are loaded once and run once per image.

    policy: "together" keeps all scorers loaded between calls, "one by one" has one backbone in memory at a time and
    loads anew for each call, "auto" is together if the weights fit into the memory that is free. options: those of
    `imagereward_core.load_score`; configs: name → its `config`; load: what loads a scorer, for tests and hosts.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        policy: str = "auto",
        constants: Mapping[str, Constants] | None = None,
        configs: Mapping[str, Any] | None = None,
        load: Load | None = None,
        free_bytes: Callable[[Any], int | None] | None = None,
        **options: Any,
    ):
        if not names:
            raise ConfigError("a panel needs at least one scorer")
        if policy not in POLICIES:
            raise ConfigError(f"policy must be {', '.join(POLICIES)}; found {policy!r}")
        shown = [_shown(name) for name in names]
        if len(set(shown)) < len(shown):
            raise ConfigError(f"the panel names a scorer twice: {', '.join(shown)}")
        self.names = list(names)
        self.policy = policy
        self.constants = dict(constants or {})
        self.configs = dict(configs or {})
        self.options = options
        self._load = load
        self._free_bytes = free_bytes or free_memory
        self._kept: dict[str, Scorer] = {}

    def score(self, prompt: str, images: Sequence[Any], *, progress: Progress | None = None) -> PanelResult:
        """Images of one prompt."""
        return self.score_pairs([prompt] * len(images), images, progress=progress)

    def score_pairs(
        self, prompts: Sequence[str], images: Sequence[Any], *, progress: Progress | None = None
    ) -> PanelResult:
        """N prompts with N images. progress(done, total) counts each image once per scorer.

        Raises what loading and scoring raise; scorers loaded for this call are let go then too.
        """
        from .scorers.base import runs_of, score_runs
        from .tokenizer import check_prompt

        prompts, images = [check_prompt(prompt) for prompt in prompts], list(images)
        if len(prompts) != len(images):
            raise PromptError(f"one prompt per image is wanted, found {len(prompts)} and {len(images)} images")
        together = self.together()
        batches = [self.names] if together else by_backbone(self.names)
        values: dict[str, list[float]] = {}
        better: dict[str, bool] = {}
        settings: dict[str, dict[str, Any]] = {}
        constants = dict(self.constants)
        shown: dict[str, str] = {}
        for batch in batches:
            loaded = self._loaded(batch, keep=together)
            shown.update({name: scorer.name for name, scorer in loaded.items()})
            groups: dict[tuple[Any, ...], list[Scorer]] = {}
            for scorer in loaded.values():
                groups.setdefault(scorer.features_key(), []).append(scorer)
            for group in groups.values():
                report = _share(progress, len(values), len(group), len(self.names), len(images))
                for scorer, scores in zip(group, score_runs(group, prompts, images, runs_of(images), report)):
                    values[scorer.name] = scores
                    better[scorer.name] = scorer.info.higher_is_better
                    settings[scorer.name] = dict(scorer.settings)
                    _settle(constants, scorer)
            del loaded, groups, group, scorer  # or the last of them stays in memory beside the next
        ordered = {shown[name]: values[shown[name]] for name in self.names}
        result = combine(prompts, ordered, better, constants)
        return PanelResult(result.scores, result.constants, settings)

    def together(self) -> bool:
        """Whether all scorers are in memory at once."""
        if self.policy != "auto":
            return self.policy == "together"
        free = self._free_bytes(self.options.get("device"))
        return free is None or wanted_bytes(self.names, self.options) * SPARE <= free

    def unload(self) -> None:
        """Let go of all scorers."""
        self._kept.clear()

    def _loaded(self, names: Sequence[str], keep: bool) -> dict[str, Scorer]:
        from .scorers import load_scorer
        from .scorers.loading import Pool

        load, pool = self._load or load_scorer, Pool()
        found = dict(self._kept)
        for name in names:
            if name not in found:
                extra = {"config": self.configs[name]} if name in self.configs else {}
                found[name] = load(name, pool=pool, **extra, **self.options)
        if keep:
            self._kept = found
        return found


def by_backbone(names: Sequence[str]) -> list[list[str]]:
    """The names in groups that share a backbone's file, each group as early as its first."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        try:
            sources = registry.get(name).sources
        except ImageRewardError:
            sources = ()
        groups.setdefault(sources[-1] if sources else name, []).append(name)
    return list(groups.values())


def wanted_bytes(names: Sequence[str], options: Mapping[str, Any]) -> int:
    """The weights of these scorers in memory, a shared file once; half of it in half precision. Files that the registry
    does not know count nothing.
    """
    sources: set[registry.Source] = set()
    for name in names:
        try:
            sources.update(registry.get(name).sources)
        except ImageRewardError:
            continue
    total = sum(source.size or source.about for source in sources)
    on_cuda = str(options.get("device") or "").startswith("cuda")
    half = options.get("precision") in ("fp16", "bf16") or (options.get("precision", "auto") == "auto" and on_cuda)
    return total // 2 if half else total


def free_memory(device: Any = None) -> int | None:
    """Free bytes on the device (by default the one a scorer would take); None where nobody says."""
    import torch

    from .scorers.base import pick_device

    place = pick_device(device)
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    try:
        import psutil
    except ImportError:
        return _from_proc()
    return int(psutil.virtual_memory().available)


def _from_proc() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None


def _shown(name: str) -> str:
    try:
        return registry.get(name).name
    except ImageRewardError:
        return name


def _settle(constants: dict[str, Constants], scorer: Scorer) -> None:
    """Constants under the scorer's shown name: given ones, or those of its own entry (a registry name or not)."""
    if scorer.name in constants:
        return
    if scorer.info.name in constants:
        constants[scorer.name] = constants[scorer.info.name]
    elif scorer.info.mean is not None and scorer.info.std is not None:
        constants[scorer.name] = Constants(scorer.info.mean, scorer.info.std)


def _share(progress: Progress | None, before: int, now: int, scorers: int, count: int) -> Progress | None:
    """The progress of `now` of all scorers, after `before` of them are done."""
    if progress is None:
        return None
    return lambda done, total: progress(before * count + now * done, scorers * count)
