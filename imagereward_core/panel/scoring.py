"""Several scorers on the same images, loaded together or one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .. import registry
from ..errors import ConfigError, ImageRewardError, PromptError
from .combine import PanelResult, combine
from .constants import Constants
from .memory import POLICIES, by_backbone, fits, free_memory

if TYPE_CHECKING:
    from ..scorers.base import Scorer

Progress = Callable[[int, int], None]
Load = Callable[..., "Scorer"]
Name = TypeVar("Name", str, int)


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
        from ..tokenizer import check_prompt

        prompts, images = [check_prompt(prompt) for prompt in prompts], list(images)
        if len(prompts) != len(images):
            raise PromptError(f"one prompt per image is wanted, found {len(prompts)} and {len(images)} images")
        together = self.together()
        values: dict[str, list[float]] = {}
        better: dict[str, bool] = {}
        settings: dict[str, dict[str, Any]] = {}
        constants = dict(self.constants)
        shown: dict[str, str] = {}
        for batch in [self.names] if together else by_backbone(self.names):
            loaded = self._loaded(batch, keep=together)
            for name, scorer in loaded.items():
                shown[name] = scorer.name
                better[scorer.name] = scorer.info.higher_is_better
                settings[scorer.name] = dict(scorer.settings)
                _settle(constants, scorer)
            report = _share(progress, len(values), len(batch), len(self.names), len(images))
            found = score_together(loaded, prompts, images, report)
            values.update({shown[name]: scores for name, scores in found.items()})
            del loaded, scorer  # or the last of them stays in memory beside the next
        ordered = {shown[name]: values[shown[name]] for name in self.names}
        result = combine(prompts, ordered, better, constants)
        return PanelResult(result.scores, result.constants, settings)

    def together(self) -> bool:
        """Whether all scorers are in memory at once. What is loaded already needs no further room."""
        if self.policy != "auto":
            return self.policy == "together"
        return fits([name for name in self.names if name not in self._kept], self.options, self._free_bytes)

    def unload(self) -> None:
        """Let go of all scorers."""
        self._kept.clear()

    def _loaded(self, names: Sequence[str], keep: bool) -> dict[str, Scorer]:
        from ..scorers import load_scorer
        from ..scorers.loading import Pool

        load, pool = self._load or load_scorer, Pool()
        found = {name: self._kept[name] for name in names if name in self._kept}
        for name in names:
            if name not in found:
                extra = {"config": self.configs[name]} if name in self.configs else {}
                found[name] = load(name, pool=pool, **extra, **self.options)
        if keep:
            self._kept = found
        return found


def score_together(
    scorers: Mapping[Name, Scorer], prompts: Sequence[str], images: Sequence[Any], progress: Progress | None = None
) -> dict[Name, list[float]]:
    """The scores of scorers that are loaded, by the names given. Those that share a backbone share its forward: each
    image is read and encoded once for them.
    """
    from ..scorers.base import runs_of, score_runs

    groups: dict[tuple[Any, ...], list[Name]] = {}
    for name, scorer in scorers.items():
        groups.setdefault(scorer.features_key(), []).append(name)
    values: dict[Name, list[float]] = {}
    prompts, images = list(prompts), list(images)
    for group in groups.values():
        report = _share(progress, len(values), len(group), len(scorers), len(images))
        found = score_runs([scorers[name] for name in group], prompts, images, runs_of(images), report)
        values.update(zip(group, found))
    return {name: values[name] for name in scorers}


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
    """The progress of `now` of all scorers, after `before` of them are done; it counts images once per scorer."""
    if progress is None:
        return None

    def report(done: int, total: int) -> None:
        progress(before * count + now * count * done // total, scorers * count)

    return report
