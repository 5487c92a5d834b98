"""Digests of files: what tells one version of a file from another."""

from __future__ import annotations

import hashlib
import os

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
