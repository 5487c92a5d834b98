"""tiny-sd's files: one LDM-layout checkpoint with its ``.yaml``, and diffusers' configuration folder.

WebUI hosts read Stable Diffusion 1 checkpoints under the tensor names of the original latent-diffusion code;
diffusers has names of its own. refl's table renames one into the other, both ways.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from refl.ldm import UNET_PREFIX, VAE_PREFIX, UNetLayout, unet_name_to_ldm, vae_name_to_ldm

from .architecture import SCHEDULE, TEXT_WIDTH, UNET_CONFIG, VAE_CONFIG, text_config
from .tokenizer import write_tokenizer

TEXT_PREFIX = "cond_stage_model.transformer.text_model."


@functools.lru_cache(maxsize=1)
def _unet_keys() -> dict[str, str]:
    """diffusers name → latent-diffusion name of every UNet tensor of tiny-sd."""
    from .architecture import build_unet

    with torch.device("meta"):
        unet = build_unet()
    layout = UNetLayout.of(unet.config)
    return {name: UNET_PREFIX + unet_name_to_ldm(layout, name) for name in unet.state_dict()}


def unet_key(name: str) -> str:
    """The latent-diffusion name of a diffusers UNet tensor. KeyError for a tensor that tiny-sd does not have."""
    return _unet_keys()[name]


def vae_key(name: str) -> str:
    """The latent-diffusion name of a diffusers AutoencoderKL tensor."""
    return VAE_PREFIX + vae_name_to_ldm(name, len(VAE_CONFIG["block_out_channels"]))


def text_key(name: str) -> str:
    """The latent-diffusion name of a CLIPTextModel tensor; transformers 5 dropped the ``text_model.`` prefix."""
    return TEXT_PREFIX + name.removeprefix("text_model.")


def to_ldm(
    unet: Mapping[str, torch.Tensor], vae: Mapping[str, torch.Tensor], text: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One Stable Diffusion 1 state dict, fp16, of the three networks' own state dicts."""
    tensors = {unet_key(name): value for name, value in unet.items()}
    tensors |= {text_key(name): value for name, value in text.items() if not name.endswith("position_ids")}
    for name, value in vae.items():
        key = vae_key(name)
        # Latent diffusion writes the attention's linear layers as 1x1 convolutions.
        is_projection = ".attn_1." in key and key.endswith(".weight") and value.dim() == 2
        tensors[key] = value[:, :, None, None] if is_projection else value
    return {name: value.detach().to(torch.float16).contiguous() for name, value in tensors.items()}


def from_ldm(tensors: Mapping[str, torch.Tensor], part: str, model: torch.nn.Module) -> None:
    """Load one part (``"unet"``, ``"vae"`` or ``"text"``) of an LDM state dict into a diffusers model, strictly."""
    rename = {"unet": unet_key, "vae": vae_key, "text": text_key}[part]
    own = model.state_dict()
    loaded = {}
    for name, value in own.items():
        if not name.endswith("position_ids"):
            loaded[name] = tensors[rename(name)].reshape(value.shape).to(value.dtype)
        else:
            loaded[name] = value
    model.load_state_dict(loaded, strict=True)


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], scaling_factor: float) -> None:
    """Write ``NAME.safetensors``, ``NAME.yaml`` and the configuration folder ``NAME/`` beside each other."""
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "tiny-sd",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/Stability-AI/stablediffusion",
        "modelspec.prediction_type": "v",
        "modelspec.resolution": "64x64",
        "modelspec.description": "64x64 pictures of coloured shapes; a demonstration model of the small world",
    }
    save_file(dict(tensors), path, metadata=metadata)
    path.with_suffix(".yaml").write_text(ldm_yaml(path.stem, scaling_factor), encoding="utf-8", newline="\n")
    write_config_folder(path.with_suffix(""), scaling_factor)


def write_config_folder(folder: Path, scaling_factor: float) -> None:
    """What ``StableDiffusionPipeline.from_single_file(..., config=folder)`` needs to load the checkpoint offline."""
    text = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **text_config()}
    parts: dict[str, dict[str, Any]] = {
        "unet": {"_class_name": "UNet2DConditionModel", **UNET_CONFIG},
        "vae": {"_class_name": "AutoencoderKL", **VAE_CONFIG, "scaling_factor": scaling_factor},
        "text_encoder": text,
    }
    for name, config in parts.items():
        _write_json(folder / name / "config.json", config)
    scheduler = {
        "_class_name": "DDIMScheduler",
        **SCHEDULE,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_tokenizer(folder / "tokenizer")
    # A1111 reads the text encoder's shape and its vocabulary from one and the same folder (see ldm_yaml).
    _write_json(folder / "tokenizer" / "config.json", text)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
    }
    _write_json(folder / "model_index.json", index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8", newline="\n")


def ldm_yaml(name: str, scaling_factor: float, clip_folder: str | None = None) -> str:
    """The model description that A1111 looks for beside a checkpoint (same name, ``.yaml``).

    ``clip_folder`` holds the text encoder's ``config.json`` and vocabulary. A1111 passes it to ``from_pretrained``,
    which resolves it against the WebUI's own folder, hence the default below ``models/Stable-diffusion``.
    """
    clip_folder = clip_folder or f"models/Stable-diffusion/{name}/tokenizer"
    unet_widths = UNET_CONFIG["block_out_channels"]
    base = unet_widths[0]
    vae_widths = VAE_CONFIG["block_out_channels"]
    return f"""\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: {SCHEDULE["beta_start"]}
    linear_end: {SCHEDULE["beta_end"]}
    num_timesteps_cond: 1
    timesteps: {SCHEDULE["num_train_timesteps"]}
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: {UNET_CONFIG["sample_size"]}
    channels: {UNET_CONFIG["in_channels"]}
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: {scaling_factor}
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {UNET_CONFIG["sample_size"]}
        in_channels: {UNET_CONFIG["in_channels"]}
        out_channels: {UNET_CONFIG["out_channels"]}
        model_channels: {base}
        channel_mult: {[width // base for width in unet_widths]}
        num_res_blocks: {UNET_CONFIG["layers_per_block"]}
        attention_resolutions: {[2**level for level in range(len(unet_widths))]}
        num_heads: {UNET_CONFIG["attention_head_dim"]}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {TEXT_WIDTH}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: {VAE_CONFIG["latent_channels"]}
        ddconfig:
          double_z: true
          z_channels: {VAE_CONFIG["latent_channels"]}
          resolution: {VAE_CONFIG["sample_size"]}
          in_channels: {VAE_CONFIG["in_channels"]}
          out_ch: {VAE_CONFIG["out_channels"]}
          ch: {vae_widths[0]}
          ch_mult: {[width // vae_widths[0] for width in vae_widths]}
          num_res_blocks: {VAE_CONFIG["layers_per_block"]}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {json.dumps(clip_folder)}
"""
