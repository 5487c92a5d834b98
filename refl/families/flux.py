"""FLUX.1: T5's rows as context, CLIP's pooled vector beside them, and latents packed two by two. The published model is
distilled: it takes the guidance as a number and needs no unconditional branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..errors import CheckpointError
from ..resolved import FLOW_INFLATION, Usual
from ..text_models import TextModel
from .base import PromptEncoder
from .flow import JOINT, KL_VAE, Encoding, FlowFamily, packed, unpacked
from .names import count, rename, rule

CLIP_TOKENS, T5_TOKENS = 77, 512
GUIDANCE = 3.5  # what a distilled model is told; its users' default
DOUBLE, SINGLE, EMBED = "transformer_blocks.N", "single_transformer_blocks.N", "time_text_embed"
# what FLUX.1 and FLUX.2 call alike
ATTENTION = (
    rule("double_blocks.N.img_attn.qkv", *(f"{DOUBLE}.attn.{part}" for part in ("to_q", "to_k", "to_v"))),
    rule(
        "double_blocks.N.txt_attn.qkv",
        *(f"{DOUBLE}.attn.{part}" for part in ("add_q_proj", "add_k_proj", "add_v_proj")),
    ),
    rule("double_blocks.N.img_attn.norm.query_norm", f"{DOUBLE}.attn.norm_q"),
    rule("double_blocks.N.img_attn.norm.key_norm", f"{DOUBLE}.attn.norm_k"),
    rule("double_blocks.N.txt_attn.norm.query_norm", f"{DOUBLE}.attn.norm_added_q"),
    rule("double_blocks.N.txt_attn.norm.key_norm", f"{DOUBLE}.attn.norm_added_k"),
    rule("double_blocks.N.img_attn.proj", f"{DOUBLE}.attn.to_out.0"),
    rule("double_blocks.N.txt_attn.proj", f"{DOUBLE}.attn.to_add_out"),
    rule("single_blocks.N.norm.query_norm", f"{SINGLE}.attn.norm_q"),
    rule("single_blocks.N.norm.key_norm", f"{SINGLE}.attn.norm_k"),
)
RULES = (
    *ATTENTION,
    rule("time_in.in_layer", f"{EMBED}.timestep_embedder.linear_1"),
    rule("time_in.out_layer", f"{EMBED}.timestep_embedder.linear_2"),
    rule("vector_in.in_layer", f"{EMBED}.text_embedder.linear_1"),
    rule("vector_in.out_layer", f"{EMBED}.text_embedder.linear_2"),
    rule("guidance_in.in_layer", f"{EMBED}.guidance_embedder.linear_1"),
    rule("guidance_in.out_layer", f"{EMBED}.guidance_embedder.linear_2"),
    rule("txt_in", "context_embedder"),
    rule("img_in", "x_embedder"),
    rule("double_blocks.N.img_mod.lin", f"{DOUBLE}.norm1.linear"),
    rule("double_blocks.N.txt_mod.lin", f"{DOUBLE}.norm1_context.linear"),
    rule("double_blocks.N.img_mlp.0", f"{DOUBLE}.ff.net.0.proj"),
    rule("double_blocks.N.img_mlp.2", f"{DOUBLE}.ff.net.2"),
    rule("double_blocks.N.txt_mlp.0", f"{DOUBLE}.ff_context.net.0.proj"),
    rule("double_blocks.N.txt_mlp.2", f"{DOUBLE}.ff_context.net.2"),
    rule("single_blocks.N.modulation.lin", f"{SINGLE}.norm.linear"),
    rule(
        "single_blocks.N.linear1",
        *(f"{SINGLE}.{part}" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        rest=True,
    ),
    rule("single_blocks.N.linear2", f"{SINGLE}.proj_out"),
    rule("final_layer.linear", "proj_out"),
    rule("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
)


def positions(h: int, w: int, like: Tensor) -> Tensor:
    """The place of each of h × w tokens [h w, 3]: (0, row, column)."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack((torch.zeros_like(rows), rows, columns), dim=-1)
    return places.reshape(h * w, 3).to(like.device, like.dtype)


@dataclass(frozen=True, kw_only=True)
class Flux(FlowFamily):
    """See the module."""

    def channels(self, unet: Mapping[str, Any]) -> int:
        return int(unet.get("in_channels", 64)) // self.patch**2

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        for name in self.text:
            if name not in parts:
                raise CheckpointError(f"it lacks {name}")
        clip, t5 = parts["text_encoder"], parts["text_encoder_2"]

        def encode(prompts: Sequence[str]) -> Conditioning:
            pooled = clip.encode(prompts, CLIP_TOKENS).pooled
            return Conditioning(t5.encode(prompts, T5_TOKENS).states[0], pooled)

        return Encoding([clip, t5], encode)

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        context = torch.zeros(1, self.tokens_of_text, int(unet["joint_attention_dim"]), dtype=dtype)
        return Conditioning(context, torch.zeros(1, int(unet["pooled_projection_dim"]), dtype=dtype))

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "x_embedder.weight" in state:  # diffusers' names already
            return dict(state)
        return rename(state, RULES, state["img_in.weight"].shape[0])

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        head, width = state["transformer_blocks.0.attn.norm_q.weight"].shape[0], state["x_embedder.weight"].shape[0]
        sides = head * 7 // 16 // 2 * 2  # of the rotary positions: as of 128 numbers 16, 56 and 56
        return {
            "patch_size": 1,
            "in_channels": state["x_embedder.weight"].shape[1],
            "num_layers": count(state, "transformer_blocks"),
            "num_single_layers": count(state, "single_transformer_blocks"),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": state["context_embedder.weight"].shape[1],
            "pooled_projection_dim": state[f"{EMBED}.text_embedder.linear_1.weight"].shape[1],
            "guidance_embeds": f"{EMBED}.guidance_embedder.linear_1.weight" in state,
            "axes_dims_rope": [head - 2 * sides, sides, sides],
        }

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        h, w = x.shape[-2:]
        embeds = net.config.guidance_embeds  # type: ignore[union-attr]
        guidance = sigma.new_full((len(x),), GUIDANCE) if embeds else None
        output = net(
            hidden_states=packed(x),
            timestep=sigma,
            guidance=guidance,
            encoder_hidden_states=cond.context,
            pooled_projections=cond.pooled,
            txt_ids=x.new_zeros(cond.context.shape[1], 3),
            img_ids=positions(h // self.patch, w // self.patch, x),
            return_dict=False,
        )[0]
        return unpacked(output, h, w)


FAMILY = Flux(
    key="flux",
    name="FLUX.1",
    pipelines=("FluxPipeline",),
    since="0.31.0",
    latent_scale=0.3611,
    latent_shift=0.1159,
    latent_channels=16,
    text=("text_encoder", "text_encoder_2"),
    tokens_of_text=T5_TOKENS,
    usual=Usual(1024, 1.0, FLOW_INFLATION),
    attention=JOINT,
    feed_forward=("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    lora_metadata={"ss_base_model_version": "flux1", "modelspec.architecture": "flux-1-dev/lora"},
    licence="FLUX.1 [dev] Non-Commercial License",
    network="FluxTransformer2DModel",
    scheduler={
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
    unet={
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": [16, 56, 56],
    },
    vae={**KL_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159},
)
