"""Flow-matching transformers in one file, as Forge Neo and ComfyUI keep them: the network alone, with text encoders and
VAE elsewhere. What is missing is named, and taken from the setting `parts`: a diffusers folder of the family, of which
the configurations and tokenisers suffice where the weights are given as files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core.weights import kinds

from ..errors import CheckpointError
from ..families import FLOWS
from ..families.base import PromptEncoder
from ..families.flow import FlowFamily
from ..ldm import UNET_PREFIX, VAE_PREFIX
from . import modules
from .base import Checkpoint, Claim, refuse_quantised
from .flow_folder import load_vae_part, prompts_of, read_scheduler
from .folder import read_json
from .single import refuse_few_step

INDEX = "model_index.json"


class FlowFile(Checkpoint):
    """An opened transformer file."""

    family: FlowFamily

    def __init__(
        self,
        path: Path,
        state: dict[str, Tensor],
        metadata: dict[str, str],
        family: FlowFamily,
        parts: Sequence[str] = (),
    ):
        self.path, self.state, self.metadata, self.family = path, state, metadata, family
        modules.require((family.network, family.autoencoder), family.since, f"{path}, a {family.name} model,")
        refuse_quantised(state, path)
        refuse_few_step(path.stem, metadata.get("modelspec.title", ""), path)
        self.folders = [folder for part in parts if Path(part).is_dir() for folder in _models(Path(part), family)]
        self.files = [Path(part) for part in parts if Path(part).is_file()]
        self.predictions, self.zero_snr = list[Claim](), list[Claim]()
        given = self._with("scheduler", "scheduler_config.json")
        self.scheduler = read_scheduler(given) if given else {}
        self.latent_scale = float((self.vae_config or {}).get("scaling_factor") or family.latent_scale)

    @staticmethod
    def kind_of(state: Mapping[str, Tensor]) -> FlowFamily | None:
        """The family of these tensors, None for those of other models."""
        kind = kinds.identify({key: tuple(tensor.shape) for key, tensor in state.items()})
        return FLOWS.get(kind.key) if kind else None

    def _with(self, part: str, file: str = "config.json") -> Path | None:
        """The first of the given folders that has this part."""
        return next((folder for folder in self.folders if (folder / part / file).is_file()), None)

    def _plain(self) -> dict[str, Tensor]:
        """The tensors of the network and what belongs to it, without prefix."""
        own = {key: tensor for key, tensor in self.state.items() if not key.startswith((VAE_PREFIX, "text_encoders."))}
        return {key.removeprefix(UNET_PREFIX): tensor for key, tensor in own.items()}

    @cached_property
    def _network(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(configuration, weights by diffusers' names)."""
        try:
            state = self.family.renamed(self._plain())
            return self.family.sizes(state), state
        except CheckpointError as error:
            raise CheckpointError(f"{self.path} cannot be used as {self.family.name}: {error}") from error
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"{self.path} does not hold a whole {self.family.name} transformer: {error!r}"
            ) from error

    @property
    def unet_config(self) -> dict[str, Any]:  # type: ignore[override]
        """The network's sizes, read off its tensors."""
        return self._network[0]

    @cached_property
    def vae_config(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The autoencoder's sizes; None without one."""
        if any(key.startswith(VAE_PREFIX) for key in self.state) and self.family.autoencoder == "AutoencoderKL":
            return modules.vae_from_file(self.state, str(self.path), self.family.vae)[0]
        given = self._with("vae")
        return read_json(given / "vae" / "config.json") if given else None

    def unet(self, dtype: torch.dtype) -> nn.Module:
        config, state = self._network
        return modules.build(self.family.network, config, state, dtype, str(self.path))

    def vae(self, dtype: torch.dtype) -> nn.Module:
        given = self._with("vae")
        if self.vae_config is None:
            raise CheckpointError(self.lacking("VAE"))
        if given:
            return load_vae_part(given / "vae", self.family, dtype)
        _, state = modules.vae_from_file(self.state, str(self.path), self.family.vae)
        return modules.build("AutoencoderKL", self.vae_config, state, dtype, str(self.path))

    def prompts(self, dtype: torch.dtype, clip_bpe: str = "", clip_skip: int = 0) -> PromptEncoder:
        """From the first folder that has one; `clip_bpe` plays no part."""
        given = next(filter(None, map(self._with, self.family.text)), None)
        if given is None:
            raise CheckpointError(self.lacking("text encoder"))
        adapter = self.family.adapter_of(self._plain())
        return prompts_of(given, self.family, self.unet_config, dtype, clip_skip, self.files, adapter)

    def lacking(self, what: str) -> str:
        words = (name.replace("text_encoder", "tokenizer") for name in self.family.text)
        wanted = ", ".join((*self.family.text, *words, *self.family.more_text))
        return (
            f"{self.path} is a transformer of {self.family.name} and holds no {what}: give a diffusers folder of such a"
            f" model with --parts, from which {wanted} and vae are taken"
        )

    @property
    def licence(self) -> str:
        return self.metadata.get("modelspec.license") or super().licence


def _models(folder: Path, family: FlowFamily) -> list[Path]:
    """The folder itself where it is a model, else the family's models two levels below, as the WebUIs keep their
    configurations (`backend/huggingface/OWNER/NAME`).
    """
    if (folder / INDEX).is_file() or any((folder / part).is_dir() for part in (*family.text, "vae")):
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/*/{INDEX}"))
    return [path for path in found if read_json(path / INDEX).get("_class_name") in family.pipelines]
