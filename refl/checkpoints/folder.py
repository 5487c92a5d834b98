"""Diffusers folders, read strictly: our own way from file to network, because diffusers' leaves what is missing or has
another name at its random start and only warns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core import clip_bpe as tokenizers
from imagereward_core.errors import WeightsError
from imagereward_core.weights import kinds

from .. import clip_text
from ..errors import CheckpointError
from ..families import TRAINABLE, of_folder
from ..families.base import PromptEncoder
from ..families.unet import FolderFacts, UNetFamily
from ..log import logger
from . import modules
from .base import Checkpoint, Claim, prediction_claim, read, refuse_quantised
from .single import refuse_few_step

SUFFIXES = (".safetensors", ".bin")
VARIANTS = ("fp32", "non_ema", "ema", "bf16", "fp16")  # where a folder holds variants alone, in this order
UNET, TEXT = "diffusion_pytorch_model", "model"
STEMS = {UNET: (UNET,), TEXT: (TEXT, "pytorch_model")}  # safetensors' name, and that of older pickled files
INDEX = re.compile(r"\.index(\.[^.]+)?\.json$|\.index\.json$")


class Folder(Checkpoint):
    """An opened diffusers folder."""

    family: UNetFamily

    def __init__(self, path: Path):
        self.path = path
        index = read_json(path / "model_index.json") if (path / "model_index.json").is_file() else {}
        pipeline = str(index.get("_class_name") or "")
        foreign = kinds.of_pipeline(pipeline)
        if foreign is not None:
            raise CheckpointError(f"{path} is {foreign.name} ({pipeline}): choose a model of {TRAINABLE}")
        if not (path / "unet" / "config.json").is_file():
            held = f" ({pipeline})" if pipeline else ""
            raise CheckpointError(f"{path} is no diffusers model of {TRAINABLE}{held}: it has no unet/config.json")
        self.unet_config = read_json(path / "unet" / "config.json")
        self._check_unet()
        self.vae_config = read_json(path / "vae" / "config.json") if (path / "vae" / "config.json").is_file() else None
        self._text = [
            (suffix, read_json(path / f"text_encoder{suffix}" / "config.json"))
            for suffix in ("", "_2", "_3")
            if (path / f"text_encoder{suffix}").is_dir()
        ]
        if [suffix for suffix, _ in self._text] == ["_2"]:
            raise CheckpointError(f"{path} is the SDXL refiner: choose the SDXL base model")
        if not self._text:
            raise CheckpointError(f"{path} holds no text encoder: choose a folder that is complete")
        try:
            self.family = of_folder(FolderFacts(self.unet_config, tuple(config for _, config in self._text)))
        except CheckpointError as error:
            raise CheckpointError(f"{path} is of no kind known here: {error}") from error
        refuse_few_step(path.resolve().name, "", path)
        self._read_scheduler()

    def _check_unet(self) -> None:
        config, path = self.unet_config, self.path
        channels = config.get("in_channels", 4)
        if channels != 4:
            name = kinds.CHANNELS.get(channels, ("", "a model of an unknown kind"))[1]
            raise CheckpointError(
                f"{path} is {name} ({channels} input channels; inpainting or editing): choose a text-to-image model"
            )
        if config.get("time_cond_proj_dim"):
            raise CheckpointError(
                f"{path} is a latent consistency model (few steps): choose the model it was made from"
            )
        if config.get("encoder_hid_dim_type"):
            raise CheckpointError(f"{path} is a Kolors or DeepFloyd model: choose a model of {TRAINABLE}")
        nested = any(isinstance(depth, list) for depth in _list(config.get("transformer_layers_per_block")))
        if nested or "mid_block_type" in config and not config["mid_block_type"]:
            raise CheckpointError(
                f"{path} is a distilled model with fewer blocks (SSD-1B, Segmind Vega, KOALA): choose the model it was"
                " made from"
            )

    def _read_scheduler(self) -> None:
        file = self.path / "scheduler" / "scheduler_config.json"
        self.scheduler = read_json(file) if file.is_file() else {}
        name = str(self.scheduler.get("_class_name") or "")
        statistics = (self.vae_config or {}).get("latents_mean")
        if name.startswith("EDM") or (statistics and self.family.latent_channels == 4):
            raise CheckpointError(
                f"{self.path} is a Playground v2.5 model (EDM noise schedule, {name or 'latents_mean'}), which would be"
                f" trained on the wrong noise: choose a model of {TRAINABLE}"
            )
        if name.startswith("FlowMatch"):
            raise CheckpointError(f"{self.path} is a flow-matching model ({name}): choose a model of {TRAINABLE}")
        source = "scheduler/scheduler_config.json"
        word = self.scheduler.get("prediction_type")
        if word in (None, "epsilon", "v_prediction"):  # diffusers' default is epsilon
            default = Claim("epsilon", f"{source}, which names none")
            self.predictions = prediction_claim(word, source) or ([default] if file.is_file() else [])
        else:
            raise CheckpointError(
                f"prediction type {word!r} is not supported: only epsilon and v_prediction are ({self.path}/{source})"
            )
        snr = "rescale_betas_zero_snr"
        self.zero_snr = [Claim(bool(self.scheduler[snr]), source)] if snr in self.scheduler else []
        scale = (self.vae_config or {}).get("scaling_factor")
        self.latent_scale = float(scale or self.family.latent_scale)

    def unet(self, dtype: torch.dtype) -> nn.Module:
        _, state = read_part(self.path / "unet", UNET)
        return modules.build("UNet2DConditionModel", self.unet_config, state, dtype, f"{self.path}/unet")

    def vae(self, dtype: torch.dtype) -> nn.Module:
        if self.vae_config is None:
            raise CheckpointError(
                f"{self.path} holds no VAE (vae/config.json): give one with --vae, or choose a folder that is complete"
            )
        config, state = read_part(self.path / "vae", UNET)
        return modules.vae_from_diffusers(config, state, dtype, f"{self.path}/vae")

    def text(self, dtype: torch.dtype, clip_bpe: str = "") -> list[tuple[clip_text.ClipText, tokenizers.ClipTokenizer]]:
        """The folder's own tokeniser is used whatever `clip_bpe` is."""
        return [self._encoder(suffix, config, dtype) for suffix, config in self._text]

    def _encoder(
        self, suffix: str, config: Mapping[str, Any], dtype: torch.dtype
    ) -> tuple[clip_text.ClipText, tokenizers.ClipTokenizer]:
        folder = self.path / f"text_encoder{suffix}"
        _, found = read_part(folder, TEXT)
        state = clip_text.canonical(found)
        try:
            sizes = clip_text.infer_config(
                state, config.get("hidden_act", "quick_gelu"), config.get("num_attention_heads"), bool(suffix)
            )
            if config.get("num_hidden_layers", sizes.layers) != sizes.layers:
                raise CheckpointError(
                    f"the weights have {sizes.layers} layers, config.json says {config['num_hidden_layers']}"
                )
            if suffix and sizes.projection is None:
                raise CheckpointError("it lacks text_projection.weight")
            encoder = clip_text.build(state, sizes, dtype)
            return encoder, tokenizers.from_folder(self.path / f"tokenizer{suffix}")
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        except WeightsError as error:
            raise CheckpointError(str(error)) from error

    def prompts(self, dtype: torch.dtype, clip_bpe: str = "", clip_skip: int = 0) -> PromptEncoder:
        return self.family.prompts(self.text(dtype, clip_bpe), clip_skip or self.family.folder_clip_skip())

    @property
    def licence(self) -> str:
        return licence_of(self.path) or super().licence


