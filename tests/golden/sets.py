"""The golden sets of the scorers: what the references gave on seeded small weights, and those weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tests.conftest import GOLDEN
from tests.golden.scorers.make_weights import make_state

FOLDER = GOLDEN / "scorers"
NAMES = {
    "pickscore": "PickScore",
    "hpsv2": "HPSv2.1",
    "mps": "MPS",
    "cyclereward": "CycleReward",
    "aesthetic_v25": "Aesthetic v2.5",
}


def read(name: str, file: str = "golden.json") -> dict:
    """A set's JSON."""
    return json.loads((FOLDER / name / file).read_text())


def images(name: str = "pickscore") -> list[Path]:
    """The set's images in the order of its columns."""
    return [GOLDEN / "images" / image for image in read(name)["images"]]


def cases() -> list[tuple[str, str, dict]]:
    """(set, case, the settings that the case was computed with)."""
    found = []
    for name in NAMES:
        for case in read(name)["cases"]:
            if case == "imscore_batch_of_two":
                continue
            settings = {"threshold": float(case.split("threshold")[1])} if "threshold" in case else {}
            found.append((name, case, {"antialias": False} if case.endswith("no_antialias") else settings))
    return found


@functools.lru_cache(maxsize=4)
def state(name: str, seed: int = 101) -> dict:
    """The seeded weights as tensors; do not change them."""
    import torch

    arrays = make_state(read(name, "shapes.json"), seed)
    return {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}


def write(name: str, folder: Path, seed: int = 101) -> Path:
    """The seeded weights as a file."""
    from safetensors.torch import save_file

    path = folder / f"{name}.safetensors"
    save_file(state(name, seed), path)
    return path


def worst(rows: list[list[float]], expected: list[list[float | None]]) -> float:
    """The greatest difference, in units of max(1, |score|); null cells are those where the reference raises."""
    return max(
        (
            abs(ours - theirs) / max(1, abs(theirs))
            for row, wanted in zip(rows, expected)
            for ours, theirs in zip(row, wanted)
            if theirs is not None
        ),
        default=0.0,
    )
