"""Which weights stay as they were, and what is left to train."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from imagereward_core.model import RewardModel


def frozen_names(net: RewardModel, fix_rate: float = 0.7, fix_base: bool = False) -> list[str]:
    """Names of the parameters that are not trained, following the authors' rule to the tensor.

    Always: `vision_proj` and `text_proj`, which the reward does not use. With fix_rate
    above 0 and n = int(depth * fix_rate), in each encoder: everything from the input on (embeddings; class token,
    positions, patches) through layer n-1, *and the first tensor of layer n*, because their loop stops only after it. At
    0.7 on ImageReward that is text layers 0 to 7 and `layer.8.attention.self.query.weight`, vision blocks 0 to 15 and
    `blocks.16.norm1.weight`. fix_rate 1 freezes both encoders whole, final norm included; `fix_base` does the same
    whatever the rate.
    """
    names = [f"blip.{name}" for name, _ in net.blip.named_parameters() if fix_base or "_proj." in name]
    if fix_base:
        return names
    if fix_rate > 0:
        text, vision = net.config.text.depth, net.config.vision.depth
        names += _until("blip.text_encoder.", net, f"layer.{int(text * fix_rate)}.")
        names += _until("blip.visual_encoder.", net, f"blocks.{int(vision * fix_rate)}.")
    return names


def _until(prefix: str, net: RewardModel, stop: str) -> Iterator[str]:
    """Names under `prefix` in their order, up to and including the first that holds `stop`."""
    for name, _ in net.named_parameters():
        if name.startswith(prefix):
            yield name
            if stop in name:
                return


def freeze(net: RewardModel, fix_rate: float = 0.7, fix_base: bool = False) -> list[str]:
    """Set requires_grad on every parameter; returns the names of those that train."""
    frozen = set(frozen_names(net, fix_rate, fix_base))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [name for name, parameter in net.named_parameters() if parameter.requires_grad]


class HeadOnly(nn.Module):
    """The reward head on cached features [N, W] → [N, 1], fp32 also under autocast."""

    def __init__(self, net: RewardModel):
        super().__init__()
        self.mlp = net.mlp

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.mlp(features)
