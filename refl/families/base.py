"""What distinguishes one family of image models from another, behind one interface.

A family is one file beside this one, and one line in `families.FAMILIES`. Sizes come from the tensors themselves;
the published ones stand here for estimates only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from imagereward_core.clip_bpe import END_TEXT, ClipTokenizer

from ..clip_text import ClipText
from ..conditioning import Conditioning
from ..ldm import UNetLayout
from ..resolved import Usual
from ..schedule import NoiseSchedule


class PromptEncoder(Protocol):
    """Prompts → conditioning, on the encoder's device."""

    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True)
class TextPart:
    """One text encoder: where its weights lie in a single file, its activation ("quick_gelu" or "gelu"), how its
    prompts are padded, and whether it has a projection for the pooled vector.
    """

    prefix: str
    activation: str = "quick_gelu"
    pad: str = END_TEXT
    projection: bool = False


@dataclass(frozen=True)
class FolderFacts:
    """The configurations of a diffusers folder, by which a family knows its own."""

    unet: Mapping[str, Any]
    text: tuple[Mapping[str, Any], ...]  # of text_encoder, text_encoder_2, …


@dataclass(frozen=True)
class Family(ABC):
    """The facts of one family and what follows from them.

    key: also the kind's key in imagereward_core.weights.kinds. prediction: what the network is taken to predict when
    neither its files nor the probe tell. unet, vae: the published sizes as diffusers configurations.
    """

    key: str
    name: str
    latent_scale: float
    latent_channels: int
    text: tuple[TextPart, ...]
    clip_skip: int
    usual: Usual
    lora_metadata: dict[str, str]
    scheduler: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    prediction: str = "epsilon"
    diffusers_maps_blocks: bool = False  # whether its pipeline there turns a LoRA's original block names into its own

    @abstractmethod
    def recognises(self, folder: FolderFacts) -> bool:
        """Whether a diffusers folder is of this family."""

    @abstractmethod
    def sizes(
        self, state: Mapping[str, Tensor], text: Sequence[Mapping[str, Tensor]], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The diffusers configuration of a single file's network. text: the encoders' weights by canonical names.
        given: numbers that no tensor's shape tells, from a file beside the checkpoint.
        """

    @abstractmethod
    def prompts(self, parts: Sequence[tuple[ClipText, ClipTokenizer]], clip_skip: int) -> PromptEncoder:
        """The way from prompts to conditioning."""

    @abstractmethod
    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        """One row of zeros in the form this network takes, for probing and for estimates."""

    @abstractmethod
    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's output at noisy latents x [B, C, h, w] and timesteps t [B]."""

    def schedule(self, settings: Mapping[str, Any]) -> NoiseSchedule:
        """The noise schedule: the family's, changed by what the checkpoint says."""
        return NoiseSchedule({**self.scheduler, **settings})

    def folder_clip_skip(self) -> int:
        """The layer to take from a diffusers folder's text encoder when none is asked for."""
        return self.clip_skip

    def needs_ldm_names(self, layout: UNetLayout) -> bool:
        """Whether a LoRA must use the original module names for the hosts to find their places."""
        return layout != UNetLayout.of(self.unet)

    def lora_facts(self, schedule: NoiseSchedule) -> dict[str, str]:
        """What a LoRA's metadata says about the model it belongs to."""
        return dict(self.lora_metadata)
