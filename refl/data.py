"""Prompts and captioned images: read from whatever the user has, de-duplicated, split, and put in a fixed order."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagereward_core.errors import ImageError, MetadataError
from imagereward_core.image_files import SUFFIXES
from imagereward_core.metadata import FoundPrompt, prompt_of
from imagereward_core.preprocess import open_image

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
    """All prompts of a file, folder, hub data set and list, without duplicates, in order of appearance.

    Files: JSON (`[{"text": …}]` or a list of strings), JSONL, CSV (a header with `column`, or the first column), or
    plain text with one prompt a line. A folder: prompts stored in generated images or in a .txt beside them. Raises
    PromptDataError for anything unreadable or empty.
    """
    found: list[str] = list(prompts)
    if source:
        path = Path(source)
        if not path.exists():
            raise PromptDataError(f"no such prompt file or folder: {source}")
        found += [caption for _, caption in captioned_images(path)] if path.is_dir() else _read_file(path, column)
    if dataset_name:
        found += _hub(dataset_name, column)
    cleaned = list(dict.fromkeys(text for text in (" ".join(prompt.split()) for prompt in found) if text))
    if not cleaned:
        where = source or dataset_name or "the list of prompts"
        raise PromptDataError(
            f"{where} holds no prompt"
            + (f" (looked for the field {column!r})" if source else ": give --train_data or --prompts")
        )
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


def _read_file(path: Path, column: str) -> list[str]:
    kind = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptDataError(f"cannot read {path} as UTF-8 text: {error}") from error
    try:
        if kind == ".json":
            return [_field(item, column, path) for item in _as_list(json.loads(text), path)]
        if kind == ".jsonl":
            return [_field(json.loads(line), column, path) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        if isinstance(error, PromptDataError):
            raise
        raise PromptDataError(f"{path} is not valid JSON: {error}") from error
    if kind == ".csv":
        rows = list(csv.reader(text.splitlines()))
        if not rows:
            return []
        at = rows[0].index(column) if column in rows[0] else None
        return [row[at or 0] for row in rows[at is not None :] if len(row) > (at or 0)]
    return text.splitlines()


def _as_list(data: Any, path: Path) -> list[Any]:
    if not isinstance(data, list):
        raise PromptDataError(f"{path} must hold a JSON list of prompts, found {type(data).__name__}")
    return data


def _field(item: Any, column: str, path: Path) -> str:
    if isinstance(item, str):
        return item
    value = item.get(column) if isinstance(item, dict) else None
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        names = ", ".join(item) if isinstance(item, dict) else type(item).__name__
        raise PromptDataError(
            f"{path}: an entry has no text field {column!r} (it has {names}); name the field with --caption_column"
        )
    return value


def _hub(name: str, column: str) -> list[str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            "reading a hub data set needs the library datasets; or download it as JSON and use --train_data"
        ) from error
    rows = datasets.load_dataset(name, split="train")
    return [_field(row, column, Path(name)) for row in rows]


def captioned_images(folder: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """(image file, prompt in plain words) for each image in the folder and below that has one: that of the text file
    beside it, else the one it was made from.
    """
    result = []
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        try:
            found = prompt_of(path, caption_first=True)
        except MetadataError as error:
            logger.warning("%s; it is left out", error)
            continue
        if isinstance(found, FoundPrompt) and found.words:
            result.append((path, found.words))
    return result


def infotext_prompt(path: str | os.PathLike[str]) -> str:
    """The prompt that an image file or the text file beside it holds, in plain words; empty if there is none."""
    try:
        found = prompt_of(path)
    except MetadataError:
        return ""
    return found.words if isinstance(found, FoundPrompt) else ""


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
