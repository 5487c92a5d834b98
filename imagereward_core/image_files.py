"""Which files are images, and which images a name, a folder or a pattern stands for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = frozenset(
    (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".tif", ".tiff")
)


def find_images(names: Iterable[str | os.PathLike[str]], recursive: bool = False) -> list[Path]:
    """Files, folders' images (those below them too if `recursive`) and glob patterns, each file once, in the order
    given.

    A name that matches nothing is returned as it is, so that scoring reports it.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _expanded(os.fspath(name), recursive):
            found.setdefault(os.path.normcase(os.path.abspath(path)), path)
    return list(found.values())


def _expanded(name: str, recursive: bool) -> list[Path]:
    if os.path.isdir(name):
        walk = os.walk(name) if recursive else [next(os.walk(name), (name, [], []))]
        paths = [
            Path(folder, file) for folder, _, files in walk for file in files if Path(file).suffix.lower() in SUFFIXES
        ]
        return sorted((path for path in paths if not path.name.startswith(".")), key=natural)
    if not os.path.exists(name) and glob.has_magic(name):
        matches = [Path(match) for match in glob.glob(name, recursive=True) if os.path.isfile(match)]
        return sorted(matches, key=natural) or [Path(name)]
    return [Path(name)]


def natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", os.fspath(path).casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
