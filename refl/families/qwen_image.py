"""Qwen-Image: two streams of picture and text, whose text is Qwen2.5-VL's last layer behind a fixed instruction, and an
autoencoder for films, of which one picture is one frame.
"""

from __future__ import annotations

import inspect
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
from .flow import JOINT, Encoding, FlowFamily, last_block, packed, unpacked
from .names import count

TOKENS = 1024
BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial"
    " relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
INSTRUCTION = 34  # tokens of BEFORE, which the picture is not shown
VAE = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}


class FilmFamily(FlowFamily):
    """A family whose autoencoder is Qwen-Image's, or Wan 2.1's for single frames, which is the same. Latents are scaled
    channel by channel: `latent_scale` is 1.
    """

    def vae_channels(self, vae: Mapping[str, Any]) -> int:
        return int(vae.get("z_dim", self.latent_channels))

    def latent_factor(self, vae: Mapping[str, Any]) -> int:
        return 2 ** len(vae["temperal_downsample"])

    def decode(self, vae: nn.Module, latents: Tensor, scale: float) -> Tensor:
        mean, std = _statistics(vae, latents)
        film = (latents * std + mean).unsqueeze(2).to(next(vae.parameters()).dtype)
        return vae.decode(film, return_dict=False)[0][:, :, 0]  # type: ignore[operator]

    def encode(self, vae: nn.Module, pictures: Tensor, scale: float) -> Tensor:
        film = pictures.unsqueeze(2).to(next(vae.parameters()).dtype)
        latents = vae.encode(film).latent_dist.mean[:, :, 0].float()  # type: ignore[operator]
        mean, std = _statistics(vae, latents)
        return (latents - mean) / std


@dataclass(frozen=True, kw_only=True)
class QwenImage(FilmFamily):
    """See the module."""

    def channels(self, unet: Mapping[str, Any]) -> int:
        return int(unet.get("in_channels", 64)) // self.patch**2

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        if "text_encoder" not in parts:
            raise CheckpointError("it lacks text_encoder")
        qwen = parts["text_encoder"]

        def encode(prompts: Sequence[str]) -> Conditioning:
            texts = [BEFORE + prompt + AFTER for prompt in prompts]
            found = qwen.encode(texts, TOKENS + INSTRUCTION).shortened()
            return Conditioning(found.context[:, INSTRUCTION:], mask=found.mask[:, INSTRUCTION:])  # type: ignore[index]

        return Encoding([qwen], encode)

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        context = torch.zeros(1, self.tokens_of_text, int(unet["joint_attention_dim"]), dtype=dtype)
        return Conditioning(context, mask=torch.ones(1, self.tokens_of_text, dtype=torch.bool))

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        h, w = x.shape[-2:]
        given: dict[str, Any] = {}
        if "txt_seq_lens" in inspect.signature(net.forward).parameters:  # diffusers before 0.37
            given["txt_seq_lens"] = cond.lengths()
        output = net(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=cond.context,
            encoder_hidden_states_mask=cond.mask,
            img_shapes=[[(1, h // self.patch, w // self.patch)]] * len(x),
            return_dict=False,
            **given,
        )[0]
        return unpacked(output, h, w)

    def idle(self, net: nn.Module) -> tuple[str, ...]:
        return last_block(net, "transformer_blocks", "attn.add_q_proj", "attn.to_add_out", "txt_mlp")

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its files have diffusers' names."""
        return dict(state)

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        head, width = state["transformer_blocks.0.attn.norm_q.weight"].shape[0], state["img_in.weight"].shape[0]
        side = head * 7 // 16 // 2 * 2  # of the rotary positions: as of 128 numbers 16, 56 and 56
        return {
            "in_channels": state["img_in.weight"].shape[1],
            "out_channels": state["proj_out.weight"].shape[0] // self.patch**2,
            "num_layers": count(state, "transformer_blocks"),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": state["txt_in.weight"].shape[1],
            "axes_dims_rope": [head - 2 * side, side, side],
        }


def _statistics(vae: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of each latent channel [1, C, 1, 1]."""
    config: Any = vae.config
    found = [torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std")]
    return found[0].to(like), found[1].to(like)


FAMILY = QwenImage(
    key="qwen-image",
    name="Qwen-Image",
    pipelines=("QwenImagePipeline",),
    since="0.35.0",
    latent_scale=1.0,
    latent_channels=16,
    text=("text_encoder",),
    tokens_of_text=256,
    usual=Usual(1328, 4.0, FLOW_INFLATION),
    attention=JOINT,
    feed_forward=("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
    lora_metadata={"ss_base_model_version": "qwen-image", "modelspec.architecture": "qwen-image/lora"},
    licence="Apache-2.0",
    network="QwenImageTransformer2DModel",
    autoencoder="AutoencoderKLQwenImage",
    scheduler={
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 0.9,
        "base_image_seq_len": 256,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    },
    unet={
        "patch_size": 2,
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 60,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 3584,
        "axes_dims_rope": [16, 56, 56],
    },
    vae=VAE,
)
