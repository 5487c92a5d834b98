"""Rows in, scores out: decoding and resizing by as many threads as there are cores, while the network runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, ImageRewardError, MetadataError, ScoreError
from ..metadata import FoundPrompt, prompt_of, reason
from ..pipeline import ahead, chunks, cores
from .rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from ..scorers.base import Scorer


@dataclass(frozen=True)
class Scored:
    """What became of one row. `score` is None where there is an `error`."""

    row: Row
    score: float | None = None
    prompt: str | None = None
    error: str = ""


@dataclass(frozen=True)
class _Prepared:
    row: Row
    prompt: str | None = None
    pixels: Any = None
    error: str = ""
    seconds: float = 0.0  # of one core


class _Threads:
    """On a CPU the network and the decoders share the cores. torch's threads wait for each other awake: where the
    decoders have more to do, they take more from them than they give, and the network gets one thread.

    Measured once, on one thread, for small networks; large ones have always more to do than decoders. docs/scale.md has
    the shares. `with` gives torch its threads back.
    """

    SMALL = 30_000_000  # parameters

    def __init__(self, scorer: Scorer):
        import torch

        self._torch, self._scorer, self._before = torch, scorer, torch.get_num_threads()
        held = sum(tensor.numel() for part in scorer.parts().values() for tensor in part.parameters())
        self._open = scorer.device.type == "cpu" and self._before > 1 and held < self.SMALL

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._torch.set_num_threads(self._before)

    def share(self, batch: Sequence[_Prepared]) -> None:
        """Measure on the first batch that has a sound image: that is computed twice, as the first time is slow."""
        sound = next((item for item in batch if not item.error), None)
        if not self._open or sound is None:
            return
        self._open = False
        self._torch.set_num_threads(1)
        seconds = []
        for _ in range(2):
            begin = time.thread_time()
            _start([sound], self._scorer)
            seconds.append(time.thread_time() - begin)
        if min(seconds) > sound.seconds:
            self._torch.set_num_threads(self._before)


def score_rows(
    rows: Iterable[Row], scorer: Scorer, *, batch_size: int = 0, workers: int = 0, prompt: str | None = None
) -> Iterator[list[Scored]]:
    """A list of results for each batch of rows, in their order. What is wrong with a row is its `error`.

    batch_size: 0 is the scorer's own. workers: threads that decode and resize (0: one a core). prompt: of every row, in
    place of its own. Memory: up to three batches of pixels. On a GPU the next batch is handed over while the former one
    is computed. Raises ScoreError where the network returns NaN.
    """
    import torch

    def prepare(row: Row) -> _Prepared:
        return _prepared(row, scorer, prompt)

    batch_size = batch_size or scorer.batch_size
    depth = 2 * batch_size + (workers or cores())
    running: tuple[list[_Prepared], Tensor | None] | None = None
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(scorer.remembering_prompts())
        threads = stack.enter_context(_Threads(scorer))
        for batch in chunks(ahead(rows, prepare, workers=workers, depth=depth), batch_size):
            threads.share(batch)
            started = (batch, _start(batch, scorer))
            if running is not None:
                yield _results(*running, scorer)
            running = started
        if running is not None:
            yield _results(*running, scorer)


def _prepared(row: Row, scorer: Scorer, prompt: str | None) -> _Prepared:
    if row.error:
        return _Prepared(row, error=row.error)
    try:
        text = row.prompt if prompt is None else prompt
        if text is None and scorer.info.uses_prompt:
            text = _own_prompt(row)
        begin = time.thread_time()
        pixels = scorer.preprocess(row.image)
        return _Prepared(row, text, pixels, seconds=time.thread_time() - begin)
    except ImageRewardError as error:
        return _Prepared(row, row.prompt, error=str(error))
    except Exception as error:  # noqa: BLE001 - a decoder or a failing disk must not end the run
        return _Prepared(row, row.prompt, error=f"cannot read {row.file or row.id}: {type(error).__name__}: {error}")


def _own_prompt(row: Row) -> str:
    if not row.file:
        raise ImageError("no prompt: the row has none, and its image came without a file of its own")
    try:
        found = prompt_of(row.file)
    except MetadataError as error:
        raise ImageError(f"no prompt: {error}") from error
    if isinstance(found, FoundPrompt):
        return found.words
    raise ImageError(f"no prompt: {reason(found)}")


def _start(batch: Sequence[_Prepared], scorer: Scorer) -> Tensor | None:
    """The scores of the batch's sound rows, not waited for; None if there is none."""
    import torch

    sound = [item for item in batch if not item.error]
    if not sound:
        return None
    pixels = scorer.placed(torch.stack([item.pixels for item in sound]))
    texts = [item.prompt or "" for item in sound]
    return scorer.combine(texts[:1] if len(set(texts)) == 1 else texts, scorer.encode_images(pixels)).float()


def _results(batch: Sequence[_Prepared], values: Tensor | None, scorer: Scorer) -> list[Scored]:
    scores = iter(values.tolist() if values is not None else [])
    found = []
    for item in batch:
        score = None if item.error else next(scores)
        if score is not None and score - score != 0:  # NaN or infinite
            raise ScoreError(
                f"{scorer.name} returned {score} for {item.row.id}: the weights are damaged or {scorer.dtype} is too"
                " narrow for them; try precision fp32"
            )
        found.append(Scored(item.row, score, item.prompt, item.error))
    return found
