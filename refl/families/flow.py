"""What flow-matching transformers share: their noise schedule, latents with a shift, LoRA names, and text encoders that
come from transformers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..errors import CheckpointError, ConfigError
from ..flow import FlowSchedule
from ..text_models import TextModel
from .base import Family, PromptEncoder
from .names import Rule

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")  # of two streams, picture and text
KL_VAE = {  # sixteen channels, the published size that Stable Diffusion 3, FLUX, Lumina 2 and Z-Image share
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True, kw_only=True)
class FlowFamily(Family):
    """A family whose network is a flow-matching transformer of diffusers.

    pipelines: its text-to-image pipelines there. since: the first diffusers that has all it needs. text: the parts of a
    folder that encode prompts. tokens_of_text: rows of the context, for estimates. attention, feed_forward: ends of the
    names of modules that get a LoRA. patch: latent cells of a token's side. lora_prefix: what its LoRA's names begin
    with. rules_for_hosts: names of single files → diffusers' names, where hosts do not know the latter in a LoRA.
    rules_for_lora: the same, one to one, where everybody knows the former, diffusers too: the LoRA has them alone.
    adapter: the part of a folder between text encoder and network, for families that have one. more_text: further parts
    that prompts need. usual_text: configuration of the published text encoder, where a folder's tells no more.
    """

    pipelines: tuple[str, ...]
    since: str
    text: tuple[str, ...]
    attention: tuple[str, ...] = JOINT
    feed_forward: tuple[str, ...] = ()
    patch: int = 2
    tokens_of_text: int = 512
    latent_shift: float = 0.0
    lora_metadata: dict[str, str] = field(default_factory=dict)
    folder: str = "transformer"
    prediction: str = "flow"
    lora_prefix: str = "transformer"
    rules_for_hosts: tuple[Rule, ...] = ()
    rules_for_lora: tuple[Rule, ...] = ()
    adapter: str = ""
    more_text: tuple[str, ...] = ()
    usual_text: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        """The way from prompts to conditioning. parts: by their folders' names. clip_skip: 0 for the family's own."""

    @abstractmethod
    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        """v at latents x [B, C, h, w] and noise levels sigma [B]."""

    def built_as(self, unet: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that the network of a folder is built by, for the folder's own."""
        return dict(unet)

    def adapter_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a single file that are the adapter's, by its own names."""
        return {}

    def adapted(self, state: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> TextModel:
        """The adapter of these tensors with the tokeniser of a diffusers folder. Raises CheckpointError."""
        raise CheckpointError(f"{self.name} has no adapter")

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return self.velocity(net, x, t, cond)

    def schedule(self, settings: Mapping[str, Any]) -> FlowSchedule:
        return FlowSchedule({**self.scheduler, **settings})

    def lora_modules(self, net: nn.Module, targets: str) -> list[str]:
        """Full names, without those that nothing the network returns depends on: they would never get a gradient."""
        ends = self.attention if targets == "attention" else (*self.attention, *self.feed_forward)
        found = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
        idle = self.idle(net)
        return [
            name
            for name in found
            if any(name == end or name.endswith(f".{end}") for end in ends) and not name.startswith(idle)
        ]

    @abstractmethod
    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A single file's network under diffusers' names. Raises KeyError, ValueError or RuntimeError for one that is
        not whole.
        """

    @abstractmethod
    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The diffusers configuration of a network's weights under diffusers' names."""

    def idle(self, net: nn.Module) -> tuple[str, ...]:
        """How names of modules begin whose output nothing depends on: what the last block makes of the text."""
        return ()

    def tokens(self, resolution: int, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        return (resolution // self.latent_factor(vae) // self.side(unet)) ** 2

    def side(self, unet: Mapping[str, Any]) -> int:
        """Latent cells of a token's side."""
        return self.patch

    def check_resolution(self, resolution: int, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
        cell = self.latent_factor(vae) * self.side(unet)
        if resolution % cell:
            raise ConfigError(f"resolution must be a multiple of {cell} for {self.name}, found {resolution}")

    def decode(self, vae: nn.Module, latents: Tensor, scale: float) -> Tensor:
        return super().decode(vae, latents + self._shift(vae) * scale, scale)

    def encode(self, vae: nn.Module, pictures: Tensor, scale: float) -> Tensor:
        return super().encode(vae, pictures, scale) - self._shift(vae) * scale

    def _shift(self, vae: nn.Module) -> float:
        return float(getattr(vae.config, "shift_factor", None) or 0.0)


class OneLanguageModel(FlowFamily):
    """A family that is conditioned by one language model's rows, as many as the prompt has."""

    @staticmethod
    def language_model(parts: Mapping[str, TextModel]) -> TextModel:
        """Raises CheckpointError where it is missing."""
        if "text_encoder" not in parts:
            raise CheckpointError("it lacks text_encoder")
        return parts["text_encoder"]

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        context = torch.zeros(1, self.tokens_of_text, int(unet["cap_feat_dim"]), dtype=dtype)
        return Conditioning(context, mask=torch.ones(1, self.tokens_of_text, dtype=torch.bool))


class Encoding:
    """A way from prompts to conditioning through some text models, given as a function."""

    def __init__(self, parts: Sequence[TextModel], encode: Callable[[Sequence[str]], Conditioning]):
        self.parts, self._encode = list(parts), encode

    def to(self, device: torch.device) -> Encoding:
        """Move the text models."""
        for part in self.parts:
            part.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        """The resolution plays no part in these models."""
        return self._encode(prompts)


def packed(x: Tensor, patch: int = 2) -> Tensor:
    """Latents [B, C, h, w] → tokens [B, h w / patch², C patch²], row by row."""
    b, c, h, w = x.shape
    cells = x.reshape(b, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpacked(tokens: Tensor, h: int, w: int, patch: int = 2) -> Tensor:
    """The inverse, for latents of h × w cells."""
    b, _, width = tokens.shape
    c = width // patch**2
    cells = tokens.reshape(b, h // patch, w // patch, c, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(b, c, h, w)


def last_block(net: nn.Module, blocks: str, *parts: str) -> tuple[str, ...]:
    """Names of parts of the last of a list of blocks."""
    number = len(getattr(net, blocks)) - 1
    return tuple(f"{blocks}.{number}.{part}" for part in parts)
