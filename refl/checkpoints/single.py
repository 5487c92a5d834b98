"""Stable Diffusion checkpoints in one file, as the WebUIs keep them: recognise the kind, refuse what cannot be trained.

Nothing is unpickled beyond tensors, and nothing is asked of the network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core import clip_bpe as tokenizers
from imagereward_core.errors import WeightsError
from imagereward_core.weights import kinds

from .. import clip_text
from ..errors import CheckpointError
from ..families import TRAINABLE, UNETS
from ..families.base import PromptEncoder
from ..families.unet import TextPart, UNetFamily
from ..ldm import UNET_PREFIX, VAE_PREFIX, UNetLayout
from . import modules
from .base import Checkpoint, Claim, Part, prediction_claim, read, refuse_quantised
from .sidecar import Sidecar, sidecar

BY_CONTEXT = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}  # width of the text a UNet's attention takes


class SingleFile(Checkpoint):
    """An opened checkpoint: tensors by key, metadata, and what lies beside it."""

    family: UNetFamily

    def __init__(self, path: Path, state: dict[str, Tensor], metadata: dict[str, str]):
        self.path, self.state, self.metadata = path, state, metadata
        self.family = recognise(state, metadata, path)
        self.beside: Sidecar = sidecar(path)
        self.scheduler = dict(self.beside.scheduler)
        self.latent_scale = float(self.beside.latent_scale or self.family.latent_scale)
        self.predictions = [Claim("v_prediction", "the key v_pred")] if "v_pred" in state else []
        word = "modelspec.prediction_type"
        self.predictions += prediction_claim(metadata.get(word), f"the metadata {word}")
        self.predictions += prediction_claim(self.scheduler.get("prediction_type"), self.beside.source)
        self.zero_snr = [Claim(True, "the key ztsnr")] if "ztsnr" in state else []
        for key, value in metadata.items():
            if key.endswith("zero_terminal_snr") and value.lower() in ("true", "false"):
                self.zero_snr.append(Claim(value.lower() == "true", f"the metadata {key}"))
        if "rescale_betas_zero_snr" in self.scheduler:
            self.zero_snr.append(Claim(bool(self.scheduler["rescale_betas_zero_snr"]), self.beside.source))

    def part(self, prefix: str) -> Part:
        """Tensors under a prefix, which is removed."""
        tensors = {key[len(prefix) :]: tensor for key, tensor in self.state.items() if key.startswith(prefix)}
        return Part(tensors, self.path, prefix)

    @cached_property
    def unet_config(self) -> dict[str, Any]:  # type: ignore[override]
        """The network's sizes, read off its tensors."""
        text = [self._text_state(part) for part in self.family.text]
        try:
            found = self.family.sizes(self.part(UNET_PREFIX), text, self.beside.numbers)
        except CheckpointError as error:
            if str(self.path) in str(error):
                raise
            raise CheckpointError(f"{self.path} cannot be used as {self.family.name}: {error}") from error
        # a .yaml of the published sizes says 64 whatever the model was trained at: it is of use for others alone
        own = self.family.needs_ldm_names(UNetLayout.of(found))
        return {**found, "sample_size": self.beside.latent_side} if own and self.beside.latent_side else found

    @cached_property
    def vae_config(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The autoencoder's sizes; None without one."""
        if not any(key.startswith(VAE_PREFIX) for key in self.state):
            return None
        return modules.vae_from_file(self.part(VAE_PREFIX), str(self.path))[0]

    def unet(self, dtype: torch.dtype) -> nn.Module:
        return modules.unet_from_ldm(self.part(UNET_PREFIX), self.unet_config, dtype, str(self.path))

    def vae(self, dtype: torch.dtype) -> nn.Module:
        if self.vae_config is None:
            raise CheckpointError(self.lacking("VAE"))
        config, state = modules.vae_from_file(self.part(VAE_PREFIX), str(self.path))
        return modules.build("AutoencoderKL", config, state, dtype, str(self.path))

    def _text_state(self, part: TextPart) -> dict[str, Tensor]:
        return clip_text.canonical(self.part(part.prefix))

    def text(self, dtype: torch.dtype, clip_bpe: str = "") -> list[tuple[clip_text.ClipText, tokenizers.ClipTokenizer]]:
        tokenizer = self._tokenizer(clip_bpe)
        parts = []
        for part in self.family.text:
            state = self._text_state(part)
            try:
                config = clip_text.infer_config(
                    state, part.activation, self.beside.numbers.get("text_heads"), part.projection
                )
                encoder = clip_text.build(state, config, dtype)
            except CheckpointError as error:
                raise CheckpointError(f"{self.path}, {part.prefix}: {error}") from error
            parts.append((encoder, tokenizer if part.pad == tokenizer.pad_text else tokenizer.padded_with(part.pad)))
        return parts

    def _tokenizer(self, clip_bpe: str) -> tokenizers.ClipTokenizer:
        """The folder's own beside the file, else the merge list given, else CLIP's as the core ships it."""
        if clip_bpe and not Path(clip_bpe).is_file():
            raise CheckpointError(f"clip_bpe: no such file: {clip_bpe}")
        try:
            if self.beside.tokenizer:
                return tokenizers.from_folder(self.beside.tokenizer)
            return tokenizers.from_merge_list(clip_bpe) if clip_bpe else tokenizers.published()
        except WeightsError as error:
            raise CheckpointError(str(error)) from error

    def prompts(self, dtype: torch.dtype, clip_bpe: str = "", clip_skip: int = 0) -> PromptEncoder:
        return self.family.prompts(self.text(dtype, clip_bpe), clip_skip or self.family.clip_skip)

    @property
    def licence(self) -> str:
        return self.metadata.get("modelspec.license") or super().licence


def open_checkpoint(path: str | os.PathLike[str]) -> SingleFile:
    """Read a checkpoint and check that it can be trained; CheckpointError says why it cannot."""
    path = Path(path)
    return SingleFile(path, *read(path))


def recognise(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> UNetFamily:
    """The family of a checkpoint's tensors. Refuses whatever cannot be trained, by its name."""
    kind = kinds.identify({key: tuple(tensor.shape) for key, tensor in state.items()})
    if kind is None:
        raise CheckpointError(
            f"{path} is no Stable Diffusion checkpoint: it holds {', '.join(list(state)[:3]) or 'no tensors'} …"
        )
    refuse_quantised(state, path)
    if kind.key in ("unet-file", "unet", "diffusers-unet"):
        raise CheckpointError(f"{path} {_incomplete(state, kind)}")
    if kind.key == "sdxl-refiner":
        raise CheckpointError(
            f"{path} is the SDXL refiner: it only repaints finished images. Choose the SDXL base model"
        )
    if kind.key not in UNETS:
        raise CheckpointError(
            f"{path} is {kind.name}: reward training needs a complete text-to-image checkpoint of {TRAINABLE}"
        )
    if not any(key.startswith(UNET_PREFIX) for key in state):
        raise CheckpointError(f"{path} holds a text encoder and no UNet: choose a checkpoint that is complete")
    refuse_few_step(path.stem, metadata.get("modelspec.title", ""), path)
    return UNETS[kind.key]


def _incomplete(state: Mapping[str, Tensor], kind: kinds.Kind) -> str:
    """What a UNet without text encoder is, and what it lacks."""
    widths = {tensor.shape[1] for key, tensor in state.items() if key.endswith("attn2.to_k.weight")}
    looks = next((f" (it looks like {BY_CONTEXT[width]})" for width in widths if width in BY_CONTEXT), "")
    if kind.key == "diffusers-unet":
        return f"is a diffusers UNet on its own{looks}: give the whole diffusers folder"
    lacks = "text encoder" if any(key.startswith(VAE_PREFIX) for key in state) else "text encoder and no VAE"
    return (
        f"holds a UNet{looks} and no {lacks}: choose a checkpoint that is complete. Some WebUIs load those parts from"
        " files of their own; training needs them in one file"
    )


def refuse_few_step(name: str, title: str, path: Path, told: str = "") -> None:
    """CheckpointError for a model that was distilled to few steps, as its name says, or its configuration (`told`)."""
    named = kinds.few_step(name, title) or told
    if named:
        raise CheckpointError(
            f"{path} is a few-step model ({named}): its denoising in 1 to 8 steps does not survive this training."
            " Choose the model it was made from"
        )
