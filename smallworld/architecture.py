"""The networks of tiny-sd: Stable Diffusion's own three, with every width reduced, and tiny-flow's, Stable
Diffusion 3's.

Two sizes are dictated by the LDM code that WebUI hosts build the networks with: GroupNorm always has 32 groups, so
all widths are multiples of 32, and the autoencoder halves the picture three times (factor 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
    from transformers import CLIPTextModel

VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [64, 64, 64, 64],
    # No residual block per encoder level and one per decoder level: the decoder needs the capacity.
    "layers_per_block": 0,
    "norm_num_groups": 32,
    "latent_channels": 4,
    "sample_size": 64,
}


def build_vae() -> AutoencoderKL:
    """A freshly initialised autoencoder, 0.86 M parameters: [B, 3, 64, 64] to [B, 4, 8, 8] and back."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE_CONFIG)


TEXT_WIDTH = 96
UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    "block_out_channels": [64, 128],
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,  # diffusers' historic name for the number of heads
    "norm_num_groups": 32,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    # Noisier at the end than Stable Diffusion's 0.00085..0.012: on 8x8 latents that schedule leaves the background
    # colour readable in pure "noise", and sampling would start from something training never saw.
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "v_prediction",
}


def text_config() -> dict[str, Any]:
    """The arguments of ``CLIPTextConfig``, with the ids of this project's own vocabulary."""
    from .tokenizer import BOS, EOS, MAX_LENGTH, vocabulary

    vocab, _ = vocabulary()
    return {
        "vocab_size": len(vocab),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "hidden_act": "quick_gelu",
        "bos_token_id": vocab[BOS],
        "eos_token_id": vocab[EOS],
        "pad_token_id": vocab[EOS],
    }


def build_unet() -> UNet2DConditionModel:
    """A freshly initialised denoiser, 4.2 M parameters, on 8x8x4 latents with a [B, 77, 96] text context."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET_CONFIG)


def build_text_encoder() -> CLIPTextModel:
    """A freshly initialised text encoder, 0.29 M parameters: token ids [B, 77] to [B, 77, 96]."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text_config()))


FLOW_TOKENS = 20
"""Text tokens that tiny-flow sees. The longest caption has 16 with its markers; CLIP's 77 would be more tokens than
the picture has, which are 16 patches.
"""
FLOW_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": TEXT_WIDTH,
    "caption_projection_dim": 128,
    "pooled_projection_dim": TEXT_WIDTH,
    "pos_embed_max_size": 4,
    "qk_norm": "rms_norm",
}


def build_flow() -> SD3Transformer2DModel:
    """A freshly initialised flow transformer, 2.3 M parameters: Stable Diffusion 3's, on tiny-sd's latents.

    As in DiT (Peebles & Xie 2023, section 3.2), every modulation and the output start at zero.
    """
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(**FLOW_CONFIG)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear")) or name == "proj_out":
                nn.init.zeros_(module.weight)
    return model
