"""Easy Diffusion: a PNG text for each setting; in JPEG and WebP one JSON object (read with Fooocus'); beside the image
a text file with a setting a line.
"""

from __future__ import annotations

import re

from ..formats import places
from .reading import Reading, Texts

PROGRAM = "Easy Diffusion"
SEED = re.compile(r"[Ss]eed: -?\d+\s*")
MARKS = ("use_stable_diffusion_model", "Stable Diffusion model", "seed", "Seed")


def read_lines(texts: Texts) -> Reading | None:
    """The text file, where a prompt line comes first and a seed somewhere below."""
    lines = texts[places.PARAMETERS].split("\n")
    key, colon, prompt = lines[0].partition(": ")
    if colon and key.lower() == "prompt" and any(SEED.fullmatch(line) for line in lines[1:]):
        return Reading(PROGRAM, prompt)
    return None


def read(texts: Texts) -> Reading | None:
    """The PNG texts. A prompt that stands there alone is one as well, of whichever program."""
    for name in ("prompt", "Prompt"):
        if name in texts and not texts.is_json(name):
            return Reading(PROGRAM if any(mark in texts for mark in MARKS) else "", texts[name])
    return None
