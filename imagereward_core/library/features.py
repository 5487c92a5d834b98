"""What networks said of pictures, out of the library."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .store import Library

TOGETHER = 500  # pictures that are asked for at once: SQLite allows only so many parameters


def features_of(library: Library, pictures: Iterable[int], scorer: str, name: str) -> dict[int, np.ndarray]:
    """The feature `name` of a scorer (as it is named beside scores) by picture, float32; those that have it."""
    numbers = sorted(set(pictures))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(numbers), TOGETHER):
        part = numbers[start : start + TOGETHER]
        rows = library.query(
            "SELECT f.image_id, f.shape, f.data FROM features f JOIN scorers r ON r.id = f.scorer_id"
            f" WHERE r.name = ? AND f.name = ? AND f.image_id IN ({', '.join('?' * len(part))})",
            (scorer, name, *part),
        )
        for number, shape, data in rows:
            found[number] = np.frombuffer(data, "<f2").reshape(json.loads(shape)).astype(np.float32)
    return found
