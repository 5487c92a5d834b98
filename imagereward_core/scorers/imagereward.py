"""ImageReward: the published model, or any checkpoint of its form that this project trained."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry, weights
from ..config import METADATA_KEY, ModelConfig, TextConfig
from ..errors import ConfigError
from ..model import ALLOWED_MISSING, RewardModel
from ..model.cpu import use_onednn
from ..model.quantize import quantize_encoders
from ..tokenizer import tokenize
from . import arguments
from .base import Scorer, building, pick_device, pick_dtype, pooled
from .blip_sizes import sizes_of
from .loading import Request, requested
from .reference import ReferenceNames


class ImageRewardScorer(ReferenceNames, Scorer):
    """Scores with a RewardModel. `net` is the torch module."""

    net: RewardModel

    def heads(self) -> list[torch.nn.Module]:
        return [self.net.mlp]

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(input_ids, attention_mask) [B, T] on the scorer's device."""
        ids, mask = tokenize(prompts, self.net.config.max_tokens)
        return ids.to(self.device), mask.to(self.device)

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.net.encode_image(pixels)

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        return self.from_tokens(*self.tokenize(prompts), images)

    def with_embeddings(self, prompts: Sequence[str], images: Tensor) -> tuple[Tensor, Tensor]:
        """The fusion token, that has read both prompt and image, and the image's own tokens."""
        features = self.net.features(*self.tokenize(prompts), images)
        tokens = pooled(images).to(features.dtype)
        return self.net.head(features)[:, 0], torch.cat([features, tokens.expand(len(features), -1)], dim=1)

    def from_tokens(self, input_ids: Tensor, attention_mask: Tensor, images: Tensor) -> Tensor:
        """Scores [B] from token ids and mask [B, T] and encoded images."""
        return self.net.head(self.net.features(input_ids, attention_mask, images))[:, 0]

    def reward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        """This scorer's scores [B, 1] with gradient, from token ids [B, T] and preprocessed pixels [B, 3, S, S]."""
        self.require_gradients()
        arguments.token_batch(input_ids, attention_mask, pixels, self.size, "reward")
        return self.from_tokens(input_ids, attention_mask, self.encode_images(pixels.to(self.dtype)))[:, None]

    score_gard = reward  # the reference's spelling, kept for its callers


def text_config(med_config: str | os.PathLike[str]) -> TextConfig:
    """The text encoder's sizes from a BERT config JSON in the reference's format (BLIP's med_config.json)."""
    try:
        with open(med_config, encoding="utf-8") as file:
            data = json.load(file)
        return TextConfig(
            vocab_size=data["vocab_size"],
            width=data["hidden_size"],
            depth=data["num_hidden_layers"],
            heads=data["num_attention_heads"],
            intermediate=data["intermediate_size"],
            max_positions=data["max_position_embeddings"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"med_config {os.fspath(med_config)} is not a BERT config: {type(error).__name__}: {error}"
        ) from error


@building()
def build(
    state: dict[str, Tensor], config: ModelConfig, dtype: torch.dtype, device: torch.device, path: str
) -> RewardModel:
    """A RewardModel on `device` holding `state`. No weight is initialised or copied that need not be; head in fp32."""
    with torch.device("meta"):
        net = RewardModel(config)
    state = weights.checked(state, net, ALLOWED_MISSING, path)
    for key in ALLOWED_MISSING:
        if key not in state:
            state[key] = torch.arange(config.text.max_positions).expand(1, -1).clone()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = tensor.to(device, torch.float32 if key.startswith("mlp.") else dtype)
        else:
            state[key] = tensor.to(device)
    net.load_state_dict(state, strict=True, assign=True)
    return net.eval().requires_grad_(False)


@building()
def load_imagereward(
    name: str | os.PathLike[str],
    *,
    device: Any = None,
    download_root: str | os.PathLike[str] | None = None,
    med_config: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    models_dir: str | os.PathLike[str] | None = None,
    **given: Any,
) -> ImageRewardScorer:
    """See `imagereward_core.load`; `weights`, `config` and `pool` as of `imagereward_core.load_score`."""
    if given.get("weights") is not None or given.get("config") is not None:
        places = {"device": device, "download_root": download_root, "precision": precision, "models_dir": models_dir}
        return load_given(requested(name, **places, **given))
    device = pick_device(device)
    int8 = precision == "int8"
    if int8 and device.type != "cpu":
        raise ConfigError(f"precision int8 is for the CPU, the device is {device}; use fp16 there")
    dtype = pick_dtype("fp32" if int8 else precision, device)
    half = dtype is not torch.float32
    if weights.is_path(name):
        path = os.fspath(weights.resolve(name, half=half))
        info = dataclasses.replace(
            registry.MODELS[0], name=Path(name).stem, sources=(), description=f"reward model from {os.fspath(name)}"
        )
    else:
        info = registry.get(str(name))
        path = os.fspath(weights.locate(info.sources[0], download_root=download_root, models_dir=models_dir, half=half))
    state, metadata = weights.read_state(path)
    config = ModelConfig.from_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else ModelConfig()
    if med_config is not None:
        config = dataclasses.replace(config, text=text_config(med_config))
    net = build(state, config, dtype, device, path)
    weights.keep_converted(path, state, metadata)
    return ImageRewardScorer(as_asked(net, device, precision), info, device, size=config.vision.image_size)


def as_asked(net: RewardModel, device: torch.device, precision: str) -> RewardModel:
    """The network as it will score: int8 encoders if asked for, faster linear layers on a CPU in fp32."""
    if precision == "int8":
        try:
            quantize_encoders(net, net.blip)
        except RuntimeError as error:
            raise ConfigError(f"precision int8 is not possible here: {error}; use fp32 or bf16") from error
    elif device.type == "cpu" and net.blip.vision_proj.weight.dtype is torch.float32:
        use_onednn(net.blip)
    return net


def load_given(request: Request) -> ImageRewardScorer:
    """A reward model of ImageReward's form from a file that is given, of the sizes that it or the config tells."""
    path = request.path()
    state, metadata = weights.read_state(path)
    base = ModelConfig.from_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else ModelConfig()
    config = sizes_of(state, request.config, base, path)
    net = build(state, config, request.dtype, request.device, path)
    weights.keep_converted(path, state, metadata)
    net = as_asked(net, request.device, request.precision)
    return ImageRewardScorer(net, request.info, request.device, size=config.vision.image_size)
