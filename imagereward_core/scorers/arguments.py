"""What may be passed to a scorer, and what is said about anything else: one rule for every call and every scorer.

A string is a sequence of letters and a tensor broadcasts, so a wrong call would otherwise give numbers that mean
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import ImageError, PromptError
from ..tokenizer import check_prompt

SLACK = 0.25  # beyond [0, 1]: a decoder overshoots a little, while [-1, 1] and [0, 255] go further


def one_prompt(prompt: Any, call: str) -> str:
    """The prompt of a call that takes one."""
    if isinstance(prompt, (list, tuple)):
        raise PromptError(
            f"{call} takes one prompt, which must be a string, found {type(prompt).__name__}: for a prompt per image"
            " use score_pairs(prompts, images), for every prompt with every image score_matrix(prompts, images)"
        )
    return check_prompt(prompt)


def prompt_list(prompts: Any, call: str) -> list[str]:
    """The prompts of a call that takes a list of them."""
    if isinstance(prompts, str):
        raise PromptError(
            f"{call} takes a list of prompts, found the string {prompts[:40]!r}: write [prompt], or for one prompt and"
            " many images score(prompt, images)"
        )
    if not isinstance(prompts, Iterable) or isinstance(prompts, (bytes, bytearray, dict, set)):
        raise PromptError(f"{call} takes a list of prompts, found {type(prompts).__name__}")
    return [check_prompt(prompt) for prompt in prompts]


def image_list(images: Any, call: str) -> list[Any]:
    """The images of a call that takes a list of them."""
    if is_one_image(images):
        raise PromptError(
            f"{call} takes a list of images, found one {type(images).__name__}: write [image], or for one prompt and"
            " one image score(prompt, image)"
        )
    if not isinstance(images, Iterable) or isinstance(images, (dict, set)):
        raise PromptError(f"{call} takes a list of images, found {type(images).__name__}")
    return list(images)


def is_one_image(value: Any) -> bool:
    """Whether this is an image itself and no collection of images, although Python may be able to iterate over it."""
    if isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(value, "read"):
        return True
    return value.ndim in (2, 3) if hasattr(value, "ndim") else hasattr(value, "mode")


def paired(prompts: list[str], images: list[Any], call: str) -> None:
    """One prompt per image: anything else would be broadcast or cut."""
    if len(prompts) != len(images):
        raise PromptError(
            f"{call} needs one prompt per image, found {len(prompts)} prompts and {len(images)} images; one prompt for"
            " many images is [prompt] * len(images)"
        )


def image_tensor(images: Any, call: str) -> Tensor:
    """Images as a tensor [B, 3, H, W] of floats in [0, 1]. NaN passes: the caller's loss shows it."""
    expected = f"{call} takes a float tensor of images [B, 3, H, W] in [0, 1]"
    if not isinstance(images, Tensor):
        raise ImageError(f"{expected}, found {type(images).__name__}; for files and PIL images use score")
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ImageError(f"{expected}, found the shape {list(images.shape)}")
    if not images.is_floating_point():
        raise ImageError(f"{expected}, found {images.dtype}; for 8-bit values pass images.float() / 255")
    if images.numel():
        low, high = (float(value) for value in torch.aminmax(images.detach().float()))
        if low < -SLACK or high > 1 + SLACK:
            raise ImageError(
                f"{expected}, found values from {low:.3g} to {high:.3g}; pass images / 2 + 0.5 if they are in"
                " [-1, 1], images / 255 if in [0, 255]"
            )
    return images


def token_batch(input_ids: Any, attention_mask: Any, pixels: Any, size: int, call: str) -> None:
    """Token ids and mask [B, T] beside preprocessed pixels [B, 3, size, size]."""
    for name, tensor in (("input_ids", input_ids), ("attention_mask", attention_mask), ("pixels", pixels)):
        if not isinstance(tensor, Tensor):
            raise PromptError(f"{call} takes tensors, found {type(tensor).__name__} as {name}; for text use score")
    if pixels.dim() != 4 or list(pixels.shape[1:]) != [3, size, size] or not pixels.is_floating_point():
        raise ImageError(
            f"{call} takes preprocessed float pixels [B, 3, {size}, {size}], found {pixels.dtype} {list(pixels.shape)}"
        )
    if input_ids.dim() != 2 or attention_mask.shape != input_ids.shape or len(input_ids) != len(pixels):
        raise PromptError(
            f"{call} takes input_ids and attention_mask [B, T] with as many rows as pixels, found"
            f" {list(input_ids.shape)}, {list(attention_mask.shape)} and {len(pixels)} images"
        )
