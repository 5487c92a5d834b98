"""What a checkpoint is to the loader and to the memory estimate, whatever form it has on disk."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core.errors import WeightsError
from imagereward_core.weights import checkpoint as files

from ..errors import CheckpointError
from ..families.base import Family, PromptEncoder
from ..log import logger
from ..resolved import Usual


@dataclass(frozen=True)
class Claim:
    """Something a checkpoint says about itself, and where."""

    value: Any
    source: str


class Part(dict[str, Tensor]):
    """The tensors under a prefix of a file, without it. A name that is not there is a CheckpointError."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, prefix: str):
        super().__init__(tensors)
        self.path, self.prefix = path, prefix

    def __missing__(self, key: str) -> Tensor:
        raise CheckpointError(f"{self.path} lacks {self.prefix}{key}: the file is incomplete")


class Checkpoint(ABC):
    """A checkpoint that was recognised; its tensors are memory-mapped and read when a part is built.

    predictions, zero_snr: what its files say, the most telling first.
    """

    path: Path
    family: Family
    scheduler: dict[str, Any]
    predictions: list[Claim]
    zero_snr: list[Claim]
    latent_scale: float
    unet_config: dict[str, Any]
    vae_config: dict[str, Any] | None  # None: it brings no autoencoder

    @property
    def usual(self) -> Usual:
        """What the family's users sample with, at the size that this very model was made for, where its files tell."""
        side, vae = self.unet_config.get("sample_size"), self.vae_config or {}
        if not isinstance(side, int) or isinstance(side, bool) or side < 1 or not vae.get("block_out_channels"):
            return self.family.usual
        return dataclasses.replace(self.family.usual, resolution=side * self.family.latent_factor(vae))

    @abstractmethod
    def unet(self, dtype: torch.dtype) -> nn.Module:
        """The network, complete or CheckpointError."""

    @abstractmethod
    def vae(self, dtype: torch.dtype) -> nn.Module:
        """The autoencoder, complete or CheckpointError."""

    @abstractmethod
    def prompts(self, dtype: torch.dtype, clip_bpe: str = "", clip_skip: int = 0) -> PromptEncoder:
        """The text encoders. clip_bpe: a merge list in place of CLIP's own. clip_skip: the layer to take, counted from
        the end; 0 for the family's own.
        """

    def lacking(self, what: str) -> str:
        """In words: that this checkpoint brings no VAE, or another part, and what to do."""
        return f"{self.path} holds no {what}: give one with --vae (the VAE file selected in the WebUI)"

    @property
    def licence(self) -> str:
        """Of these weights: what the checkpoint says, else that of the published ones, which it was made from."""
        return self.family.licence


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a weights file, through the core's reader. Raises CheckpointError."""
    if not Path(path).exists():
        raise CheckpointError(f"no such checkpoint: {path}")
    try:
        return files.read_state(path)
    except WeightsError as error:
        advice = (
            ". Save it as .safetensors in the WebUI's checkpoint merger, then choose that file"
            if "not opened" in str(error)
            else ""
        )
        raise CheckpointError(f"{error}{advice}") from error


def refuse_quantised(state: Mapping[str, Tensor], what: object) -> None:
    """CheckpointError for weights in 8 bit or less."""
    narrow = {
        getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2", "uint8", "int8") if hasattr(torch, name)
    }
    for key, tensor in state.items():
        if tensor.dtype in narrow and tensor.dim() > 1:
            raise CheckpointError(
                f"{what} is quantised ({key} is {str(tensor.dtype).removeprefix('torch.')}) and cannot be trained:"
                " choose the fp16 or fp32 version"
            )


def choose(claims: list[Claim], what: str, path: Path) -> Claim | None:
    """The most telling claim; a contradiction is a warning."""
    for other in claims[1:]:
        if other.value != claims[0].value:
            logger.warning(
                "%s: %s says that %s is %s, %s that it is %s; the first is taken",
                path.name,
                claims[0].source,
                what,
                claims[0].value,
                other.source,
                other.value,
            )
    return claims[0] if claims else None


def prediction_claim(text: Any, source: str) -> list[Claim]:
    """A claim of what the network predicts from the word a file has for it; none for a word that is not known."""
    words = {
        "v": "v_prediction",
        "vpred": "v_prediction",
        "vprediction": "v_prediction",
        "velocity": "v_prediction",
        "eps": "epsilon",
        "epsilon": "epsilon",
    }
    if text is None or text == "":
        return []
    plain = str(text).strip().lower().replace("_", "").replace("-", "")
    if plain not in words:
        logger.warning("%s says that the model predicts %r, which is not known here", source, text)
        return []
    return [Claim(words[plain], source)]
