"""SD 1.x: one text encoder (OpenAI's CLIP ViT-L/14), whose last layer is taken unless asked otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from imagereward_core.clip_bpe import ClipTokenizer

from ..clip_text import ClipText
from ..conditioning import Conditioning
from ..resolved import USUAL_SD
from .unet import SCHEDULER, SD_BLOCKS, VAE, FolderFacts, TextPart, UNetFamily


class SDPrompts:
    """Prompts → context [B, 77, D], with the final layer norm whatever layer it comes from (as the WebUI does)."""

    def __init__(self, encoder: ClipText, tokenizer: ClipTokenizer, clip_skip: int):
        self.encoder, self.tokenizer, self.clip_skip = encoder, tokenizer, clip_skip

    def to(self, device: torch.device) -> SDPrompts:
        """Move the encoder."""
        self.encoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        """The resolution plays no part in these models."""
        ids = torch.tensor(self.tokenizer(prompts), device=self.encoder.device)
        return Conditioning(self.encoder.encode(ids, self.clip_skip, True, self.tokenizer.end)[0])


@dataclass(frozen=True, kw_only=True)
class SD1(UNetFamily):
    """See the module."""

    def recognises(self, folder: FolderFacts) -> bool:
        return len(folder.text) == 1 and not folder.unet.get("addition_embed_type")

    def heads(self) -> dict[str, int]:
        return {"heads": 8}

    def prompts(self, parts: Sequence[tuple[ClipText, ClipTokenizer]], clip_skip: int) -> SDPrompts:
        return SDPrompts(*parts[0], clip_skip)


FAMILY = SD1(
    key="sd1",
    name="Stable Diffusion 1.x",
    latent_scale=0.18215,
    latent_channels=4,
    text=(TextPart("cond_stage_model.transformer."),),
    clip_skip=1,
    usual=USUAL_SD,
    lora_metadata={
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-v1/lora",
    },
    licence="CreativeML Open RAIL-M",
    scheduler=SCHEDULER,
    unet={**SD_BLOCKS, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae=VAE,
)
