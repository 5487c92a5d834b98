"""Scoring image files: prompts found, stored scores reused, bad files kept apart, scores written back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, ImageError, ImageRewardError, MetadataError
from .metadata import ForeignText, FoundPrompt, NoPrompt, prompt_of, read_score, reason, write_score
from .metadata.infotext import StoredScore
from .naming import score_key
from .pipeline import ahead, cores
from .preprocess import open_image
from .registry import ModelInfo

if TYPE_CHECKING:
    from .scorers.base import Scorer

BATCH = 8  # images that are read ahead of a scorer whose own number is not known yet
Prepared = tuple[list["FileScore"], Any]  # a file's results so far, and its pixels where some are wanted


@dataclass(frozen=True)
class ScoreJob:
    """What to do with each file. `prompt` None: each image's own, as plain words. `model` names the weights in the
    files, `former` are names that the same weights had there before. `key` renames reward models' score. `batch_size`
    0: the scorers' own.
    """

    info: ModelInfo
    model: str
    prompt: str | None = None
    write: bool = False
    rescore: bool = False
    exif_transpose: bool = False
    batch_size: int = 0
    former: frozenset[str] = frozenset()
    key: str = ""

    @property
    def score_key(self) -> str:
        """The setting under which the score is kept in a file."""
        return score_key(self.info, self.key)


@dataclass(frozen=True)
class FileScore:
    """What became of one file. `score` is None if it failed, for the reason in `error`. `stored`: read from the file,
    not computed now. `error` beside a score: it could not be written. `source` of the prompt: given, infotext or text
    file.
    """

    path: Path
    score: float | None = None
    prompt: str | None = None
    source: str = ""
    stored: bool = False
    written: bool = False
    error: str = ""


def score_files(paths: Sequence[Path], job: ScoreJob, load: Callable[[], Scorer]) -> Iterator[FileScore]:
    """Yields a result for every path, in about their order, as soon as it is there. `load` is called when the first
    image needs computing. Whatever is wrong with one file ends up in its result; errors of the model are raised.
    """
    for (result,) in score_files_by(paths, [job], lambda: [load()]):
        yield result


def score_files_by(
    paths: Sequence[Path], jobs: Sequence[ScoreJob], load: Callable[[], Sequence[Scorer]]
) -> Iterator[list[FileScore]]:
    """As `score_files`, by several scorers that are in memory together: for every path a result of each job. The jobs
    differ in their scorers alone. A file is read once for all of them.
    """
    scorers: list[Scorer] = []
    size = jobs[0].batch_size
    depth = size or BATCH

    def looked_at() -> Iterator[list[FileScore]]:
        for results in ahead(paths, lambda path: _looked_at(path, jobs), depth=depth + cores()):
            if not scorers and any(map(_is_open, results)):
                scorers.extend(load())
                for scorer in scorers:
                    scorer.batch_size = size or scorer.batch_size
            yield results

    batch: list[Prepared] = []
    for results, image in ahead(looked_at(), lambda results: _decoded(results, jobs, scorers), depth=2 * depth):
        if image is None:
            yield results
            continue
        batch.append((results, image))
        if len(batch) >= (size or scorers[0].batch_size):
            yield from _scored(batch, jobs, scorers)
            batch = []
    if batch:
        yield from _scored(batch, jobs, scorers)


def _looked_at(path: Path, jobs: Sequence[ScoreJob]) -> list[FileScore]:
    """The file's prompt and stored scores."""
    results = [FileScore(path, prompt=job.prompt, source="given") for job in jobs]
    try:
        with _reading(path):
            if not path.is_file():
                _refuse(path)
            if any(_wants_prompt(job) for job in jobs):
                found = prompt_of(path)
                results = [
                    _with_prompt(result, found) if _wants_prompt(job) else result for result, job in zip(results, jobs)
                ]
            return [_with_stored(result, job) for result, job in zip(results, jobs)]
    except ImageRewardError as error:
        return _failed(results, str(error))


def _decoded(results: list[FileScore], jobs: Sequence[ScoreJob], scorers: Sequence[Scorer]) -> Prepared:
    """With the pixels that the scorers will ask for, if there is something to compute. Those that share their features
    ask once.
    """
    from .scorers.base import Decoded

    if not any(map(_is_open, results)):
        return results, None
    first = {scorer.features_key(): scorer for scorer in reversed(scorers)}
    path = results[0].path
    try:
        with _reading(path):
            return results, Decoded(path, list(first.values()), jobs[0].exif_transpose)
    except ImageRewardError as error:
        return _failed(results, str(error)), None


