"""What distinguishes one family of image models from another, behind one interface.

A family is one file beside this one, and one line in `families.FAMILIES`. Sizes come from the tensors or the
configuration of the very model; the published ones stand here for estimates only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..errors import ConfigError
from ..resolved import Usual
from ..schedule import Schedule


class PromptEncoder(Protocol):
    """Prompts → conditioning, on the encoder's device."""

    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """The facts of one family and what follows from them.

    key: also the kind's key in imagereward_core.weights.kinds. network, autoencoder: diffusers' classes; folder: the
    network's part of a diffusers folder. unet, vae: the published sizes as diffusers configurations. prediction: what
    the network is taken to predict when neither its files nor the probe tell. licence: of the published weights.
    """

    key: str
    name: str
    latent_scale: float
    latent_channels: int
    usual: Usual
    lora_metadata: dict[str, str]
    licence: str
    scheduler: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    network: str
    folder: str
    autoencoder: str = "AutoencoderKL"
    prediction: str = "epsilon"

    @abstractmethod
    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        """One row of zeros in the form this network takes, for probing and for estimates."""

    @abstractmethod
    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's output at noisy latents x [B, C, h, w] and times t [B] as of `Schedule.network_time`."""

    @abstractmethod
    def schedule(self, settings: Mapping[str, Any]) -> Schedule:
        """The noise schedule: the family's, changed by what the checkpoint says."""

    @abstractmethod
    def lora_modules(self, net: nn.Module, targets: str) -> list[str]:
        """Names in the network, or their ends, that get a LoRA. targets: a choice of the setting lora_targets."""

    def channels(self, unet: Mapping[str, Any]) -> int:
        """Channels of the latents that a network of this configuration takes."""
        return int(unet.get("in_channels", self.latent_channels))

    def vae_channels(self, vae: Mapping[str, Any]) -> int:
        """Channels of the latents that an autoencoder of this configuration makes."""
        return int(vae.get("latent_channels", self.latent_channels))

    def latent_factor(self, vae: Mapping[str, Any]) -> int:
        """Pixels per latent cell and side."""
        return 2 ** (len(vae["block_out_channels"]) - 1)

    def check_resolution(self, resolution: int, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
        """ConfigError for pictures that the network cannot take."""
        factor = self.latent_factor(vae)
        if resolution % factor:
            raise ConfigError(f"resolution must be a multiple of {factor} for {self.name}, found {resolution}")

    def tokens(self, resolution: int, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        """How many tokens a picture is to the network, where its noise schedule depends on that."""
        return 0

    def decode(self, vae: nn.Module, latents: Tensor, scale: float) -> Tensor:
        """Latents → pictures [B, 3, H, W] in [-1, 1], in the autoencoder's precision."""
        dtype = next(vae.parameters()).dtype
        return vae.decode((latents / scale).to(dtype), return_dict=False)[0]  # type: ignore[operator]

    def encode(self, vae: nn.Module, pictures: Tensor, scale: float) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] → latents, the distribution's mean, in fp32."""
        dtype = next(vae.parameters()).dtype
        return vae.encode(pictures.to(dtype)).latent_dist.mean.float() * scale  # type: ignore[operator]

    def lora_facts(self, schedule: Schedule) -> dict[str, str]:
        """What a LoRA's metadata says about the model it belongs to."""
        return dict(self.lora_metadata)
