"""Image files scored by a panel: each scorer's own value is read, computed and written as a single run does it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, ImageRewardError, MetadataError
from ..files import FileScore, ScoreJob, score_files_by
from ..metadata import write_score
from ..metadata.infotext import StoredScore
from ..naming import PANEL_KEY, panel_keys
from .combine import combine
from .constants import Constants, of_infos, to_text

if TYPE_CHECKING:
    from ..scorers.base import Scorer

Results = dict[Path, dict[str, FileScore]]  # by file and by the name that is stored beside a scorer's scores


@dataclass(frozen=True)
class PanelFile(FileScore):
    """What became of one file. `score` is the panel's value, None if a scorer failed, for the reasons in `error`;
    `stored` and `written` tell that all scorers' were.
    """

    disagreement: float | None = None
    by_scorer: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PanelFiles:
    """A panel for files. `jobs` by the name stored beside each scorer's scores; `load(names)` gives their scorers, in
    that order, in memory together; `batches` of names are loaded one after another. `given` constants go before the
    registry's.
    """

    jobs: Mapping[str, ScoreJob]
    load: Callable[[Sequence[str]], Sequence[Scorer]]
    batches: Sequence[Sequence[str]]
    given: Mapping[str, Constants] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({job.score_key for job in self.jobs.values()}) < len(self.jobs):
            keys = panel_keys({name: job.info for name, job in self.jobs.items()}, next(iter(self.jobs.values())).key)
            jobs = {name: dataclasses.replace(job, key=keys[name]) for name, job in self.jobs.items()}
            object.__setattr__(self, "jobs", jobs)

    @property
    def constants(self) -> dict[str, Constants]:
        """What the values are standardised by; empty where a scorer has no constants, and ranks count."""
        known = of_infos({name: job.info for name, job in self.jobs.items()}, self.given)
        return known if len(known) == len(self.jobs) else {}

    @property
    def unknown(self) -> list[str]:
        """The scorers that have no constants."""
        known = of_infos({name: job.info for name, job in self.jobs.items()}, self.given)
        return [name for name in self.jobs if name not in known]

    def score(self, paths: Sequence[Path], tick: Callable[[], object] = lambda: None) -> Iterator[PanelFile]:
        """Yields a result for every file. `tick` is called for each file of each batch of scorers. An interruption or
        an error of a model is raised after what is complete.
        """
        found: Results = {path: {} for path in paths}
        ended: BaseException | None = None
        complete: list[Path] = []
        try:
            for batch in self.batches:
                jobs = [self.jobs[name] for name in batch]
                for results in score_files_by(paths, jobs, functools.partial(self.load, batch)):
                    by_name = found[results[0].path]
                    by_name.update(zip(batch, results))
                    tick()
                    if len(by_name) == len(self.jobs):
                        complete.append(results[0].path)
                        if self.constants:
                            yield from self._together(complete, found)
                            complete = []
        except (KeyboardInterrupt, ImageRewardError) as error:
            ended = error
        yield from self._together(complete, found)
        if ended is not None:
            raise ended

    def _together(self, paths: Sequence[Path], found: Results) -> Iterator[PanelFile]:
        """The panel's results of files that every scorer has seen."""
        rows = {path: [found[path][name] for name in self.jobs] for path in paths}
        whole = [path for path, results in rows.items() if all(result.score is not None for result in results)]
        prompts = {path: next((result.prompt for result in rows[path] if result.prompt), "") for path in paths}
        scores = {}
        if whole:
            values = {name: [found[path][name].score or 0.0 for path in whole] for name in self.jobs}
            better = {name: job.info.higher_is_better for name, job in self.jobs.items()}
            combined = combine([prompts[path] for path in whole], values, better, self.constants)
            scores = dict(zip(whole, combined.scores))
        for path in paths:
            results = rows[path]
            failed = {name: result.error for name, result in zip(self.jobs, results) if result.error}
            same = len(set(failed.values())) == 1 and len(failed) == len(self.jobs)
            error = next(iter(failed.values())) if same else "; ".join(f"{name}: {why}" for name, why in failed.items())
            score = scores.get(path)
            made = PanelFile(
                path,
                None if score is None else score.value,
                prompts[path] or None,
                next((result.source for result in results if result.prompt), ""),
                stored=all(result.stored for result in results),
                written=all(result.written for result in results),
                error=error,
                disagreement=None if score is None else score.disagreement,
                by_scorer={name: r.score for name, r in zip(self.jobs, results) if r.score is not None},
            )
            yield self._written(made)

    def _written(self, result: PanelFile) -> PanelFile:
        """The result, its value written into the file if that was asked for and holds in every job."""
        job = next(iter(self.jobs.values()))
        if not job.write or result.score is None or not self.constants:
            return result
        prompt = result.prompt if any(job.info.uses_prompt for job in self.jobs.values()) else None
        try:
            write_score(result.path, StoredScore(result.score, to_text(self.constants), prompt, PANEL_KEY))
        except (MetadataError, OSError) as error:
            return dataclasses.replace(result, written=False, error=result.error or str(error))
        return result


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError for a panel that names a scorer twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the panel names a scorer twice: {', '.join(twice)}")
