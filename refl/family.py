"""What distinguishes SD 1.x, SD 2.x and SDXL beyond tensor shapes: one small JSON file each under configs/."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextPart:
    """One text encoder: where its weights lie in a single file and how its prompts are padded."""

    prefix: str
    activation: str
    pad: str
    projection: bool


@dataclass(frozen=True)
class Family:
    """The facts of one family. `key` is sd1, sd2 or sdxl; either `unet_heads` or `unet_head_width` is set. `unet` and
    `vae` are the published sizes in diffusers' terms, for estimates only: loading reads sizes off the tensors.
    """

    key: str
    name: str
    latent_scale: float
    text: tuple[TextPart, ...]
    clip_skip: int
    final_norm: bool
    resolution: int
    lora_metadata: dict[str, str]
    scheduler: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    unet_heads: int | None = None
    unet_head_width: int | None = None

    @property
    def is_sdxl(self) -> bool:
        """Whether the UNet also takes a pooled text vector and image sizes."""
        return self.key == "sdxl"


FAMILIES = ("sd1", "sd2", "sdxl")


def family(key: str) -> Family:
    """The family of that key."""
    text = importlib.resources.files(__package__).joinpath(f"configs/{key}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    data["text"] = tuple(TextPart(**part) for part in data["text"])
    return Family(key=key, **data)
