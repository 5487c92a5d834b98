"""SDXL: two text encoders side by side, a pooled vector, and the image size (Podell et al. 2023, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imagereward_core.clip_bpe import ClipTokenizer

from ..clip_text import ClipText
from ..conditioning import Conditioning
from ..errors import CheckpointError
from ..ldm import UNetLayout
from ..resolved import USUAL_SDXL
from .unet import SCHEDULER, VAE, FolderFacts, TextPart, UNetFamily

PROJECTION = "text_projection.weight"


class SDXLPrompts:
    """Prompts → context [B, 77, D1 + D2], pooled [B, P], time_ids [B, 6]."""

    def __init__(self, parts: Sequence[tuple[ClipText, ClipTokenizer]], clip_skip: int):
        self.parts, self.clip_skip = list(parts), clip_skip

    def to(self, device: torch.device) -> SDXLPrompts:
        """Move both encoders."""
        for encoder, _ in self.parts:
            encoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        """Training images are square, uncropped and of the training resolution: (H, W, 0, 0, H, W).

        An empty prompt becomes zeros, as SDXL was trained.
        """
        contexts, pooled = [], None
        for encoder, tokenizer in self.parts:
            ids = torch.tensor(tokenizer(prompts), device=encoder.device)
            context, pooled = encoder.encode(ids, self.clip_skip, False, tokenizer.end)
            contexts.append(context)
        context = torch.cat(contexts, dim=-1)
        if pooled is None:
            raise CheckpointError("the second text encoder of this SDXL model lacks its text projection")
        filled = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=context.device)
        sizes = torch.tensor(
            [[resolution, resolution, 0, 0, resolution, resolution]], dtype=torch.float32, device=context.device
        )
        return Conditioning(context * filled[:, None, None], pooled * filled[:, None], sizes.expand(len(prompts), 6))


@dataclass(frozen=True, kw_only=True)
class SDXL(UNetFamily):
    """See the module."""

    def recognises(self, folder: FolderFacts) -> bool:
        return len(folder.text) == 2 and folder.unet.get("addition_embed_type") == "text_time"

    def heads(self) -> dict[str, int]:
        return {"head_width": 64}

    def complete(self, config: dict[str, Any], text: Sequence[Mapping[str, Tensor]]) -> None:
        """The width of one size id's embedding is what the pooled vector leaves of the condition."""
        prefix = self.text[1].prefix
        if PROJECTION not in text[1]:
            raise CheckpointError(
                f"it lacks {prefix}text_projection, which turns the second text encoder's last layer into the pooled"
                " vector"
            )
        if "projection_class_embeddings_input_dim" not in config:
            raise CheckpointError("its UNet lacks label_emb.0.0.weight, through which image sizes and pooled vector go")
        pooled = text[1][PROJECTION].shape[0]
        rest = config["projection_class_embeddings_input_dim"] - pooled
        if rest <= 0 or rest % 6:
            raise CheckpointError(
                f"its UNet takes a condition of {rest + pooled} numbers, which a pooled vector of {pooled} and six size"
                " ids do not make"
            )
        config["addition_time_embed_dim"] = rest // 6

    def prompts(self, parts: Sequence[tuple[ClipText, ClipTokenizer]], clip_skip: int) -> SDXLPrompts:
        return SDXLPrompts(parts, clip_skip)

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        pooled = int(unet["projection_class_embeddings_input_dim"]) - 6 * int(unet["addition_time_embed_dim"])
        context = super().blank(unet, dtype).context
        return Conditioning(context, torch.zeros(1, pooled, dtype=dtype), torch.zeros(1, 6))

    def needs_ldm_names(self, layout: UNetLayout) -> bool:
        """Always: kohya's scripts and the hosts use the original names for SDXL."""
        return True


FAMILY = SDXL(
    key="sdxl",
    name="Stable Diffusion XL",
    latent_scale=0.13025,
    latent_channels=4,
    text=(
        TextPart("conditioner.embedders.0.transformer."),
        TextPart("conditioner.embedders.1.model.", "gelu", "!", projection=True),
    ),
    clip_skip=2,
    usual=USUAL_SDXL,
    lora_metadata={
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    },
    licence="CreativeML Open RAIL++-M",
    scheduler=SCHEDULER,
    unet={
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae=VAE,
    diffusers_maps_blocks=True,
)
