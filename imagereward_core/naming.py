"""What a score is called in an image's infotext: its key, and the name of the model that gave it.

    …, PickScore: 21.3041, PickScore model: PickScore
    …, ImageReward: 0.5812, ImageReward model: mine [4f0a9c31d2]
    …, Panel score: 0.4310, Panel score model: ImageReward-v1.0 0 1; PickScore 21.2 1.3

The key is the scorer's own (its entry in the registry); users may rename that of the reward models. The model's name
tells whose score it is, so that it need not be computed again.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from .errors import ConfigError
from .hashing import file_digest

REWARD_KEY = "ImageReward"
TASTE_KEY = "Taste"  # of tastes of one's own, whatever their names
PANEL_KEY = "Panel score"  # several scorers' common value; its "model" names them and what they are standardised by
DISAGREEMENT_KEY = "Panel disagreement"
BROWSER_KEY = "aesthetic_score"  # 0 to 10, by which image browsers sort
MODEL_SUFFIXES = (".safetensors", ".pt", ".pth")

# What web UIs read back as a key: two or more of these, starting with a word character. A dot ends the key.
READABLE = re.compile(r"\w[\w \-/]*[\w\-/]")

# Keys that web UIs write themselves: a score under one of them would be pasted as that setting. Lower case.
_HOST_KEYS = """
app, batch pos, batch size, cache fp16 weight for lora, cfg rescale, cfg scale, clip skip, conditional mask
weight, controlnet, controlnet hash, decode cfg scale, decode negative prompt, decode prompt, decode steps,
denoising strength, diffusion in low bits, discard penultimate sigma, distilled cfg scale, downcast
alphas_cumprod, emphasis, ensd, eta, eta ddim, extra noise, face restoration, fixed x values, fixed y values,
fixed z values, fp16 low bits, fp8 weight, hashes, hypernet, hypernet hash, hypernet strength, hypertile u-net,
hypertile vae, image cfg scale, imagereward result, init image hash, inpaint area, lora, lora hashes, mask blur,
mask mode, mask rounding, masked area padding, masked content, model, model hash, module 1, module 2, module 3,
negative prompt, negative template, ngms, ngms all steps, noise multiplier, noise schedule, old prompt editing
timelines, operations, original size, pad conds, pad conds v0, pipeline, postprocess upscale by, prompt,
randomness, refiner, refiner switch at, refiner switch by sampling steps, resize mode, rng, sampler, schedule
type, script, sd upscale overlap, sd upscale upscaler, seed, seed resize from, seed resize from-1, seed resize
from-2, sgm noise multiplier, shift, sigma adjustment, size, size-1, size-2, skip early cfg, steps, styles,
template, ti, ti hashes, tiling, token merging ratio, token merging ratio hr, user, vae, vae decoder, vae
encoder, vae hash, variation seed, variation seed resize from, variation seed strength, version, x type, x
values, y type, y values, z type, z values
"""
HOST_KEYS = frozenset(" ".join(key.split()) for key in _HOST_KEYS.split(","))
HOST_PREFIXES = ("hires ", "first pass ", "sigma ", "schedule ", "beta schedule")
# What our own accordion writes beside the score, to be pasted back.
SETTING_KEYS = frozenset(
    f"imagereward {name}"
    for name in (
        "scorer",
        "filter",
        "limit",
        "top k",
        "sort",
        "low images",
        "wanted",
        "max batches",
        "unload",
        "over",
        "panel",
        "panel constants",
        "result",
    )
)


class Keyed(Protocol):
    """What is asked of a scorer's entry here."""

    @property
    def key(self) -> str: ...


def key_problem(key: str) -> str:
    """Why a score cannot be kept under this key, or "" if it can."""
    if not READABLE.fullmatch(key):
        return (
            f"{key!r} cannot be read back by web UIs: a key is two or more letters, digits, spaces, - and /, and starts"
            " with a letter or digit"
        )
    folded = " ".join(key.lower().split())
    for name in pair_keys(folded):
        if name in HOST_KEYS or name in SETTING_KEYS or name.startswith(HOST_PREFIXES):
            return f"{key!r} is a setting of the web UI's own ({name}): a score there would be taken for it"
    if folded == BROWSER_KEY:
        return f"{key!r} is the key by which image browsers sort (0 to 10)"
    if folded in (PANEL_KEY.lower(), DISAGREEMENT_KEY.lower()):
        return f"{key!r} is what a panel of scorers writes"
    return ""


def check_key(key: str) -> str:
    """`key` itself; raises ConfigError saying why a score cannot be kept under it."""
    if problem := key_problem(key):
        raise ConfigError(f"the name of a score cannot be used: {problem}")
    return key


def score_key(info: Keyed, own_key: str = "") -> str:
    """The key of a scorer's scores. `own_key` renames ImageReward's, and that of own reward models; no other's."""
    return own_key if own_key and info.key == REWARD_KEY else info.key


def panel_keys(infos: Mapping[str, Keyed], own_key: str = "") -> dict[str, str]:
    """The key of each scorer of a panel, by the name it goes by there. The first of several reward models keeps their
    common key, the others put their name behind it.
    """
    keys: dict[str, str] = {}
    for name, info in infos.items():
        key = score_key(info, own_key)
        if key in keys.values():
            plain = re.sub(r"\.(safetensors|pt|pth)$| \[\w+\]$", "", Path(name).name)
            readable = " ".join(re.sub(r"[^\w /-]", "-", plain, flags=re.ASCII).split())
            key = f"{key} {readable}"
        while key in keys.values():
            key += "-2"
        keys[name] = key
    return keys


def pair_keys(key: str) -> tuple[str, str, str]:
    """The keys of everything that is kept with a score: itself, its model, and the prompt it was scored against."""
    return key, f"{key} model", f"{key} prompt"


def own_model_name(path: str | os.PathLike[str]) -> str:
    """ "mine [4f0a9c31d2]" for a reward model's file: its name and the first ten digits of its sha256, as web UIs name
    checkpoints, since two files called last.safetensors differ. "mine [missing]" if it cannot be read.
    """
    path = Path(path)
    try:
        status = path.stat()
        digest = _digest(str(path), status.st_mtime_ns, status.st_size)
    except OSError:
        digest = "missing"  # loading it will say so, with what to do
    return f"{path.stem} [{digest}]"


@functools.lru_cache(maxsize=64)
def _digest(path: str, _changed: int, _size: int) -> str:
    return file_digest(path)[:10]


def former_names(path: str | os.PathLike[str]) -> frozenset[str]:
    """What earlier releases wrote for a reward model's file: its file name; a .pt and the .safetensors that is made
    from it are one model.
    """
    path = Path(path)
    return frozenset({path.name, *(path.stem + suffix for suffix in MODEL_SUFFIXES)})
