"""Diffusers folders of flow-matching transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core.weights import kinds

from ..errors import CheckpointError
from ..families import TRAINABLE, of_network
from ..families.base import PromptEncoder
from ..families.flow import FlowFamily
from ..text_models import TextModel, load_text_model
from . import modules
from .base import Checkpoint, Claim
from .folder import UNET, licence_of, read_json, read_part
from .single import refuse_few_step

NETWORK = "transformer"
SCHEDULER = "FlowMatchEulerDiscreteScheduler"


class FlowFolder(Checkpoint):
    """An opened diffusers folder of a transformer."""

    family: FlowFamily

    def __init__(self, path: Path):
        self.path = path
        index = read_json(path / "model_index.json") if (path / "model_index.json").is_file() else {}
        pipeline = str(index.get("_class_name") or "")
        self.unet_config = read_json(path / NETWORK / "config.json")
        found = of_network(str(self.unet_config.get("_class_name")))
        if found is None:
            named = kinds.of_pipeline(pipeline)
            what = f"{named.name} ({pipeline})" if named else f"a {self.unet_config.get('_class_name')}"
            raise CheckpointError(f"{path} is {what}: choose a model of {TRAINABLE}")
        if pipeline and pipeline not in found.pipelines:
            raise CheckpointError(
                f"{path} is a {pipeline}, not a text-to-image model of {found.name} ({', '.join(found.pipelines)})"
            )
        self.family = found
        self.unet_config = found.built_as(self.unet_config)
        modules.require((found.network, found.autoencoder), found.since, f"{path}, a {found.name} model,")
        refuse_few_step(path.resolve().name, "", path, "is_distilled" if index.get("is_distilled") else "")
        self.vae_config = read_json(path / "vae" / "config.json") if (path / "vae" / "config.json").is_file() else None
        self.scheduler = read_scheduler(path)
        self.predictions, self.zero_snr = list[Claim](), list[Claim]()
        self.latent_scale = float((self.vae_config or {}).get("scaling_factor") or found.latent_scale)

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether the folder holds a transformer in place of a UNet."""
        return (path / NETWORK / "config.json").is_file() and not (path / "unet" / "config.json").is_file()

    def unet(self, dtype: torch.dtype) -> nn.Module:
        _, state = read_part(self.path / NETWORK, UNET)
        return modules.build(self.family.network, self.unet_config, state, dtype, f"{self.path}/{NETWORK}")

    def vae(self, dtype: torch.dtype) -> nn.Module:
        if self.vae_config is None:
            raise CheckpointError(
                f"{self.path} holds no VAE (vae/config.json): give one with --vae, or choose a folder that is complete"
            )
        return load_vae_part(self.path / "vae", self.family, dtype)

    def prompts(self, dtype: torch.dtype, clip_bpe: str = "", clip_skip: int = 0) -> PromptEncoder:
        """The folder's own tokenisers are used whatever `clip_bpe` is."""
        return prompts_of(self.path, self.family, self.unet_config, dtype, clip_skip)

    @property
    def licence(self) -> str:
        return licence_of(self.path) or super().licence


def read_scheduler(folder: Path) -> dict[str, Any]:
    """The noise schedule of a folder; {} where it has none. CheckpointError for one that is no flow's."""
    file = folder / "scheduler" / "scheduler_config.json"
    found = read_json(file) if file.is_file() else {}
    name = str(found.get("_class_name") or SCHEDULER)
    if not name.startswith("FlowMatch"):
        raise CheckpointError(f"{file} names {name}, where a flow-matching model has {SCHEDULER}")
    return found


def load_vae_part(folder: Path, family: FlowFamily, dtype: torch.dtype) -> nn.Module:
    """The autoencoder in a part of a diffusers folder."""
    config, state = read_part(folder, UNET)
    if family.autoencoder == "AutoencoderKL":
        return modules.vae_from_diffusers(config, state, dtype, str(folder))
    return modules.build(family.autoencoder, config, state, dtype, str(folder))


def prompts_of(
    folder: Path,
    family: FlowFamily,
    unet: Mapping[str, Any],
    dtype: torch.dtype,
    clip_skip: int,
    files: Sequence[Path] = (),
    adapter: Mapping[str, Tensor] | None = None,
) -> PromptEncoder:
    """The text encoders of a diffusers folder. files: see load_text_model. adapter: the weights of one that lies in the
    network's file, in place of the folder's. CheckpointError names those that are not there.
    """
    parts: dict[str, TextModel] = {
        name: load_text_model(folder, name, dtype, files, family.usual_text)
        for name in family.text
        if (folder / name / "config.json").is_file()
    }
    try:
        if family.adapter and not adapter and (folder / family.adapter / "config.json").is_file():
            adapter = read_part(folder / family.adapter, UNET)[1]
        if adapter:
            parts[family.adapter] = family.adapted(adapter, folder, dtype)
        return family.prompts(parts, unet, clip_skip)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} cannot encode prompts for {family.name}: {error}") from error
