"""A small world of pictures, and the small reward model that scores them."""

import json

import numpy as np
import pytest
from PIL import Image

import imagereward_core as RM
from imagereward_core.library import open_library
from imagereward_core.naming import own_model_name
from imagereward_core.taste.place import Base
from tests.conftest import ROOT

WEIGHTS = ROOT / "smallworld" / "weights" / "tiny-imagereward.safetensors"
PROMPTS, EACH = 40, 3


def painted(path, seed, colour):
    """A picture with a disc of that colour on noise that is its own."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 140, (48, 48, 3))
    y, x = np.mgrid[:48, :48]
    pixels[(x - rng.integers(16, 32)) ** 2 + (y - rng.integers(16, 32)) ** 2 < 120] = colour
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """{prompt: [(path, how red)]}: of each prompt three pictures, from blue to red."""
    folder, found = tmp_path_factory.mktemp("pictures"), {}
    for prompt in range(PROMPTS):
        found[f"a disc, number {prompt}"] = [
            (
                painted(
                    folder / f"{prompt:02}-{level}.png", 10 * prompt + level, (80 + 70 * level, 60, 220 - 70 * level)
                ),
                level,
            )
            for level in range(EACH)
        ]
    return found


@pytest.fixture
def duels(pictures, tmp_path):
    """A file of duels of somebody who likes red, 120 of them."""
    rng, lines = np.random.default_rng(1), []
    for _ in range(3):
        for prompt, made in pictures.items():
            a, b = sorted(rng.choice(EACH, 2, replace=False))
            lines.append({"winner": str(made[b][0]), "loser": str(made[a][0]), "prompt": prompt})
    path = tmp_path / "duels.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small():
    """The small reward model."""
    return RM.load(WEIGHTS, device="cpu")


@pytest.fixture
def base():
    return Base(own_model_name(WEIGHTS), str(WEIGHTS))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The library that nothing else names."""
    path = tmp_path / "data" / "library.sqlite"
    monkeypatch.setenv("IMAGEREWARD_LIBRARY", str(path))
    return path


@pytest.fixture
def library(place):
    with open_library(place) as opened:
        yield opened
