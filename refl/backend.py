"""The image model behind one interface: prompts → conditioning → UNet output → image. Loads diffusers folders and
single files, offline, for the families of refl/families.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import external
from .checkpoints.base import Checkpoint, read
from .checkpoints.flow_file import FlowFile
from .checkpoints.flow_folder import FlowFolder
from .checkpoints.folder import Folder
from .checkpoints.prediction import probe, settle
from .checkpoints.single import SingleFile
from .conditioning import Conditioning
from .errors import CheckpointError
from .families.base import Family, PromptEncoder
from .quantised import move
from .resolved import Usual
from .schedule import NoiseSchedule, Schedule

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)(?<!\.ckpt)")


@dataclass
class Backend:
    """A loaded image model. `text` is dropped (None) once all prompts are encoded."""

    unet: nn.Module
    vae: nn.Module
    schedule: Schedule
    family: Family
    latent_scale: float
    source: Path
    text: PromptEncoder | None = None
    tiny_vae: nn.Module | None = None
    prediction_source: str = ""  # what told schedule.prediction_type
    usual: Usual | None = None  # at this model's own size; None: as its family
    autocast: torch.dtype | None = None  # set when the UNet's weights are fp32 and its arithmetic is not
    licence: str = ""  # of the weights that are trained

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell and side."""
        return self.family.latent_factor(self.vae.config)  # type: ignore[arg-type]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.family.channels(self.unet.config)  # type: ignore[arg-type]

    def draws_at(self, resolution: int) -> None:
        """Settle what depends on the pictures' size. ConfigError for a size that the network cannot take."""
        unet, vae = self.unet.config, self.vae.config
        self.family.check_resolution(resolution, unet, vae)  # type: ignore[arg-type]
        self.schedule = self.schedule.for_tokens(self.family.tokens(resolution, unet, vae))  # type: ignore[arg-type]

    def predict(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's output [B, C, h, w] at noisy latents x and timesteps t [B], in fp32."""
        time = self.schedule.network_time(t).to(x.device)
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            output = self.family.predict(self.unet, x.to(cond.context.dtype), time, cond)
        return output.float()

    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        """Latents [B, 4, h, w] → images [B, 3, H, W], not clamped, 0 and 1 being black and white."""
        if tiny and self.tiny_vae is not None:  # a tiny autoencoder takes latents in the UNet's own scale
            dtype = next(self.tiny_vae.parameters()).dtype
            images = self.tiny_vae.decode(latents.to(dtype), return_dict=False)[0]  # type: ignore[operator]
            return images.float() / 2 + 0.5
        return self.family.decode(self.vae, latents, self.latent_scale).float() / 2 + 0.5

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] → latents, the distribution's mean."""
        return self.family.encode(self.vae, images * 2 - 1, self.latent_scale)

    def to(self, device: torch.device) -> Backend:
        """Move everything that is still loaded."""
        move(self.unet, device)
        for part in (self.vae, self.tiny_vae, self.text):
            if part is not None:
                part.to(device)
        return self


def open_model(path: str | os.PathLike[str], parts: Sequence[str] = ()) -> Checkpoint:
    """A checkpoint, recognised and checked, its weights not yet read: what loading and the memory estimate begin with.
    parts: folders and files of text encoders and VAE, for one that holds none.

    Raises CheckpointError for whatever cannot be trained.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no such checkpoint: {path}{_if_hub_name(path)}")
    if path.is_dir():
        return FlowFolder(path) if FlowFolder.is_one(path) else Folder(path)
    return open_file(path, parts)


def open_file(path: Path, parts: Sequence[str] = ()) -> Checkpoint:
    """A checkpoint of one file."""
    state, metadata = read(path)
    flow = FlowFile.kind_of(state)
    return FlowFile(path, state, metadata, flow, parts) if flow else SingleFile(path, state, metadata)


def _if_hub_name(path: Path) -> str:
    """What to do where this reads like owner/name on the Hugging Face hub; empty elsewhere."""
    if not HUB_NAME.fullmatch(path.as_posix()):
        return ""
    return (
        f". If it is a model on the hub: nothing is fetched from there. `huggingface-cli download {path.as_posix()}"
        f" --local-dir {path.name}` does, then give the folder {path.name}"
    )


def vae_config(model: Checkpoint, vae: str = "") -> dict[str, Any]:
    """The autoencoder's sizes: those of the file or folder `vae`, else of the checkpoint's own. CheckpointError
    without one, and for one whose latents are not the UNet's.
    """
    config = external.vae_sizes(vae, model.family) if vae else model.vae_config
    if config is None:
        raise CheckpointError(model.lacking("VAE"))
    wanted, found = model.family.channels(model.unet_config), model.family.vae_channels(config)
    if wanted != found:
        raise CheckpointError(
            f"the VAE {vae or model.path} has latents of {found} channels and the UNet takes {wanted}: choose the VAE"
            f" of a {model.family.name} model"
        )
    return config


def load_backend(
    path: str | os.PathLike[str],
    *,
    vae: str = "",
    taesd: str = "",
    clip_bpe: str = "",
    clip_skip: int | None = None,
    parts: Sequence[str] = (),
    prediction_type: str = "auto",
    dtype: torch.dtype = torch.float32,
    unet_dtype: torch.dtype | None = None,
) -> Backend:
    """Load a checkpoint for training: weights frozen, on the CPU, in `dtype` (the UNet in `unet_dtype`).

    The VAE is never fp16: SDXL's overflows there. clip_bpe: a merge list in place of CLIP's own vocabulary. Raises
    CheckpointError for whatever cannot be trained.
    """
    model = open_model(path, parts)
    family = model.family
    vae_config(model, vae)
    vae_dtype = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32
    unet = model.unet(unet_dtype or dtype)
    prompts = model.prompts(dtype, clip_bpe, clip_skip or 0)
    backend = Backend(
        unet,
        external.load_vae(vae, vae_dtype, family) if vae else model.vae(vae_dtype),
        family.schedule({}),
        family,
        model.latent_scale,
        model.path,
        prompts,
        tiny_vae=external.load_taesd(taesd, vae_dtype) if taesd else None,
        usual=model.usual,
        licence=model.licence,
    )
    for part in (backend.unet, backend.vae, backend.tiny_vae):
        if part is not None:
            part.eval().requires_grad_(False)
    backend.schedule, told, _ = settle(model, prediction_type, _blank_network(backend), _probe_shape(backend))
    backend.prediction_source = told.source
    return backend


def probe_prediction(backend: Backend) -> str:
    """What the UNet predicts by its behaviour: "epsilon", else "v_prediction" (see `checkpoints.prediction`)."""
    if not isinstance(backend.schedule, NoiseSchedule):
        return backend.schedule.prediction_type
    found = probe(_blank_network(backend), backend.schedule, _probe_shape(backend))
    return found or "v_prediction"


def _probe_shape(backend: Backend) -> tuple[int, int, int, int]:
    return (1, backend.latent_channels, 16, 16)


def _blank_network(backend: Backend) -> Any:
    """The UNet with nothing for a prompt, as a function of noisy latents and timesteps."""
    parameter = next(backend.unet.parameters())
    blank = backend.family.blank(backend.unet.config, parameter.dtype).to(parameter.device)  # type: ignore[arg-type]

    def network(x: Tensor, t: Tensor) -> Tensor:
        return backend.predict(x.to(parameter.device), t, blank)

    return network
