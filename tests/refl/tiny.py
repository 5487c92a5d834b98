"""Tiny Stable Diffusion models, built here: real classes, real file layout, random weights."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from torch import Tensor

torch.set_num_threads(1)
WORDS = ["a", "red", "blue", "green", "cat", "dog", "tree", "house", "on", "the", "hill"]
PROMPTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cat", "dog", "tree", "house")]
SIZE = 16  # pixels; the tiny VAE halves once, so latents are 8×8


def tokenizer_files() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary in CLIP's form: bytes, bytes with the end-of-word mark, one merge chain per word, the two
    markers.
    """
    from imagereward_core.clip_bpe import END_TEXT, START_TEXT, byte_symbols

    letters = byte_symbols()
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *dict.fromkeys("".join(pair) for pair in merges),
        START_TEXT,
        END_TEXT,
    ]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path) -> Path:
    vocab, merges = tokenizer_files()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n", encoding="utf-8"
    )
    return folder


def write_bpe(path: Path) -> Path:
    """The same merges as a bpe_simple_vocab file."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in tokenizer_files()[1]) + "\n")
    return path


def unet_config(cross: int = 32, sdxl: bool = False) -> dict:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": cross,
        "attention_head_dim": 8,
    }
    if sdxl:
        config |= {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "attention_head_dim": [1, 1],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 32 + 6 * 16,
        }
    return config


VAE_CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
}


def text_encoder(width: int, activation: str = "quick_gelu", projection: int | None = None):
    from refl.clip_text import ClipText, ClipTextConfig

    return ClipText(
        ClipTextConfig(len(tokenizer_files()[0]), width, 2, max(width // 64, 1), 2 * width, 77, activation, projection)
    )


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names → open_clip's, written out by hand so that the reader's table is checked against something."""
    result: dict[str, Tensor] = {}
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for key, tensor in state.items():
        if key.startswith("layers."):
            _, number, rest = key.split(".", 2)
            module, kind = rest.rsplit(".", 1)
            if module in names:
                result[f"transformer.resblocks.{number}.{names[module]}.{kind}"] = tensor
            elif module == "self_attn.q_proj":
                parts = [state[f"layers.{number}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                result[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat(parts)
    result["token_embedding.weight"] = state["token_embedding.weight"]
    result["positional_embedding"] = state["position_embedding.weight"]
    result["ln_final.weight"], result["ln_final.bias"] = (
        state["final_layer_norm.weight"],
        state["final_layer_norm.bias"],
    )
    if "text_projection.weight" in state:
        result["text_projection"] = state["text_projection.weight"].T.contiguous()
    return result


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def name(key: str) -> str:
        if key.startswith("layers."):
            return f"text_model.encoder.{key}"
        return f"text_model.embeddings.{key}" if "embedding" in key else f"text_model.{key}" if "final" in key else key

    return {name(key): tensor for key, tensor in state.items()}


def to_ldm(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """diffusers' state → LDM's, with `names` LDM → diffusers."""
    return {ldm: state[name] for ldm, name in names.items()}


def ldm_unet_keys(unet) -> dict[str, str]:
    """LDM key → diffusers key for a UNet, from the layout's module table."""
    from refl.ldm import UNetLayout, unet_module_to_ldm

    layout = UNetLayout.of(unet.config)
    return {
        f"{unet_module_to_ldm(layout, key.rsplit('.', 1)[0])}.{key.rsplit('.', 1)[1]}": key for key in unet.state_dict()
    }


def ldm_vae_state(vae) -> dict[str, Tensor]:
    """A VAE in LDM names: block numbers count from the picture on both sides, attention as 1×1 convolutions."""
    levels = len(vae.config.block_out_channels)
    result = {}
    for key, tensor in vae.state_dict().items():
        name = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        for number in range(2):
            name = name.replace(f"mid_block.resnets.{number}", f"mid.block_{number + 1}")
        for level in range(levels):
            for side, ldm in (("down", level), ("up", levels - 1 - level)):
                name = name.replace(f".{side}_blocks.{level}.resnets.", f".{side}.@{ldm}.block.").replace(
                    f".{side}_blocks.{level}.{side}samplers.0.", f".{side}.@{ldm}.{side}sample."
                )
        name = name.replace("@", "").replace("mid_block.attentions.0.", "mid.attn_1.")
        for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
        if "attn_1" in name and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        result[name] = tensor
    return result


def tiny_modules(seed: int = 0, sdxl: bool = False):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**unet_config(96 if sdxl else 32, sdxl))
    vae = AutoencoderKL(**VAE_CONFIG)
    texts = [text_encoder(64), text_encoder(32, "gelu", 32)] if sdxl else [text_encoder(32)]
    return unet, vae, texts


def single_file_state(unet, vae, texts, sdxl: bool = False) -> dict[str, Tensor]:
    state = {f"model.diffusion_model.{key}": t for key, t in to_ldm(unet.state_dict(), ldm_unet_keys(unet)).items()}
    state |= {f"first_stage_model.{key}": t for key, t in ldm_vae_state(vae).items()}
    first = "conditioner.embedders.0.transformer." if sdxl else "cond_stage_model.transformer."
    state |= {first + key: t for key, t in to_hugging_face(texts[0].state_dict()).items()}
    if sdxl:
        state |= {f"conditioner.embedders.1.model.{key}": t for key, t in to_open_clip(texts[1].state_dict()).items()}
    return {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}


class ColourReward:
    """An analytic reward with a gradient: how red a picture is, in [-3, 3]."""

    def __init__(self, name: str = "redness", channel: int = 0):
        self.name, self.channel = name, channel

    def differentiable(self, prompts, images: Tensor) -> Tensor:
        others = [channel for channel in range(3) if channel != self.channel]
        return 3 * (images[:, self.channel].mean(dim=(1, 2)) - images[:, others].mean(dim=(1, 2, 3)))

    def to(self, device):
        return self


def colour_mix(*names: str):
    from refl.rewards import Component, RewardMix

    return RewardMix([Component(ColourReward(name, index)) for index, name in enumerate(names or ("redness",))])
