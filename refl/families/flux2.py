"""FLUX.2 [klein]: three of Qwen3's layers side by side as context, one modulation for all blocks, and latents that are
gathered two by two into channels and standardised by the autoencoder's running statistics.
"""

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
from ..flow import FlowSchedule, nearest, shifted
from ..resolved import FLOW_INFLATION, Usual
from ..text_models import TextModel
from .base import PromptEncoder
from .flow import JOINT, KL_VAE, Encoding, FlowFamily
from .flux import ATTENTION, DOUBLE, SINGLE
from .names import count, rename, rule

TOKENS, LAYERS = 512, (9, 18, 27)
FOLDED = 2  # cells of the autoencoder on a latent's side
STEPS = 50  # of the model's own sampling: the levels that training draws from are those of so many steps
EMBED = "time_guidance_embed"
SAID = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"  # as Qwen3's own template gives
RULES = (
    *ATTENTION,
    rule("img_in", "x_embedder"),
    rule("txt_in", "context_embedder"),
    rule("time_in.in_layer", f"{EMBED}.timestep_embedder.linear_1"),
    rule("time_in.out_layer", f"{EMBED}.timestep_embedder.linear_2"),
    rule("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    rule("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    rule("single_stream_modulation.lin", "single_stream_modulation.linear"),
    rule("double_blocks.N.img_mlp.0", f"{DOUBLE}.ff.linear_in"),
    rule("double_blocks.N.img_mlp.2", f"{DOUBLE}.ff.linear_out"),
    rule("double_blocks.N.txt_mlp.0", f"{DOUBLE}.ff_context.linear_in"),
    rule("double_blocks.N.txt_mlp.2", f"{DOUBLE}.ff_context.linear_out"),
    rule("single_blocks.N.linear1", f"{SINGLE}.attn.to_qkv_mlp_proj"),
    rule("single_blocks.N.linear2", f"{SINGLE}.attn.to_out"),
    rule("final_layer.linear", "proj_out"),
    rule("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
)


class KleinSchedule(FlowSchedule):
    """The shift depends on the picture's tokens and on the number of steps, by two lines that the makers fitted:
    diffusers' `compute_empirical_mu`. What the scheduler's configuration says of it is not used there either.
    """

    def _shift(self, tokens: int | None) -> float:
        self.tokens = 4096 if tokens is None else tokens
        return self.shift_of(STEPS)

    def shift_of(self, steps: int) -> float:
        """The factor by which odds of noise are multiplied in sampling with so many steps."""
        many, few = 0.00016927 * self.tokens + 0.45666666, 8.73809524e-05 * self.tokens + 1.89833333
        mu = many if self.tokens > 4300 else many + (many - few) / 190 * (steps - 200)
        return math.exp(mu)

    def for_tokens(self, tokens: int) -> KleinSchedule:
        return KleinSchedule(self.config, tokens)

    def timesteps(self, steps: int) -> Tensor:
        levels = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
        return nearest(self.sigmas, shifted(levels, self.shift_of(steps)))


@dataclass(frozen=True, kw_only=True)
class Klein(FlowFamily):
    """See the module. FLUX.2 [dev], whose text encoder is Mistral and which is told its guidance, is another model."""

    def vae_channels(self, vae: Mapping[str, Any]) -> int:
        return int(vae.get("latent_channels", 32)) * FOLDED**2

    def latent_factor(self, vae: Mapping[str, Any]) -> int:
        return super().latent_factor(vae) * FOLDED

    def schedule(self, settings: Mapping[str, Any]) -> FlowSchedule:
        return KleinSchedule({**self.scheduler, **settings})

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        if "text_encoder" not in parts:
            raise CheckpointError("it lacks text_encoder")
        qwen = parts["text_encoder"]

        def encode(prompts: Sequence[str]) -> Conditioning:
            said = [qwen.chat(prompt, SAID, enable_thinking=False) for prompt in prompts]
            return Conditioning(torch.cat(qwen.encode(said, TOKENS, LAYERS).states, dim=-1))  # with what fills them

        return Encoding([qwen], encode)

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        return Conditioning(torch.zeros(1, self.tokens_of_text, int(unet["joint_attention_dim"]), dtype=dtype))

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        h, w = x.shape[-2:]
        output = net(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=sigma,
            guidance=None,
            encoder_hidden_states=cond.context,
            txt_ids=places(1, 1, cond.context.shape[1], x),
            img_ids=places(h, w, 1, x),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(x.shape)

    def decode(self, vae: nn.Module, latents: Tensor, scale: float) -> Tensor:
        mean, std = _statistics(vae, latents)
        cells = F.pixel_shuffle(latents * std + mean, FOLDED).to(next(vae.parameters()).dtype)
        return vae.decode(cells, return_dict=False)[0]  # type: ignore[operator]

    def encode(self, vae: nn.Module, pictures: Tensor, scale: float) -> Tensor:
        cells = vae.encode(pictures.to(next(vae.parameters()).dtype)).latent_dist.mean.float()  # type: ignore[operator]
        mean, std = _statistics(vae, cells)
        return (F.pixel_unshuffle(cells, FOLDED) - mean) / std

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if any(key.startswith(("guidance_in.", f"{EMBED}.guidance_embedder.")) for key in state):
            raise CheckpointError("it is FLUX.2 [dev], which is told its guidance; [klein] can be trained")
        return dict(state) if "x_embedder.weight" in state else rename(state, RULES, 0)

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        head, width = state["transformer_blocks.0.attn.norm_q.weight"].shape[0], state["x_embedder.weight"].shape[0]
        return {
            "in_channels": state["x_embedder.weight"].shape[1],
            "num_layers": count(state, "transformer_blocks"),
            "num_single_layers": count(state, "single_transformer_blocks"),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": state["context_embedder.weight"].shape[1],
            "timestep_guidance_channels": state[f"{EMBED}.timestep_embedder.linear_1.weight"].shape[1],
            "mlp_ratio": state["transformer_blocks.0.ff.linear_out.weight"].shape[1] / width,
            "axes_dims_rope": [head // 4] * 4,
            "guidance_embeds": False,
        }


def places(h: int, w: int, length: int, like: Tensor) -> Tensor:
    """(0, row, column, number) of each of h × w × length tokens, for every picture of a batch [B, h w length, 4]."""
    found = torch.cartesian_prod(torch.arange(1), torch.arange(h), torch.arange(w), torch.arange(length))
    return found.to(like.device).expand(len(like), -1, -1)


def _statistics(vae: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of each latent channel [1, C, 1, 1]."""
    norm: Any = vae.bn
    mean, variance = (part.view(1, -1, 1, 1).to(like) for part in (norm.running_mean, norm.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()  # type: ignore[union-attr]


FAMILY = Klein(
    key="flux2",
    name="FLUX.2 [klein]",
    pipelines=("Flux2KleinPipeline",),
    since="0.37.0",
    latent_scale=1.0,
    latent_channels=128,
    text=("text_encoder",),
    tokens_of_text=TOKENS,
    usual=Usual(1024, 4.0, FLOW_INFLATION),
    patch=1,
    attention=(*JOINT, "to_qkv_mlp_proj", "attn.to_out"),
    feed_forward=("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
    lora_metadata={"ss_base_model_version": "flux2-klein", "modelspec.architecture": "flux-2-klein/lora"},
    licence="Apache-2.0 (4B) or FLUX Non-Commercial License (9B)",
    network="Flux2Transformer2DModel",
    autoencoder="AutoencoderKLFlux2",
    scheduler={"use_dynamic_shifting": True},
    unet={
        "in_channels": 128,
        "num_layers": 5,
        "num_single_layers": 20,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    },
    vae={
        **{name: value for name, value in KL_VAE.items() if not name.startswith("use_")},
        "latent_channels": 32,
    },
)
