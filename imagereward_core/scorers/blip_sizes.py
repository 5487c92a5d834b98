"""Sizes of a network of ImageReward's form: from the tensors' shapes, and what these do not tell from a config."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import weights
from ..config import ModelConfig
from ..errors import ConfigError, WeightsError
from .loading import section, size

VISION_HEADS = {768: 12, 1024: 16}  # of BLIP's published vision transformers
TEXT_HEADS = {768: 12}
FIRST = "mlp.layers.0.weight"


def sizes_of(state: Mapping[str, Tensor], config: Mapping[str, Any], base: ModelConfig, path: str) -> ModelConfig:
    """The network's config. `config` may name its `vision` and `text` heads, `max_tokens`, `mean`, `std`, in our own
    words or in BERT's; `base` holds what neither tells. Raises WeightsError, ConfigError.
    """
    vision, text = section(config, "vision"), section(config, "text")
    try:
        patch = state["blip.visual_encoder.patch_embed.proj.weight"] if base.vision.stem == "patch" else None
        tokens, width = state["blip.visual_encoder.pos_embed"].shape[1:]
        words = state["blip.text_encoder.embeddings.word_embeddings.weight"]
        positions = state["blip.text_encoder.embeddings.position_embeddings.weight"].shape[0]
        hidden = state["blip.visual_encoder.blocks.0.mlp.fc1.weight"].shape[0]
        middle = state["blip.text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0]
        projection = state["blip.vision_proj.weight"].shape[0]
    except KeyError as error:
        kind = weights.recognise(state.keys()) or "no kind of file known here"
        raise WeightsError(f"{path} is {kind}; a model of ImageReward's form is wanted ({error} is missing)") from error
    side = patch.shape[-1] if patch is not None else base.vision.patch_size
    seen = dataclasses.replace(
        base.vision,
        image_size=round(math.sqrt(tokens - 1)) * side,
        patch_size=side,
        width=width,
        depth=depth(state, "blip.visual_encoder.blocks"),
        heads=heads(vision, width, base.vision.width, base.vision.heads, VISION_HEADS, "vision", path),
        mlp_ratio=hidden / width,
    )
    read = dataclasses.replace(
        base.text,
        vocab_size=words.shape[0],
        width=words.shape[1],
        depth=depth(state, "blip.text_encoder.encoder.layer"),
        heads=heads(text, words.shape[1], base.text.width, base.text.heads, TEXT_HEADS, "text", path),
        intermediate=middle,
        max_positions=positions,
    )
    changes: dict[str, Any] = {"vision": seen, "text": read, "projection": projection}
    if FIRST in state:
        linear = [key for key in state if re.fullmatch(r"mlp\.layers\.\d+\.weight", key)]
        linear.sort(key=lambda key: int(key.split(".")[2]))
        changes["head"] = tuple(state[key].shape[0] for key in linear[:-1])
    if "max_tokens" in config:
        changes["max_tokens"] = size(config["max_tokens"], "max_tokens")
    for name in ("mean", "std"):
        if name in config:
            changes[name] = number(config[name], name)
    return dataclasses.replace(base, **changes)


def heads(
    part: Mapping[str, Any], width: int, base_width: int, base_heads: int, known: dict[int, int], name: str, path: str
) -> int:
    """Attention heads: the config's, the base's where the width is its own, or those of the published network."""
    for key in ("heads", "num_attention_heads"):
        if key in part:
            return size(part[key], f"{name}: {key}")
    if width == base_width:
        return base_heads
    if width in known:
        return known[width]
    raise ConfigError(
        f"{path} holds a {name} encoder of width {width}, and a file does not tell its number of attention heads: give"
        f' a config, such as {{"{name}": {{"heads": 4}}}}'
    )


def depth(state: Mapping[str, Tensor], stack: str) -> int:
    """How many layers stand under that name."""
    found = re.compile(re.escape(stack) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(found.match, state) if match), default=-1)


def number(value: Any, name: str) -> float:
    """A finite number of a config. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a number, found {value!r}")
    return float(value)
