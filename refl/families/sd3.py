"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP encoders side by side, T5 behind, and a pooled vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..errors import CheckpointError
from ..resolved import FLOW_INFLATION, Usual
from ..text_models import TextModel
from .base import PromptEncoder
from .flow import KL_VAE, Encoding, FlowFamily, last_block
from .names import count, rename, rule

CLIP_TOKENS, T5_TOKENS = 77, 256
CLIP_LAYER = -2  # the last but one, without the final norm
BLOCK = "transformer_blocks.N"
RULES = (
    rule("pos_embed", "pos_embed.pos_embed"),
    rule("x_embedder.proj", "pos_embed.proj"),
    rule("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    rule("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    rule("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    rule("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    rule("joint_blocks.N.x_block.attn.qkv", *(f"{BLOCK}.attn.{part}" for part in ("to_q", "to_k", "to_v"))),
    rule("joint_blocks.N.x_block.attn2.qkv", *(f"{BLOCK}.attn2.{part}" for part in ("to_q", "to_k", "to_v"))),
    rule(
        "joint_blocks.N.context_block.attn.qkv",
        *(f"{BLOCK}.attn.{part}" for part in ("add_q_proj", "add_k_proj", "add_v_proj")),
    ),
    rule("joint_blocks.N.x_block.attn.ln_q", f"{BLOCK}.attn.norm_q"),
    rule("joint_blocks.N.x_block.attn.ln_k", f"{BLOCK}.attn.norm_k"),
    rule("joint_blocks.N.x_block.attn2.ln_q", f"{BLOCK}.attn2.norm_q"),
    rule("joint_blocks.N.x_block.attn2.ln_k", f"{BLOCK}.attn2.norm_k"),
    rule("joint_blocks.N.context_block.attn.ln_q", f"{BLOCK}.attn.norm_added_q"),
    rule("joint_blocks.N.context_block.attn.ln_k", f"{BLOCK}.attn.norm_added_k"),
    rule("joint_blocks.N.x_block.attn.proj", f"{BLOCK}.attn.to_out.0"),
    rule("joint_blocks.N.x_block.attn2.proj", f"{BLOCK}.attn2.to_out.0"),
    rule("joint_blocks.N.context_block.attn.proj", f"{BLOCK}.attn.to_add_out"),
    rule("joint_blocks.N.x_block.mlp.fc1", f"{BLOCK}.ff.net.0.proj"),
    rule("joint_blocks.N.x_block.mlp.fc2", f"{BLOCK}.ff.net.2"),
    rule("joint_blocks.N.context_block.mlp.fc1", f"{BLOCK}.ff_context.net.0.proj"),
    rule("joint_blocks.N.context_block.mlp.fc2", f"{BLOCK}.ff_context.net.2"),
    rule("joint_blocks.N.x_block.adaLN_modulation.1", f"{BLOCK}.norm1.linear"),
    rule("joint_blocks.N.context_block.adaLN_modulation.1", f"{BLOCK}.norm1_context.linear"),
    rule("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
    rule("final_layer.linear", "proj_out"),
)


@dataclass(frozen=True, kw_only=True)
class SD3(FlowFamily):
    """See the module."""

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        """Without T5, which is optional here, its rows are zeros. A small model may have one CLIP and nothing else."""
        clips = [parts[name] for name in ("text_encoder", "text_encoder_2") if name in parts]
        if len(parts) == 1 and clips:
            return self._small(clips[0])
        if len(clips) < 2:
            raise CheckpointError("it lacks one of its two CLIP text encoders (text_encoder, text_encoder_2)")
        t5, width = parts.get("text_encoder_3"), int(unet["joint_attention_dim"])
        layer = -(clip_skip + 1) if clip_skip else CLIP_LAYER

        def encode(prompts: Sequence[str]) -> Conditioning:
            short = [clip.encode(prompts, CLIP_TOKENS, (layer,)) for clip in clips]
            context = torch.cat([part.states[0] for part in short], dim=-1)
            context = F.pad(context, (0, width - context.shape[-1]))
            if t5 is None:
                long = context.new_zeros(len(prompts), T5_TOKENS, width)
            else:
                long = t5.encode(prompts, T5_TOKENS).states[0].to(context.dtype)
            pooled = torch.cat([part.pooled for part in short], dim=-1)  # type: ignore[misc]
            return Conditioning(torch.cat((context, long), dim=1), pooled)

        return Encoding(list(parts.values()), encode)

    @staticmethod
    def _small(clip: TextModel) -> PromptEncoder:
        """Of one encoder the last layer, as many tokens as its tokeniser allows (smallworld's tiny-flow)."""

        def encode(prompts: Sequence[str]) -> Conditioning:
            found = clip.encode(prompts, min(CLIP_TOKENS, clip.tokenizer.model_max_length))
            return Conditioning(found.states[0], found.pooled)

        return Encoding([clip], encode)

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        context = torch.zeros(1, self.tokens_of_text, int(unet["joint_attention_dim"]), dtype=dtype)
        return Conditioning(context, torch.zeros(1, int(unet["pooled_projection_dim"]), dtype=dtype))

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return net(
            hidden_states=x,
            timestep=sigma * 1000,
            encoder_hidden_states=cond.context,
            pooled_projections=cond.pooled,
            return_dict=False,
        )[0]

    def side(self, unet: Mapping[str, Any]) -> int:
        return int(unet.get("patch_size", self.patch))

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The last block's modulation of the text is a shift and a scale alone, in diffusers a scale and a shift."""
        if "pos_embed.proj.weight" in state:  # diffusers' names already
            return dict(state)
        found = rename(state, RULES, 0)
        last = count(found, "transformer_blocks") - 1
        for kind in ("weight", "bias"):
            name = f"transformer_blocks.{last}.norm1_context.linear.{kind}"
            shift, scale = found[name].chunk(2)
            found[name] = torch.cat((scale, shift))
        return found

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        patch = state["pos_embed.proj.weight"]
        width, layers = state["proj_out.weight"].shape[1], count(state, "transformer_blocks")
        norm = state.get("transformer_blocks.0.attn.norm_q.weight")
        head = 64 if norm is None else norm.shape[0]
        dual = [number for number in range(layers) if f"transformer_blocks.{number}.attn2.to_q.weight" in state]
        return {
            "patch_size": patch.shape[-1],
            "in_channels": patch.shape[1],
            "out_channels": state["proj_out.weight"].shape[0] // patch.shape[-1] ** 2,
            "num_layers": layers,
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": state["context_embedder.weight"].shape[1],
            "caption_projection_dim": state["context_embedder.weight"].shape[0],
            "pooled_projection_dim": state["time_text_embed.text_embedder.linear_1.weight"].shape[1],
            "pos_embed_max_size": math.isqrt(state["pos_embed.pos_embed"].shape[1]),
            **({} if norm is None else {"qk_norm": "rms_norm"}),
            **({"dual_attention_layers": dual} if dual else {}),
        }

    def idle(self, net: nn.Module) -> tuple[str, ...]:
        """The last block answers for the picture alone: the text's queries are thrown away."""
        return last_block(net, "transformer_blocks", "attn.add_q_proj", "attn.to_add_out", "ff_context")


FAMILY = SD3(
    key="sd3",
    name="Stable Diffusion 3",
    pipelines=("StableDiffusion3Pipeline",),
    since="0.31.0",
    latent_scale=1.5305,
    latent_shift=0.0609,
    latent_channels=16,
    text=("text_encoder", "text_encoder_2", "text_encoder_3"),
    tokens_of_text=CLIP_TOKENS + T5_TOKENS,
    usual=Usual(1024, 4.5, FLOW_INFLATION),
    feed_forward=("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    rules_for_hosts=RULES,
    lora_metadata={"ss_base_model_version": "sd3", "modelspec.architecture": "stable-diffusion-3-medium/lora"},
    licence="Stability AI Community License",
    network="SD3Transformer2DModel",
    scheduler={"shift": 3.0},
    unet={  # 3.5 Medium
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": list(range(13)),
    },
    vae={**KL_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609},
)
