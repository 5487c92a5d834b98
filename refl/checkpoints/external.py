"""Autoencoders from files of their own: the VAE that is selected in the WebUI, and tiny ones (TAESD)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..families.base import Family
from ..families.flow import FlowFamily
from . import modules
from .base import read, refuse_quantised
from .film_vae import film_vae_from_file
from .folder import UNET, read_part

FILM = "AutoencoderKLQwenImage"


def vae_sizes(path: str, family: Family) -> dict[str, Any]:
    """The configuration of a VAE file, or of a diffusers folder of one."""
    return _vae_weights(path, family)[0]


def load_vae(path: str, dtype: torch.dtype, family: Family) -> nn.Module:
    """The autoencoder of a VAE file, or of a diffusers folder of one."""
    config, state = _vae_weights(path, family)
    if family.autoencoder != "AutoencoderKL":
        return modules.build(family.autoencoder, config, state, dtype, path)
    if Path(path).is_dir():
        return modules.vae_from_diffusers(config, state, dtype, path)
    return modules.build("AutoencoderKL", config, state, dtype, path)


def _vae_weights(path: str, family: Family) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if Path(path).is_dir():
        return read_part(Path(path), UNET)
    state, _ = read(path)
    refuse_quantised(state, path)
    if family.autoencoder == FILM:
        return film_vae_from_file(state, path)
    return modules.vae_from_file(state, path, family.vae if isinstance(family, FlowFamily) else None)


def load_taesd(path: str, dtype: torch.dtype) -> nn.Module:
    """A tiny autoencoder from a diffusers folder, or from the decoder's file that WebUIs keep (taesd_decoder.pth,
    taesdxl_decoder.pth).
    """
    if Path(path).is_dir():
        try:
            config, state = read_part(Path(path), UNET)
            return modules.build("AutoencoderTiny", config, state, dtype, path)
        except CheckpointError as error:
            raise CheckpointError(f"taesd: {_neither(path)}: {error}") from error
    if not Path(path).is_file():
        raise CheckpointError(f"taesd: {_neither(path)}: there is no such file")
    tiny = modules.diffusers().AutoencoderTiny()
    tiny.encoder = nn.Identity()  # pictures are only decoded
    try:
        tiny.decoder.load_state_dict(taesd_decoder_state(read(path)[0]))
    except RuntimeError as error:
        raise CheckpointError(
            f"taesd: {path} is no decoder of a tiny autoencoder for SD 1.x, 2.x or SDXL: {error}"
        ) from error
    return tiny.to(dtype)


def _neither(path: str) -> str:
    return f"{path} is neither a decoder's file nor a diffusers folder of a tiny autoencoder"


def taesd_decoder_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A decoder's weights under diffusers' names. The original numbers its layers from a clamp without weights on,
    diffusers after it.
    """
    layers = [key for key in state if key.split(".")[0].isdigit()]
    if layers:
        return {
            f"layers.{int(number) - 1}.{rest}": state[key] for key in layers for number, _, rest in [key.partition(".")]
        }
    return {
        key.removeprefix("decoder."): value for key, value in state.items() if key.startswith(("decoder.", "layers."))
    }
