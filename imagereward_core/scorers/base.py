"""What every scorer can do. A scorer says how to encode images and prompts and how to combine them; reading files,
batching, sharing work between pairs and checking the result live here."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ScoreError
from ..pipeline import ahead, chunks
from ..preprocess import alone_if_large, open_image, pil_to_pixels, tensor_to_pixels
from ..registry import ModelInfo, labelled
from . import arguments
from .modulelike import ModuleLike

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Progress = Callable[[int, int], None]
BATCH = 8  # images of a forward
CPU_BATCH = 4  # as fast as eight, with half the activations, which malloc then keeps (benchmarks/forward.py)


def pick_device(device: Any = None) -> torch.device:
    """The device asked for; by default CUDA where there is one, else the CPU."""
    return torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the weights. "auto" is fp16 on CUDA and fp32 elsewhere."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in DTYPES:
        raise ConfigError(f"precision must be auto, {', '.join(DTYPES)} (or int8, for the CPU); found {precision!r}")
    return DTYPES[precision]


def as_list(images: Any) -> tuple[list[Any], bool]:
    """(images as a list, whether one image was given on its own)."""
    if isinstance(images, (list, tuple)):
        return list(images), False
    return [images], True


class Decoded:
    """An image file's pixels for some scorers, made by the thread that reads ahead; the decoded image is let go.

    Raises ImageError for what cannot be read or converted.
    """

    def __init__(self, source: Any, scorers: Sequence[Scorer], exif_transpose: bool = False):
        self.source, self.exif_transpose = source, exif_transpose
        with alone_if_large(source):
            image = open_image(source, exif_transpose)
            self._ready = {id(scorer): scorer.pixels_from_image(image) for scorer in scorers}

    def pixels(self, scorer: Scorer) -> Tensor:
        """The scorer's pixels [3, S, S]; the file is read again for one that was not told of."""
        ready = self._ready.get(id(scorer))
        return scorer.pixels_from_image(open_image(self.source, self.exif_transpose)) if ready is None else ready


