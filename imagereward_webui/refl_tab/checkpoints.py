"""Which of the host's checkpoints can be trained: told from a file's header alone, and remembered until it changes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from ..core import ImageRewardError, kind_of_file
from ..core import module as core_module

# Kinds of imagereward_core.weights.kinds that are families of refl (a test holds it), and the size they are drawn at.
FAMILIES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "flux2": "FLUX.2 [klein]",
    "z-image": "Z-Image",
    "lumina2": "Lumina 2",
    "qwen-image": "Qwen-Image",
    "anima": "Anima",
}
# their text encoders and VAE may lie in other files
FLOWS = ("sd3", "flux", "flux2", "z-image", "lumina2", "qwen-image", "anima")
INCOMPLETE = ("unet-file", "unet", "diffusers-unet")

_known: dict[str, tuple[tuple[int, int], str, str]] = {}  # path: (its size and time, family, why not)
_lock = threading.Lock()


def family(path: str) -> str:
    """The family of a checkpoint, a key of FAMILIES; "" for others, and where the header does not tell."""
    return _look(path)[0]


def why_not(path: str) -> str:
    """Why this checkpoint cannot be trained, to follow its name; "" if it can, or if only reading all of it tells."""
    return _look(path)[1]


def _look(path: str) -> tuple[str, str]:
    try:
        found = os.stat(path)
    except OSError:
        return "", "the file is not there"
    stamp = (found.st_size, found.st_mtime_ns)
    with _lock:
        known = _known.get(path)
    if known is None or known[0] != stamp:
        known = (stamp, *_read(Path(path)))
        with _lock:
            _known[path] = known
    return known[1], known[2]


def _read(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "", ""
    try:
        kind: Any = kind_of_file(path)
    except ImageRewardError as error:
        return "", str(error).removeprefix(str(path)).split(". ")[0].strip()
    if kind is None:
        return "", ""
    if kind.key in INCOMPLETE:
        return "", "it holds no text encoder: training needs the whole checkpoint in one file"
    if kind.key not in FAMILIES:
        return "", f"it is {kind.name}"
    named = core_module("weights.kinds").few_step(path.stem)
    return kind.key, f"it is a few-step model ({named})" if named else ""
