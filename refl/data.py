"""Prompts and captioned images: read from whatever the user has, de-duplicated, split, and put in a fixed order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from imagereward_core.errors import DataError, ImageError, MetadataError
from imagereward_core.image_files import find_images
from imagereward_core.metadata import FoundPrompt, prompt_of
from imagereward_core.preprocess import open_image
from imagereward_core.prompt_files import UnknownColumns, describe, prompts_of, read_prompts

from .errors import MissingDependency, PromptDataError
from .log import logger


@dataclass(frozen=True)
class PromptSet:
    """Prompts to train on and prompts that are only evaluated."""

    train: list[str]
    held_out: list[str]


def load_prompts(
    source: str = "", prompts: Sequence[str] = (), dataset_name: str = "", column: str = "text"
) -> list[str]:
    """All prompts of a file, folder, hub data set and list, without duplicates, in order of appearance; the log says
    how many there are and shows the first.

    Files: whatever `imagereward_core.prompt_files` reads. column: the field of the prompts; "text", the default, stands
    for all names that are known there. A folder: prompts stored in generated images or in a .txt beside them. Raises
    PromptDataError for anything unreadable or empty.
    """
    found: list[str] = list(prompts)
    if source:
        path = Path(source)
        if not path.exists():
            raise PromptDataError(f"no such prompt file or folder: {source}")
        if path.is_dir():
            found += [caption for _, caption in captioned_images(path)]
        else:
            with _reading():
                found += read_prompts(path, _named(column))
    if dataset_name:
        with _reading():
            found += _hub(dataset_name, column)
    cleaned = list(dict.fromkeys(text for text in (" ".join(prompt.split()) for prompt in found) if text))
    if not cleaned:
        where = source or dataset_name or "the list of prompts"
        raise PromptDataError(
            f"{where} holds no prompt"
            + (f" (looked for the field {column!r})" if source else ": give --train_data or --prompts")
        )
    logger.info("%s", describe(cleaned))
    return cleaned


def split(prompts: Sequence[str], held_out: int, limit: int | None = None) -> PromptSet:
    """Train and held-out prompts. Which prompt is held out depends on its text alone, not on order or seed."""
    if len(prompts) == 1:
        logger.warning("there is only one prompt: the evaluation uses it as well and says nothing about other prompts")
        return PromptSet(list(prompts), list(prompts))
    count = min(held_out, len(prompts) // 2)
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha1(prompt.encode()).digest())
    chosen = set(ranked[:count])
    train = [prompt for prompt in prompts if prompt not in chosen]
    return PromptSet(train[:limit], ranked[:count])


def sample_prompt(seed: int, count: int, sample: int) -> int:
    """Index of the prompt of training sample `sample`: each epoch goes through all prompts in an order of its own."""
    return _order(seed, count, sample // count)[sample % count]


@lru_cache(maxsize=8)
def _order(seed: int, count: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch * 104_729 + 13)
    return torch.randperm(count, generator=generator).tolist()


@contextmanager
def _reading() -> Iterator[None]:
    """The core's errors of prompt files become this package's, with the flag that helps."""
    try:
        yield
    except UnknownColumns as error:
        raise PromptDataError(f"{error}; name the field of the prompts with --caption_column") from error
    except DataError as error:
        raise PromptDataError(str(error)) from error


def _named(column: str) -> str:
    """The field that was asked for; the default stands for every name that is known to hold prompts."""
    return "" if column == "text" else column


def _hub(name: str, column: str) -> list[str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            "reading a hub data set needs the library datasets; or download it as JSON and use --train_data"
        ) from error
    return prompts_of(datasets.load_dataset(name, split="train"), name, _named(column))


def captioned_images(folder: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """(image file, prompt in plain words) for each image in the folder and below that has one: that of the text file
    beside it, else the one it was made from. Linked folders are followed, grids left out, as `imagereward score` does.
    """
    result = []
    for path in sorted(find_images([folder], recursive=True, note=logger.info)):
        try:
            found = prompt_of(path, caption_first=True)
        except MetadataError as error:
            logger.warning("%s; it is left out", error)
            continue
        if isinstance(found, FoundPrompt) and found.words:
            result.append((path, found.words))
    return result


def load_images(paths: Iterable[Path], resolution: int) -> Tensor:
    """Images → [N, 3, resolution, resolution] in [0, 1]: shorter side resized, centre cropped."""
    import numpy as np
    from PIL import Image, ImageOps

    rows = []
    for path in paths:
        try:
            image = open_image(path).convert("RGB")
        except ImageError as error:
            raise PromptDataError(f"cannot read the training image {path}: {error}") from error
        fitted = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
        rows.append(torch.from_numpy(np.array(fitted, dtype=np.uint8)).permute(2, 0, 1).float() / 255)
    return torch.stack(rows)
