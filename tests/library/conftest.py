"""Pictures and libraries for these tests, made by them."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from imagereward_core.library import open_library


def picture(path, seed, text=None):
    """A small PNG of seeded noise, with an infotext."""
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text("parameters", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=info)
    return path


def infotext(prompt, seed=1, checkpoint="jugg", digest="abcdef1234", score=None, **settings):
    """An infotext as AUTOMATIC1111 writes it."""
    named = {
        "Steps": 20,
        "Sampler": "Euler a",
        "CFG scale": 7,
        "Seed": seed,
        "Size": "32x24",
        "Model hash": digest,
        "Model": checkpoint,
        **{key.replace("_", " "): value for key, value in settings.items()},
    }
    if score is not None:
        named |= {"ImageReward": f"{score:.4f}", "ImageReward model": "ImageReward-v1.0"}
    pairs = ", ".join(f"{key}: {value}" for key, value in named.items())
    return f"{prompt}\nNegative prompt: blurry\n{pairs}"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "library.sqlite"


@pytest.fixture
def library(place):
    with open_library(place) as opened:
        yield opened
