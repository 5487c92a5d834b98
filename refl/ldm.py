"""Names and sizes of Stable Diffusion weights: the original (LDM) layout, which the WebUIs read, and diffusers' layout.

Everything is derived from the tensors themselves, so a smaller or wider network of the same form needs no table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .errors import CheckpointError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.1": "mid_block.attentions.0",
}
VAE_OUTER = {"mid.attn_1": "mid_block.attentions.0", "norm_out": "conv_norm_out"}
VAE_RESNET = {"nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


@dataclass(frozen=True)
class UNetLayout:
    """Blocks of a UNet: resnets per level, and which levels attend in the down path (the up path mirrors it)."""

    attention: tuple[bool, ...]
    layers: int

    @classmethod
    def of(cls, config: Any) -> UNetLayout:
        """From a diffusers UNet configuration (dict or FrozenDict)."""
        return cls(tuple("CrossAttn" in name for name in config["down_block_types"]), int(config["layers_per_block"]))

    def modules(self) -> dict[str, str]:
        """LDM module prefix → diffusers module prefix, for every block but the insides of resnets."""
        table = dict(UNET_OUTER)
        last, index = len(self.attention) - 1, 1
        for level, attends in enumerate(self.attention):
            for layer in range(self.layers):
                table[f"input_blocks.{index}.0"] = f"down_blocks.{level}.resnets.{layer}"
                if attends:
                    table[f"input_blocks.{index}.1"] = f"down_blocks.{level}.attentions.{layer}"
                index += 1
            if level < last:
                table[f"input_blocks.{index}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
                index += 1
        table["middle_block.0"], table["middle_block.2"] = "mid_block.resnets.0", "mid_block.resnets.1"
        index = 0
        for level, attends in enumerate(reversed(self.attention)):
            for layer in range(self.layers + 1):
                table[f"output_blocks.{index}.0"] = f"up_blocks.{level}.resnets.{layer}"
                if attends:
                    table[f"output_blocks.{index}.1"] = f"up_blocks.{level}.attentions.{layer}"
                if layer == self.layers and level < last:
                    table[f"output_blocks.{index}.{2 if attends else 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
                index += 1
        return table


def unet_names(ldm_keys: Iterable[str], layout: UNetLayout) -> dict[str, str]:
    """LDM key → diffusers key (both without prefix). CheckpointError for a key that fits no block."""
    modules = layout.modules()
    return {key: _rename(key, modules, RESNET, "UNet") for key in ldm_keys}


def unet_module_to_ldm(layout: UNetLayout, module: str) -> str:
    """The LDM name of a diffusers UNet module (as in `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`)."""
    inverse = {diffusers: ldm for ldm, diffusers in layout.modules().items()}
    parts = module.split(".")
    for cut in range(len(parts), 0, -1):
        outer, inner = ".".join(parts[:cut]), ".".join(parts[cut:])
        if outer in inverse:
            inner = {new: old for old, new in RESNET.items()}.get(inner, inner)
            return f"{inverse[outer]}.{inner}" if inner else inverse[outer]
    raise CheckpointError(f"no name in the original layout is known for the UNet module {module}")


def unet_name_to_ldm(layout: UNetLayout, name: str) -> str:
    """The LDM name of a diffusers UNet tensor."""
    module, _, kind = name.rpartition(".")
    return f"{unet_module_to_ldm(layout, module)}.{kind}"


def levels(keys: Iterable[str], pattern: str = r"decoder\.up\.(\d+)\.") -> int:
    """Resolution levels of an autoencoder: one more than the highest number in its decoder's names."""
    numbers = [int(match[1]) for key in keys if (match := re.match(pattern, key))]
    if not numbers:
        raise CheckpointError("the VAE's decoder has no blocks: it is not a Stable Diffusion VAE")
    return 1 + max(numbers)


def vae_name_to_ldm(name: str, count: int) -> str:
    """The LDM name of a diffusers autoencoder's tensor. LDM's decoder counts its `count` levels from the picture,
    diffusers' from the latents.
    """
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name
    found = re.match(r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(down|up)samplers\.0)\.(.*)", rest)
    if found:
        level = int(found[2]) if side == "encoder" else count - 1 - int(found[2])
        block = f"block.{found[3]}" if found[3] else f"{found[4]}sample"
        inner = found[5].replace("conv_shortcut", "nin_shortcut")
        return f"{side}.{found[1]}.{level}.{block}.{inner}"
    middle = re.match(r"mid_block\.resnets\.(\d)\.(.*)", rest)
    if middle:
        return f"{side}.mid.block_{int(middle[1]) + 1}.{middle[2].replace('conv_shortcut', 'nin_shortcut')}"
    for ldm, diffusers in VAE_OUTER.items():
        if rest.startswith(f"{diffusers}."):
            module, _, kind = rest.removeprefix(f"{diffusers}.").rpartition(".")
            inner = {new: old for old, new in VAE_ATTENTION.items()}.get(module, module)
            return ".".join(filter(None, (side, ldm, inner, kind)))
    return name


