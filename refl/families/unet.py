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

from ..conditioning import Conditioning
from ..errors import CheckpointError
from ..ldm import unet_config
from .base import Family

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


@dataclass(frozen=True)
class UNetFamily(Family):
    """A family whose network is diffusers' UNet2DConditionModel."""

    @abstractmethod
    def heads(self) -> dict[str, int]:
        """The published rule for attention heads: {"heads": count} or {"head_width": width}."""

    def sizes(
        self, state: Mapping[str, Tensor], text: Sequence[Mapping[str, Tensor]], given: Mapping[str, Any]
    ) -> dict[str, Any]:
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
