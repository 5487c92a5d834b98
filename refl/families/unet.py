"""What SD 1.x, SD 2.x and SDXL share: a convolutional UNet with cross-attention, in the original (LDM) layout or in
diffusers' own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core.clip_bpe import END_TEXT, ClipTokenizer

from ..clip_text import ClipText
from ..conditioning import Conditioning
from ..errors import CheckpointError
from ..ldm import UNetLayout, unet_config
from ..schedule import NoiseSchedule
from .base import Family, PromptEncoder

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SD_BLOCKS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
}


ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
WITH_FF = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TARGETS = {
    "attention": ATTENTION,
    "attention+ff": WITH_FF,
    "all": [*WITH_FF, "conv1", "conv2", "conv_shortcut", "time_emb_proj"],
}


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


@dataclass(frozen=True, kw_only=True)
class UNetFamily(Family):
    """A family whose network is diffusers' UNet2DConditionModel."""

    text: tuple[TextPart, ...]
    clip_skip: int
    network: str = "UNet2DConditionModel"
    folder: str = "unet"
    diffusers_maps_blocks: bool = False  # whether its pipeline there turns a LoRA's original block names into its own

    @abstractmethod
    def recognises(self, folder: FolderFacts) -> bool:
        """Whether a diffusers folder is of this family."""

    @abstractmethod
    def prompts(self, parts: Sequence[tuple[ClipText, ClipTokenizer]], clip_skip: int) -> PromptEncoder:
        """The way from prompts to conditioning."""

    def schedule(self, settings: Mapping[str, Any]) -> NoiseSchedule:
        return NoiseSchedule({**self.scheduler, **settings})

    def folder_clip_skip(self) -> int:
        """The layer to take from a diffusers folder's text encoder when none is asked for."""
        return self.clip_skip

    def needs_ldm_names(self, layout: UNetLayout) -> bool:
        """Whether a LoRA must use the original module names for the hosts to find their places."""
        return layout != UNetLayout.of(self.unet)

    def lora_modules(self, net: nn.Module, targets: str) -> list[str]:
        return TARGETS[targets]

    @abstractmethod
    def heads(self) -> dict[str, int]:
        """The published rule for attention heads: {"heads": count} or {"head_width": width}."""

    def sizes(
        self, state: Mapping[str, Tensor], text: Sequence[Mapping[str, Tensor]], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The diffusers configuration of a single file's network. text: the encoders' weights by canonical names.
        given: numbers that no tensor's shape tells, from a file beside the checkpoint.
        """
        rule: dict[str, Any] = self.heads()
        if given.get("unet_heads"):
            rule = {"heads": given["unet_heads"]}
        elif given.get("unet_head_width"):
            rule = {"head_width": given["unet_head_width"]}
        config = unet_config(state, rule.get("heads"), rule.get("head_width"))
        self.complete(config, text)
        return config

    def complete(self, config: dict[str, Any], text: Sequence[Mapping[str, Tensor]]) -> None:
        """Add what the UNet alone does not tell, or refuse what this family does not have."""
        if config.get("addition_embed_type"):
            raise CheckpointError(
                f"the UNet takes image sizes or a second condition (label_emb), which {self.name} does not: it is of"
                " another kind than its text encoder"
            )

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        extra = None if cond.pooled is None else {"text_embeds": cond.pooled, "time_ids": cond.time_ids}
        return net(x, t, encoder_hidden_states=cond.context, added_cond_kwargs=extra, return_dict=False)[0]

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        return Conditioning(torch.zeros(1, 77, int(unet["cross_attention_dim"]), dtype=dtype))