def _failed(results: Sequence[FileScore], error: str) -> list[FileScore]:
    """With this error wherever a score was still to be computed."""
    return [replace(result, error=error) if _is_open(result) else result for result in results]


def _wants_prompt(job: ScoreJob) -> bool:
    return job.prompt is None and job.info.uses_prompt


def _with_prompt(result: FileScore, found: FoundPrompt | NoPrompt | ForeignText) -> FileScore:
    if isinstance(found, FoundPrompt):
        return replace(result, prompt=found.words, source=found.source)
    return replace(result, source="", error=f"no prompt: {reason(found)}; give one with --prompt")


def _with_stored(result: FileScore, job: ScoreJob) -> FileScore:
    """With the score that the file holds, unless it is to be computed again."""
    stored = None if job.rescore or result.error else _stored(result.path, result.prompt, job)
    return result if stored is None else replace(result, score=stored.value, stored=True)


def _is_open(result: FileScore) -> bool:
    """Whether a score is still to be computed."""
    return result.score is None and not result.error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a decoder or a failing disk raises becomes this file's error: one must not end a folder's run."""
    try:
        yield
    except ImageRewardError:
        raise
    except Exception as error:
        raise ImageError(f"cannot read {path}: {type(error).__name__}: {error}") from error


def _refuse(path: Path) -> None:
    """ImageError for what is no file. Opening a pipe would wait for ever."""
    if path.exists() and not path.is_dir():
        raise ImageError(f"{path} is no regular file (a pipe, socket or device)")
    open_image(path)  # says what is wrong


def _stored(path: Path, prompt: str | None, job: ScoreJob) -> StoredScore | None:
    """The score in the file if it is this model's for this prompt."""
    try:
        stored = read_score(path, job.score_key)
    except MetadataError:
        return None  # the pixels may be whole all the same; reading them will tell
    if stored is None or stored.model not in {job.model, *job.former}:
        return None
    return None if job.info.uses_prompt and stored.prompt != prompt else stored


def _scored(batch: list[Prepared], jobs: Sequence[ScoreJob], scorers: Sequence[Scorer]) -> Iterator[list[FileScore]]:
    try:
        found = _computed(batch, scorers)
    except ImageError as error:  # found only when its pixels were converted: the others of its batch are scored
        if len(batch) == 1:
            results, _ = batch[0]
            failed = f"{results[0].path}: {error}"
            yield _failed(results, failed)
            return
        for single in batch:
            yield from _scored([single], jobs, scorers)
        return
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise ConfigError(
            f"{scorers[0].device} has not enough memory for {len(batch)} images at once: use a smaller batch size or"
            " another device"
        ) from error
    for row, (results, _) in enumerate(batch):
        yield [
            _kept(replace(result, score=found[column, row]), job) if (column, row) in found else result
            for column, (result, job) in enumerate(zip(results, jobs))
        ]


def _computed(batch: list[Prepared], scorers: Sequence[Scorer]) -> dict[tuple[int, int], float]:
    """(number of the scorer, number of the image) → score, of all that is open. Scorers with the same open images may
    share their forwards.
    """
    from .panel.scoring import score_together

    found: dict[tuple[int, int], float] = {}
    alike: dict[tuple[int, ...], list[int]] = {}
    for column in range(len(scorers)):
        rows = tuple(row for row, (results, _) in enumerate(batch) if _is_open(results[column]))
        if rows:
            alike.setdefault(rows, []).append(column)
    for rows, columns in alike.items():
        images = [batch[row][1] for row in rows]
        prompts = [_prompt_among([batch[row][0][column] for column in columns]) for row in rows]
        if len(columns) == 1:
            values = {columns[0]: scorers[columns[0]].score_pairs(prompts, images)}
        else:
            values = score_together({column: scorers[column] for column in columns}, prompts, images)
        found.update({(column, row): score for column in columns for row, score in zip(rows, values[column])})
    return found


def _prompt_among(results: Sequence[FileScore]) -> str:
    """One image's prompt: scorers that read none are given whichever there is."""
    return next((result.prompt for result in results if result.prompt), "")


def _kept(result: FileScore, job: ScoreJob) -> FileScore:
    """The result, its score written into the file if that was asked for."""
    if not job.write or result.score is None:
        return result
    prompt = result.prompt if job.info.uses_prompt else None
    try:
        write_score(result.path, StoredScore(result.score, job.model, prompt, job.score_key))
    except (MetadataError, OSError) as error:
        return replace(result, error=str(error))
    return replace(result, written=True)