def licence_of(folder: Path) -> str:
    """The licence that a folder's model card names, as the hub's cards do; "" where none does."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    head = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    named = {
        key: value.strip(" '\"")
        for key, value in re.findall(r"^(license(?:_name)?):[ \t]*(\S.*)$", head[1] if head else "", re.MULTILINE)
    }
    return named.get("license_name") or named.get("license", "")


def read_part(folder: Path, stem: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config.json, all tensors) of one part of a diffusers folder, from one file or from several with an index.

    The plain files come first; where only variants lie (`*.fp16.safetensors`, `*.non_ema.safetensors`), one of them is
    taken and the log says which. Raises CheckpointError naming what is there and what is wanted.
    """
    config = read_json(folder / "config.json")
    chosen = _weights(folder, stem)
    if not INDEX.search(chosen.name):
        state, _ = read(chosen)
        refuse_quantised(state, chosen)
        return config, state
    placed = read_json(chosen).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{chosen} is no index of weights: it has no weight_map")
    state = {}
    for name in sorted(set(map(str, placed.values()))):
        if Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{chosen} names {name!r}, which does not lie in this folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{chosen} names {name}, which is not there: copy it into the folder")
        state.update(read(folder / name)[0])
    refuse_quantised(state, chosen)
    return config, state


def _weights(folder: Path, stem: str) -> Path:
    """The weights file, or the index of several, of one part."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else []
    found: dict[tuple[int, int, int], tuple[str, str]] = {}  # order of preference → name, variant
    for name in names:
        lower = name.lower()
        for age, base in enumerate(STEMS[stem]):
            variant = _variant(lower, base)
            if variant is None:
                continue
            known = VARIANTS.index(variant) + 1 if variant in VARIANTS else len(VARIANTS) + 1
            pickled = 1 if ".bin" in lower else 0
            found.setdefault((0 if not variant else known, pickled, age), (name, variant))
    if not found:
        weights = [name for name in names if name.lower().endswith((*SUFFIXES, ".msgpack", ".h5", ".onnx"))]
        raise CheckpointError(
            f"{folder} holds no {stem}.safetensors; found {', '.join(weights) or 'no weights'}: download that file into"
            " this folder"
        )
    name, variant = found[min(found)]
    if variant:
        logger.info("%s: only variants are there, %s is taken", folder, name)
    return folder / name


def _variant(name: str, base: str) -> str | None:
    """ "" for the plain file of that stem, "fp16" and the like for a variant, None for another file.

    An index counts as the file that it stands for: `STEM.safetensors.index.json`, `STEM.safetensors.index.fp16.json`.
    """
    if INDEX.search(name):
        inner = re.search(r"\.index\.([^.]+)\.json$", name)
        variant = _variant(INDEX.sub("", name), base)
        return variant if variant is None or not inner else inner[1]
    for suffix in SUFFIXES:
        if name == base + suffix:
            return ""
        found = re.fullmatch(rf"{re.escape(base)}\.([^.]+){re.escape(suffix)}", name)
        if found and not re.search(r"\d{5}-of-\d{5}", found[1]):
            return found[1]
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or CheckpointError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not an object")
    return found


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
