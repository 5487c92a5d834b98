"""Scoring image files: prompts found, stored scores reused, bad files kept apart, scores written back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError, ImageError, ImageRewardError, MetadataError
from .metadata import FoundPrompt, prompt_of, read_score, reason, write_score
from .metadata.infotext import StoredScore
from .naming import score_key
from .preprocess import open_image
from .registry import ModelInfo

if TYPE_CHECKING:
    from PIL import Image

    from .scorers.base import Scorer

READERS = 4  # threads that read and decode ahead of the network; Pillow decodes outside Python's lock


@dataclass(frozen=True)
class ScoreJob:
    """What to do with each file. `prompt` None: each image's own, as plain words. `model` names the weights in the
    files, `former` are names that the same weights had there before. `key` renames reward models' score.
    """

    info: ModelInfo
    model: str
    prompt: str | None = None
    write: bool = False
    rescore: bool = False
    exif_transpose: bool = False
    batch_size: int = 8
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
    scorer: Scorer | None = None
    batch: list[tuple[FileScore, Image.Image]] = []
    ahead: deque[Future[tuple[FileScore, Image.Image | None]]] = deque()
    waiting = iter(paths)
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="imagereward-files")
    try:
        while True:
            while len(ahead) < job.batch_size + READERS and (path := next(waiting, None)) is not None:
                ahead.append(pool.submit(_prepare, path, job))
            if ahead:
                result, image = ahead.popleft().result()
                if image is None:
                    yield result
                    continue
                batch.append((result, image))
            if batch and (len(batch) >= job.batch_size or not ahead):
                if scorer is None:
                    scorer = load()
                    scorer.batch_size = job.batch_size
                yield from _scored(batch, job, scorer)
                batch = []
            elif not ahead:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare(path: Path, job: ScoreJob) -> tuple[FileScore, Image.Image | None]:
    """The file's prompt and stored score, and its pixels if there is something to compute."""
    result = FileScore(path, prompt=job.prompt, source="given")
    try:
        with _reading(path):
            if not path.is_file():
                _refuse(path)
            if job.prompt is None and job.info.uses_prompt:
                found = prompt_of(path)
                if not isinstance(found, FoundPrompt):
                    error = f"no prompt: {reason(found)}; give one with --prompt"
                    return replace(result, source="", error=error), None
                result = replace(result, prompt=found.words, source=found.source)
            stored = None if job.rescore else _stored(path, result.prompt, job)
            if stored is not None:
                return replace(result, score=stored.value, stored=True), None
            return result, open_image(path, job.exif_transpose)
    except ImageRewardError as error:
        return replace(result, error=str(error)), None


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


def _scored(batch: list[tuple[FileScore, Image.Image]], job: ScoreJob, scorer: Scorer) -> Iterator[FileScore]:
    try:
        scores = scorer.score_pairs([result.prompt or "" for result, _ in batch], [image for _, image in batch])
    except ImageError as error:  # found only when its pixels were converted: the others of its batch are scored
        if len(batch) == 1:
            yield replace(batch[0][0], error=f"{batch[0][0].path}: {error}")
            return
        for single in batch:
            yield from _scored([single], job, scorer)
        return
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise ConfigError(
            f"{scorer.device} has not enough memory for {len(batch)} images at once: use a smaller batch size or"
            " another device"
        ) from error
    for (result, _), score in zip(batch, scores):
        result = replace(result, score=score)
        if job.write:
            try:
                write_score(
                    result.path,
                    StoredScore(score, job.model, result.prompt if job.info.uses_prompt else None, job.score_key),
                )
                result = replace(result, written=True)
            except (MetadataError, OSError) as error:
                result = replace(result, error=str(error))
        yield result
