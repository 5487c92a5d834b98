"""Batch and accumulation by the memory of a GPU, 16 samples an update whatever the GPU: what fits, as
`python -m refl estimate` counts it (bf16, LoRA of rank 16, the default anchor and guidance).

SD 1.x and 2.x at 512 pixels need 5.5 GB for one sample and 1.7 more for each further one (10.5 for four), so that a
quarter stays free for what the WebUI keeps loaded. SDXL at 1024 needs 13.5 GB for one and 20.3 for two; below 16 GB it
does not fit, unless its base is kept in 8 bit or nf4 (11.7 and 10.6 GB), so its presets are the smallest there are, and
the estimate says what is missing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import WeightsError

Preset = dict[str, Any]


def _batch(size: int) -> Preset:
    return {"train_batch_size": size, "gradient_accumulation_steps": 16 // size}


PRESETS: dict[str, Preset] = {"8 GB": _batch(1), "12 GB": _batch(2), "16 GB": _batch(4), "24 GB": _batch(8)}
SDXL_PRESETS: dict[str, Preset] = {"8 GB": _batch(1), "12 GB": _batch(1), "16 GB": _batch(1), "24 GB": _batch(2)}


def preset(gpu: str, checkpoint: str | os.PathLike[str]) -> Preset:
    """The settings for a GPU of that memory and a checkpoint, of which the header alone is read."""
    return dict((SDXL_PRESETS if is_sdxl(checkpoint) else PRESETS)[gpu])


def of_memory(gib: float | None) -> str:
    """The largest preset for a GPU of `gib` GiB; the smallest for less, and without a GPU. Cards have a little less
    than their name says.
    """
    sizes = [name for name in PRESETS if gib is not None and float(name.split()[0]) <= gib + 0.5]
    return sizes[-1] if sizes else next(iter(PRESETS))


def is_sdxl(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether a file or diffusers folder is taken for SDXL; False where its header does not tell."""
    from ..weights.formats import kind_of_file

    path = Path(checkpoint)
    if not os.fspath(checkpoint):
        return False
    if path.is_dir():
        return (path / "text_encoder_2").is_dir()
    try:
        kind = kind_of_file(path) if path.is_file() else None
    except WeightsError:
        return False  # what is wrong with the file is said when it is loaded
    return kind is not None and kind.key == "sdxl"


def name_of(settings: dict[str, Any]) -> str | None:
    """The GPU whose preset these settings hold, the smallest of several; None if they are of one's own."""
    for table in (PRESETS, SDXL_PRESETS):
        for name, values in table.items():
            if all(settings.get(key) == value for key, value in values.items()):
                return name
    return None