class Scorer(ModuleLike, ABC):
    """Scores images against prompts. Higher is better.

    Images: PIL, path, numpy uint8 [H, W, 3], or an encoded file's bytes (also as a binary file object). What may be
    passed to which call, and the errors about anything else, are in `arguments`. A scorer of your own subclasses this;
    docs/scorers.md has one of 15 lines.
    """

    _kept: dict[int, Tensor] | None = None  # embeddings by pair, where somebody wants them

    def __init__(self, net: nn.Module, info: ModelInfo, device: torch.device, *, batch_size: int = 0, size: int = 224):
        self.net = net
        self.info = info
        self.device = device
        self.batch_size = batch_size or (CPU_BATCH if device.type == "cpu" else BATCH)
        self.size = size
        self.exif_transpose = False
        self.settings: dict[str, Any] = dict(info.settings)  # what changes the numbers beside the weights

    @property
    def name(self) -> str:
        """The name that is shown and stored beside scores; settings other than the registry's are part of it."""
        return labelled(self.info, self.settings)

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the pixels the network takes."""
        return next((weight.dtype for weight in self.net.parameters() if weight.is_floating_point()), torch.float32)

    def __call__(self, prompt: str, images: Any) -> float | list[float]:
        """As `score`."""
        return self.score(prompt, images)

    def preprocess(self, image: Any) -> Tensor:
        """One image (PIL, path, array) → the network's pixels [3, S, S], float32."""
        if isinstance(image, Decoded):
            return image.pixels(self)
        with alone_if_large(image):
            return self.pixels_from_image(open_image(image, self.exif_transpose))

    # --- what a scorer defines -------------------------------------------------------------------------------------

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] → features [B, …]; computed once per image."""

    @abstractmethod
    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """N prompts with N feature rows → scores [N]. One prompt serves many rows, one row serves many prompts."""

    def with_embeddings(self, prompts: Sequence[str], images: Tensor) -> tuple[Tensor, Tensor]:
        """As `combine`, and beside the scores [N] what the network made of each pair [N, D]: what a taste learns from.

        By default the image's features alone: [B, D] as they are, of tokens [B, T, D] the first and the others' mean.
        """
        scores = self.combine(prompts, images)
        return scores, pooled(images).expand(len(scores), -1)

    # --- scoring ---------------------------------------------------------------------------------------------------

    def score(self, prompt: str, images: Any, *, progress: Progress | None = None) -> float | list[float]:
        """Score images against one prompt: one image gives a float, a list gives a list of floats."""
        prompt = arguments.one_prompt(prompt, "score")
        items, single = as_list(images)
        scores = self.score_pairs([prompt] * len(items), items, progress=progress)
        return scores[0] if single else scores

    def inference_rank(self, prompt: str, images: Sequence[Any]) -> tuple[list[int], list[float]]:
        """(ranking, scores) of the images in their order; rank 1 is the best, equal scores rank in order of
        appearance.
        """
        prompt = arguments.one_prompt(prompt, "inference_rank")
        items, _ = as_list(images)
        scores = self.score_pairs([prompt] * len(items), items)
        order = sorted(range(len(items)), key=lambda index: -scores[index])
        ranking = [0] * len(items)
        for rank, index in enumerate(order, start=1):
            ranking[index] = rank
        return ranking, scores

    def score_matrix(self, prompts: Sequence[str], images: Sequence[Any]) -> list[list[float]]:
        """Every prompt with every image: one row of scores per prompt. Each image is encoded once."""
        prompts = arguments.prompt_list(prompts, "score_matrix")
        images = arguments.image_list(images, "score_matrix")
        flat = self.score_pairs([p for _ in images for p in prompts], [image for image in images for _ in prompts])
        return [flat[row :: len(prompts)] for row in range(len(prompts))]

    def score_pairs(
        self, prompts: Sequence[str], images: Sequence[Any], *, progress: Progress | None = None
    ) -> list[float]:
        """N prompts with N images, pair by pair. `progress(done, total)` is called after each batch of images.

        An image that occurs several times in a row (the same object or path) is read and encoded once.
        Raises PromptError if the numbers differ, ImageError for an unreadable image, ScoreError for NaN.
        """
        prompts = arguments.prompt_list(prompts, "score_pairs")
        images = arguments.image_list(images, "score_pairs")
        arguments.paired(prompts, images, "score_pairs")
        return score_runs([self], prompts, images, runs_of(images), progress)[0]

    def features_key(self) -> tuple[Any, ...]:
        """Scorers with equal keys get the same features from `encode_images`: one forward serves them all."""
        kind = type(self)
        return (
            id(self.net),
            kind.encode_images,
            kind.pixels_from_image,
            self.size,
            self.exif_transpose,
            str(self.device),
        )

    def remembering_prompts(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, a prompt is encoded once however many images it meets. For scorers whose text needs no image."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def keeping_embeddings(self) -> Iterator[dict[int, Tensor]]:
        """Inside, what the network makes of each pair is kept beside its score: {number of the pair: [D] on the CPU}.
        It comes from the same forward. Empty for a scorer whose features have no such form.
        """
        kept: dict[int, Tensor] = {}
        self._kept = kept
        try:
            yield kept
        finally:
            self._kept = None

    def _combine(self, prompts: list[str], part: list[int], features: Tensor) -> list[float]:
        texts = [prompts[index] for index in part]
        shared = len(set(texts)) == 1 and len(features) == len(part)
        values = self._values(texts[:1] if shared else texts, part, features).float()
        if not torch.isfinite(values).all():
            raise ScoreError(
                f"{self.name} returned {values.tolist()}: the weights are damaged or {self.dtype} is too narrow for"
                " them; try precision fp32"
            )
        return values.tolist()

    def _values(self, texts: list[str], part: list[int], features: Tensor) -> Tensor:
        """Scores of these pairs; their embeddings go where they are kept."""
        if self._kept is None:
            return self.combine(texts, features)
        # a class that combines in a way of its own inherits embeddings, and scores, that are another's
        embed = type(self).with_embeddings if _goes_with_combine(type(self)) else Scorer.with_embeddings
        try:
            scores, embeddings = embed(self, texts, features)
        except ConfigError:
            self._kept = None
            return self.combine(texts, features)
        self._kept.update(zip(part, embeddings.float().cpu()))
        return scores

    def _batches(self, runs: list[list[int]], images: list[Any]) -> Iterator[tuple[list[list[int]], Tensor]]:
        """Batches of distinct images with their pixels; the next batch is read while this one is computed."""
        pixels = ahead((images[run[0]] for run in runs), self.preprocess, depth=2 * self.batch_size)
        for chunk, read in zip(chunks(runs, self.batch_size), chunks(pixels, self.batch_size)):
            yield chunk, self.placed(torch.stack(read))

    def placed(self, pixels: Tensor) -> Tensor:
        """Pixels where the network is, in its dtype. To a GPU they go from pinned memory, without waiting."""
        if self.device.type == "cuda":
            return pixels.to(self.dtype).pin_memory().to(self.device, non_blocking=True)
        return pixels.to(self.device, self.dtype)

    def pixels_from_image(self, image: Any) -> Tensor:
        """A PIL image → the network's pixels [3, S, S], float32."""
        return pil_to_pixels(image, self.size)

    # --- gradients -------------------------------------------------------------------------------------------------

    def differentiable(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """Scores [B] of B prompts with images [B, 3, H, W] in [0, 1], with a gradient to the images (for reward
        fine-tuning). Raises PromptError, also if the numbers differ, and ImageError for another shape or range.
        """
        self.require_gradients()
        prompts = arguments.prompt_list(prompts, "differentiable")
        images = arguments.image_tensor(images, "differentiable")
        arguments.paired(prompts, list(images), "differentiable")
        return self.combine(prompts, self.encode_images(self.pixels_from_tensor(images))).float()

    def require_gradients(self) -> None:
        """ConfigError for weights that give none."""
        if self.quantized:
            raise ConfigError(
                f"{self.name} was loaded with precision int8, which has no gradients; load it with fp32, fp16 or bf16"
            )

    def pixels_from_tensor(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] → the network's pixels, differentiable."""
        return tensor_to_pixels(images.to(self.device), self.size).to(self.dtype)


def _goes_with_combine(kind: type[Scorer]) -> bool:
    """Whether `with_embeddings` was written for this class' `combine`, and not for that of a class above."""
    order = kind.__mro__
    combine, embed = (next(one for one in order if name in vars(one)) for name in ("combine", "with_embeddings"))
    return order.index(embed) <= order.index(combine)


def pooled(images: Tensor) -> Tensor:
    """Encoded images as one row each: [B, D] as they are, tokens [B, T, D] → the first and the mean of the others
    [B, 2 D]. Raises ConfigError for another shape.
    """
    if images.dim() == 2:
        return images
    if images.dim() != 3 or images.shape[1] < 2:
        raise ConfigError(f"features [B, D] or [B, T, D] are wanted of encoded images, found {list(images.shape)}")
    return torch.cat([images[:, 0], images[:, 1:].mean(1)], dim=1)


def runs_of(images: Sequence[Any]) -> list[list[int]]:
    """The pairs' numbers, those that share one image (the same object or path, in a row) together."""
    runs: list[list[int]] = []
    for index, image in enumerate(images):
        if runs and _same(image, images[runs[-1][0]]):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def score_runs(
    scorers: Sequence[Scorer],
    prompts: list[str],
    images: list[Any],
    runs: list[list[int]],
    progress: Progress | None = None,
) -> list[list[float]]:
    """One list of scores per scorer. The scorers share their features: each image is read and encoded once for all."""
    first = scorers[0]
    scores: list[list[float]] = [[] for _ in scorers]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for scorer in scorers:
            stack.enter_context(scorer.remembering_prompts())
        for chunk, pixels in first._batches(runs, images):
            features = first.encode_images(pixels)
            for row, run in _groups(chunk):
                for start in range(0, len(run), first.batch_size):
                    part = run[start : start + first.batch_size]
                    for scorer, found in zip(scorers, scores):
                        found += scorer._combine(prompts, part, features[row])
            if progress:
                progress(len(scores[0]), len(images))
    return scores


def _same(a: Any, b: Any) -> bool:
    return a is b or (
        isinstance(a, (str, os.PathLike)) and isinstance(b, (str, os.PathLike)) and os.fspath(a) == os.fspath(b)
    )


def _groups(chunk: list[list[int]]) -> Iterator[tuple[slice, list[int]]]:
    """(feature rows, pairs) that can be combined in one call: a whole batch of single pairs, or one image's many
    prompts.
    """
    start = 0
    for end in range(1, len(chunk) + 1):
        if len(chunk[end - 1]) > 1:
            if start < end - 1:
                yield slice(start, end - 1), [run[0] for run in chunk[start : end - 1]]
            yield slice(end - 1, end), chunk[end - 1]
            start = end
    if start < len(chunk):
        yield slice(start, len(chunk)), [run[0] for run in chunk[start:]]


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Weights read or made under a host's inference mode could never be moved or differentiated later: leave it
    meanwhile.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
