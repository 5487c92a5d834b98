"""The families of image models that can be trained, one file each. Adding one: its file, and a line below.

What a file is, is told by imagereward_core.weights.kinds; a family takes the kind of its own key.
"""

from __future__ import annotations

from ..errors import CheckpointError
from . import anima, flux, flux2, lumina2, qwen_image, sd1, sd2, sd3, sdxl, z_image
from .base import Family
from .flow import FlowFamily
from .unet import FolderFacts, UNetFamily

UNETS: dict[str, UNetFamily] = {part.FAMILY.key: part.FAMILY for part in (sdxl, sd2, sd1)}  # the most special first
FLOWS: dict[str, FlowFamily] = {
    part.FAMILY.key: part.FAMILY for part in (sd3, flux, flux2, z_image, lumina2, qwen_image, anima)
}
FAMILIES: dict[str, Family] = {**UNETS, **FLOWS}
TRAINABLE = "SD 1.x, SD 2.x or SDXL, or of " + ", ".join(kind.name for kind in FLOWS.values())  # for messages


def family(key: str) -> Family:
    """The family of that key."""
    return FAMILIES[key]


def of_folder(facts: FolderFacts) -> UNetFamily:
    """The family of a diffusers folder's configurations. Raises CheckpointError."""
    for candidate in UNETS.values():
        if candidate.recognises(facts):
            return candidate
    raise CheckpointError(
        f"it has {len(facts.text)} text encoders and a UNet with addition_embed_type"
        f" {facts.unet.get('addition_embed_type')!r}: no family known here has"
    )


def of_network(class_name: str) -> FlowFamily | None:
    """The flow-matching family whose network is that class of diffusers, or None."""
    return next((kind for kind in FLOWS.values() if kind.network == class_name), None)
