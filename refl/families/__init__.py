"""The families of image models that can be trained, one file each. Adding one: its file, and a line in FAMILIES.

What a file is, is told by imagereward_core.weights.kinds; a family takes the kind of its own key.
"""

from __future__ import annotations

from ..errors import CheckpointError
from . import sd1, sd2, sdxl
from .base import Family, FolderFacts

FAMILIES: dict[str, Family] = {part.FAMILY.key: part.FAMILY for part in (sdxl, sd2, sd1)}  # the most special first
TRAINABLE = "SD 1.x, SD 2.x or SDXL"  # for messages


def family(key: str) -> Family:
    """The family of that key."""
    return FAMILIES[key]


def of_folder(facts: FolderFacts) -> Family:
    """The family of a diffusers folder's configurations. Raises CheckpointError."""
    for candidate in FAMILIES.values():
        if candidate.recognises(facts):
            return candidate
    raise CheckpointError(
        f"it has {len(facts.text)} text encoders and a UNet with addition_embed_type"
        f" {facts.unet.get('addition_embed_type')!r}: no family known here has"
    )