def vae_names(ldm_keys: Iterable[str]) -> dict[str, str]:
    """LDM key → diffusers key of an autoencoder."""
    keys = list(ldm_keys)
    count = levels(keys)
    result = {}
    for key in keys:
        side, _, rest = key.partition(".")
        if side not in ("encoder", "decoder"):
            result[key] = key
            continue
        modules = dict(VAE_OUTER)
        for match in (
            re.match(r"(?:down|up)\.(\d+)\.(?:block\.(\d+)|(downsample|upsample))", rest),
            re.match(r"mid\.block_(\d)", rest),
        ):
            if match is None:
                continue
            if match.re.groups == 1:
                modules[match[0]] = f"mid_block.resnets.{int(match[1]) - 1}"
                continue
            level = int(match[1]) if side == "encoder" else count - 1 - int(match[1])
            block = f"{'down' if side == 'encoder' else 'up'}_blocks.{level}"
            modules[match[0]] = f"{block}.resnets.{match[2]}" if match[2] else f"{block}.{match[3]}rs.0"
        inner = VAE_ATTENTION if rest.startswith("mid.attn_1") else VAE_RESNET
        result[key] = f"{side}.{_rename(rest, modules, inner, 'VAE', loose=True)}"
    return result


def _rename(key: str, modules: dict[str, str], inner: dict[str, str], part: str, loose: bool = False) -> str:
    pieces = key.split(".")
    for cut in range(len(pieces) - 1, 0, -1):
        outer = ".".join(pieces[:cut])
        if outer in modules:
            rest, kind = ".".join(pieces[cut:-1]), pieces[-1]
            return ".".join(filter(None, (modules[outer], inner.get(rest, rest), kind)))
    if loose:
        return key
    raise CheckpointError(f"the {part} holds {key}, which belongs to no block of a Stable Diffusion {part}")


def unet_config(state: Mapping[str, Tensor], heads: int | None, head_width: int | None) -> dict[str, Any]:
    """The diffusers configuration of LDM UNet weights. Head counts cannot be read off shapes: one of the two is
    given. Raises CheckpointError for a UNet of another form, and for one that lacks a tensor its sizes are read off.
    """
    try:
        return _unet_config(state, heads, head_width)
    except KeyError as error:
        raise CheckpointError(f"the UNet lacks {error}") from error


def _unet_config(state: Mapping[str, Tensor], heads: int | None, head_width: int | None) -> dict[str, Any]:

    def level_attention(index: int) -> int:
        return sum(
            1
            for key in state
            if re.fullmatch(rf"input_blocks\.{index}\.1\.transformer_blocks\.\d+\.norm1\.weight", key)
        )

    channels: list[int] = []
    attention: list[int] = []
    counts: list[int] = [0]
    index = 1
    while f"input_blocks.{index}.0.in_layers.2.weight" in state or f"input_blocks.{index}.0.op.weight" in state:
        if f"input_blocks.{index}.0.op.weight" in state:
            counts.append(0)
        else:
            if not counts[-1]:
                channels.append(state[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0])
                attention.append(level_attention(index))
            counts[-1] += 1
        index += 1
    if not channels or len(set(counts)) != 1:
        raise CheckpointError(f"the UNet's blocks are not those of Stable Diffusion (resnets per level: {counts})")
    projections = [tensor for key, tensor in state.items() if key.endswith(".1.proj_in.weight")]
    contexts = [tensor.shape[1] for key, tensor in state.items() if key.endswith("attn2.to_k.weight")]
    if not contexts or not projections:
        raise CheckpointError("the UNet has no cross-attention to a prompt")
    config: dict[str, Any] = {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": counts[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(attention)],
        "transformer_layers_per_block": [max(depth, 1) for depth in attention],
        "cross_attention_dim": contexts[0],
        "attention_head_dim": [width // head_width for width in channels] if head_width else heads,
        "use_linear_projection": projections[0].dim() == 2,
    }
    middle = sum(1 for key in state if re.fullmatch(r"middle_block\.1\.transformer_blocks\.\d+\.norm1\.weight", key))
    if middle != config["transformer_layers_per_block"][-1]:
        config["transformer_layers_per_block"][-1] = middle
    if "label_emb.0.0.weight" in state:
        width = state["label_emb.0.0.weight"].shape[1]
        config.update(addition_embed_type="text_time", projection_class_embeddings_input_dim=width)
    return config


def vae_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The diffusers configuration of LDM autoencoder weights."""
    count = levels(state)
    # the decoder has one resnet more per level than the encoder, which may have none at all
    layers = max(
        (int(match[1]) for key in state if (match := re.match(r"decoder\.up\.0\.block\.(\d+)\.", key))), default=0
    )
    try:
        return {
            "in_channels": state["encoder.conv_in.weight"].shape[1],
            "out_channels": state["decoder.conv_out.weight"].shape[0],
            "latent_channels": state["decoder.conv_in.weight"].shape[1],
            "block_out_channels": [
                state[f"decoder.up.{level}.block.0.conv1.weight"].shape[0] for level in range(count)
            ],
            "down_block_types": ["DownEncoderBlock2D"] * count,
            "up_block_types": ["UpDecoderBlock2D"] * count,
            "layers_per_block": layers,
        }
    except KeyError as error:
        raise CheckpointError(f"the VAE lacks {error}") from error
