"""Digests of files and of weights: what tells one version from another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 20


def file_digest(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Hex digest of a file: any algorithm of hashlib, or git-sha1 (git's hash of a blob, which the hub announces)."""
    hasher = hashlib.new(algorithm.removeprefix("git-"), usedforsecurity=False)
    with open(path, "rb") as file:
        if algorithm == "git-sha1":
            hasher.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor], *, start: str = "", shapes: bool = False) -> str:
    """sha256 over tensors in the order of their names: the same weights hash the same, whatever file they came in.

    start: text that is hashed first, for what else tells the weights apart. shapes: shape and dtype count too.
    """
    import torch

    hasher = hashlib.sha256(start.encode())
    for name, tensor in sorted(tensors.items()):
        hasher.update((f"{name} {tuple(tensor.shape)} {tensor.dtype}" if shapes else name).encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
