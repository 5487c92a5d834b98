"""The weights a run starts from."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from imagereward_core import registry, weights
from imagereward_core.config import METADATA_KEY, ModelConfig
from imagereward_core.errors import ConfigError
from imagereward_core.model import ALLOWED_MISSING, RewardModel
from imagereward_core.scorers.blip import UNUSED

from .config import TrainConfig


def initial_model(config: TrainConfig) -> RewardModel:
    """A RewardModel in fp32 on the CPU, from `preload_path`, BLIP's pre-training or random numbers of `config.seed`.

    Its mean is 0 and its std 1: training sees the head's own numbers; they are standardised when a checkpoint is
    written.
    """
    model = dataclasses.replace(config.model, mean=0.0, std=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.preload_path:
            state, metadata = weights.read_state(config.preload_path)
            if METADATA_KEY in metadata:
                model = dataclasses.replace(ModelConfig.from_json(metadata[METADATA_KEY]), mean=0.0, std=1.0)
                if config.model != ModelConfig() and dataclasses.replace(config.model, mean=0.0, std=1.0) != model:
                    raise ConfigError(
                        f"preload_path {config.preload_path} holds another architecture than `model`; leave `model` out"
                    )
            net = RewardModel(model)
            _load(net, state, config.preload_path)
            return net
        net = RewardModel(model)
        initialise(net, config.head_init)
        if config.init == "blip":
            source = registry.get("BLIP").sources[0]
            path = weights.locate(source, download_root=config.download_root or None)
            state, _ = weights.read_state(path)
            state = {f"blip.{key}": tensor for key, tensor in state.items() if not UNUSED.match(key)}
            state.update((key, tensor) for key, tensor in net.state_dict().items() if key.startswith("mlp."))
            _load(net, state, str(path))
    return net


def _load(net: RewardModel, state: dict[str, torch.Tensor], path: str) -> None:
    state = weights.checked(state, net, ALLOWED_MISSING, path)
    for key in ALLOWED_MISSING:
        state.setdefault(key, net.state_dict()[key])
    net.load_state_dict(state, strict=True)


def initialise(net: RewardModel, head_init: str = "fan_in") -> None:
    """Fill all weights with random numbers from torch's current seed.

    Truncated normal, std 0.02 for embeddings, tokens and positions (BERT, ViT) and 1/sqrt(fan in) for matrices and
    convolutions, which also holds for widths far below theirs. Norms are 1, biases 0. head_init "paper" is the authors'
    N(0, 1/(width+1)) for all head layers: their product then makes the reward the same for every image (to 1e-9), and
    Adam's epsilon hides what gradient there is. It is here for comparison.
    """
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            nn.init.trunc_normal_(
                module.weight, std=1 / math.sqrt(fan_in), a=-2 / math.sqrt(fan_in), b=2 / math.sqrt(fan_in)
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for token in (net.blip.visual_encoder.cls_token, net.blip.visual_encoder.pos_embed):
        nn.init.trunc_normal_(token, std=0.02)
    if head_init == "paper":
        for module in net.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / (net.config.text.width + 1))
