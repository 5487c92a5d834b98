"""The autoencoder that Qwen-Image, Anima and Wan 2.1 share, from one file: diffusers' names, or the original ones, as
the WebUIs keep it (qwen_image_vae.safetensors, wan_2.1_vae.safetensors).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..ldm import VAE_PREFIX

WHOLE = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
SIDE = {
    "conv1": "conv_in",
    "middle.0": "mid_block.resnets.0",
    "middle.1": "mid_block.attentions.0",
    "middle.2": "mid_block.resnets.1",
    "head.0": "norm_out",
    "head.2": "conv_out",
}
RESNET = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
RESNET |= {"shortcut": "conv_shortcut"}
DOWN = "encoder.down_blocks"


def film_vae_from_file(state: Mapping[str, Tensor], what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(configuration, weights under diffusers' names). CheckpointError for a file of another form."""
    plain = {key.removeprefix(VAE_PREFIX): tensor for key, tensor in state.items()}
    if "encoder.conv1.weight" in plain:
        blocks = _resnets(plain, "encoder.downsamples", "residual.2")
        plain = {_name(key, blocks): tensor for key, tensor in plain.items()}
    try:
        return _sizes(plain), plain
    except (KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"{what} is not the VAE of Qwen-Image, Anima or Wan 2.1: it lacks {error}") from error


def _name(key: str, blocks: int) -> str:
    """diffusers' name of a tensor. blocks: resnets of the encoder's levels; the decoder's have one more, and then what
    enlarges, and are counted through there.
    """
    module, _, kind = key.rpartition(".")
    side, _, rest = module.partition(".")
    if module in WHOLE:
        return f"{WHOLE[module]}.{kind}"
    found = re.fullmatch(r"(downsamples|upsamples)\.(\d+)\.(.*)", rest)
    if found:
        level, number = divmod(int(found[2]), blocks + 2)
        place = f"resnets.{number}" if number <= blocks else "upsamplers.0"
        block = f"down_blocks.{found[2]}" if found[1] == "downsamples" else f"up_blocks.{level}.{place}"
        return f"{side}.{block}.{RESNET.get(found[3], found[3])}.{kind}"
    for theirs, ours in SIDE.items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            inner = rest[len(theirs) + 1 :]
            return ".".join(filter(None, (side, ours, RESNET.get(inner, inner), kind)))
    return key


def _resnets(state: Mapping[str, Tensor], place: str, first: str) -> int:
    """Resnets of each level of the encoder. Between two levels stands one module that halves."""
    numbers = [int(key[len(place) + 1 :].split(".")[0]) for key in state if key.startswith(f"{place}.")]
    for number in range(1 + max(numbers, default=-1)):
        if f"{place}.{number}.{first}.weight" not in state:
            return number
    return len(set(numbers))


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    base = state["encoder.conv_in.weight"].shape[0]
    blocks = _resnets(state, DOWN, "conv1")
    halving = [key.removesuffix(".resample.1.weight") for key in state if key.endswith(".resample.1.weight")]
    halving = sorted((key for key in halving if key.startswith(DOWN)), key=lambda key: int(key.split(".")[2]))
    firsts = [f"{DOWN}.{level * (blocks + 1)}.conv1.weight" for level in range(len(halving) + 1)]
    return {
        "base_dim": base,
        "z_dim": state["decoder.conv_in.weight"].shape[1],
        "dim_mult": [state[key].shape[0] // base for key in firsts],
        "num_res_blocks": blocks,
        "temperal_downsample": [f"{key}.time_conv.weight" in state for key in halving],
    }
