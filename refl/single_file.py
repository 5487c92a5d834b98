"""Stable Diffusion checkpoints in one file: read safely, recognise the kind, refuse what cannot be trained, write back.

Nothing is unpickled beyond tensors, and nothing is asked of the network.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError, SaveError
from .family import Family, family
from .ldm import UNET_PREFIX, VAE_PREFIX, UNetLayout, unet_names

FEW_STEP = re.compile(r"(?<![a-z])(turbo|lightning|lcm|hyper-?sd(xl)?|schnell|dmd2?)(?![a-z])", re.IGNORECASE)
FOREIGN = (
    ("lora_unet_", "a LoRA, not a checkpoint"),
    ("double_blocks.", "a FLUX model"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("transformer_blocks.", "a diffusion transformer"),
    ("down_blocks.", "a diffusers UNet on its own: give the whole diffusers folder"),
    ("first_stage_model.", "an autoencoder on its own"),
    ("blip.", "a reward model"),
)


@dataclass
class SingleFile:
    """An opened checkpoint: tensors by key, metadata, and its family."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]
    family: Family
    overrides: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, which is removed."""
        return {key[len(prefix) :]: tensor for key, tensor in self.state.items() if key.startswith(prefix)}


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors file or of a .ckpt/.pt that holds nothing but tensors."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): download it again") from error
    if path.suffix == ".gguf":
        raise CheckpointError(f"{path} is quantised (GGUF) and cannot be trained: choose the fp16 or fp32 version")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path} holds Python objects beside its weights, or is damaged; it is not opened because such files can"
            " run code. Save it as .safetensors in the WebUI's checkpoint merger, then choose that file."
            f" ({str(error)[:120]})"
        ) from error
    data = data.get("state_dict", data) if isinstance(data, dict) else {}
    return {key: value for key, value in data.items() if isinstance(value, Tensor)}, {}


def open_checkpoint(path: str | os.PathLike[str]) -> SingleFile:
    """Read a checkpoint and check that it can be trained; CheckpointError says why it cannot."""
    path = Path(path)
    state, metadata = read_state(path)
    return SingleFile(path, state, metadata, recognise(state, metadata, path), _sidecar(path))


def recognise(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> Family:
    """The family of a checkpoint's tensors. Refuses inpainting, refiner, few-step and quantised models."""
    first = state.get(f"{UNET_PREFIX}input_blocks.0.0.weight")
    if first is None:
        for mark, what in FOREIGN:
            if any(mark in key for key in state):
                raise CheckpointError(f"{path} is {what}: choose an SD 1.x, SD 2.x or SDXL checkpoint")
        raise CheckpointError(
            f"{path} is no Stable Diffusion checkpoint: it holds {', '.join(list(state)[:3]) or 'no tensors'} …"
        )
    narrow = next((f"{key} is {tensor.dtype}" for key, tensor in state.items() if tensor.dtype in _narrow()), "")
    if narrow:
        raise CheckpointError(
            f"{path} is quantised ({narrow.replace('torch.', '')}) and cannot be trained: choose the fp16 or fp32"
            " version"
        )
    if first.shape[1] != 4:
        kind = {9: "an inpainting model", 8: "an image-editing model", 5: "a depth model"}.get(
            first.shape[1], "of an unknown kind"
        )
        raise CheckpointError(
            f"{path} is {kind} ({first.shape[1]} input channels): reward training needs a text-to-image model with 4"
        )
    named = FEW_STEP.search(path.stem) or FEW_STEP.search(metadata.get("modelspec.title", ""))
    if named:
        raise CheckpointError(
            f"{path} is a few-step model ({named[0]}): its denoising in 1 to 8 steps does not survive this training."
            " Choose the model it was made from"
        )
    if any(key.startswith("conditioner.embedders.1.") for key in state):
        return family("sdxl")
    if any(key.startswith("conditioner.embedders.0.model.") for key in state):
        raise CheckpointError(
            f"{path} is the SDXL refiner: it only repaints finished images. Choose the SDXL base model"
        )
    if any(key.startswith("cond_stage_model.model.") for key in state):
        return family("sd2")
    if any(key.startswith("cond_stage_model.") for key in state):
        return family("sd1")
    raise CheckpointError(f"{path} holds no text encoder: choose a checkpoint that is complete")


def _narrow() -> set[torch.dtype]:
    names = ("float8_e4m3fn", "float8_e5m2", "uint8", "int8")
    return {getattr(torch, name) for name in names if hasattr(torch, name)}


def _sidecar(path: Path) -> dict[str, Any]:
    """Numbers that no tensor's shape tells, for models that are not of the published sizes.

    They come from a diffusers configuration folder of the checkpoint's name beside it, else from the `.yaml` that the
    WebUIs read: unet_heads, unet_head_width, text_heads, latent_scale, scheduler (a dict) and tokenizer (a folder).
    """
    folder = path.with_suffix("")
    try:
        if (folder / "unet" / "config.json").is_file():
            return _from_config_folder(folder)
        if path.with_suffix(".yaml").is_file():
            return _from_yaml(path.with_suffix(".yaml"))
    except (OSError, ValueError, AttributeError, KeyError, ImportError) as error:
        raise CheckpointError(f"the configuration beside {path} cannot be read: {error}") from error
    return {}


def _from_config_folder(folder: Path) -> dict[str, Any]:
    def read(part: str, name: str = "config.json") -> dict[str, Any]:
        file = folder / part / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    found = {
        "unet_heads": read("unet").get("attention_head_dim"),
        "text_heads": read("text_encoder").get("num_attention_heads"),
        "latent_scale": read("vae").get("scaling_factor"),
        "scheduler": read("scheduler", "scheduler_config.json") or None,
        "tokenizer": folder / "tokenizer" if (folder / "tokenizer" / "vocab.json").is_file() else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _from_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(str(error)) from error
    unet = params.get("unet_config", {}).get("params", {})
    names = {"linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "num_train_timesteps"}
    scheduler = {ours: params[theirs] for theirs, ours in names.items() if theirs in params}
    if params.get("parameterization") == "v":
        scheduler["prediction_type"] = "v_prediction"
    found = {
        "unet_heads": unet.get("num_heads"),
        "unet_head_width": unet.get("num_head_channels"),
        "latent_scale": params.get("scale_factor"),
        "scheduler": scheduler or None,
    }
    return {name: value for name, value in found.items() if value not in (None, -1)}


def has_vae(file: SingleFile) -> bool:
    """Whether the checkpoint brings its own autoencoder."""
    return f"{VAE_PREFIX}decoder.conv_in.weight" in file.state


def write_back(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    unet: dict[str, Tensor],
    layout: UNetLayout,
    extra: dict[str, str],
) -> None:
    """Write the checkpoint `source` with only its UNet replaced by `unet` (diffusers names) to the .safetensors
    `target`.

    Each tensor keeps the file's dtype and shape; everything else is bit-identical. Stale `model_ema.*` copies are
    dropped. The file appears whole or not at all. Raises SaveError if it cannot be written.
    """
    state, metadata = read_state(source)
    keys = [key[len(UNET_PREFIX) :] for key in state if key.startswith(UNET_PREFIX)]
    names = unet_names(keys, layout)
    missing = sorted(set(names.values()) ^ set(unet))
    if missing:
        raise CheckpointError(f"the trained UNet does not fit {os.fspath(source)}: {', '.join(missing[:4])}")
    result = {key: tensor for key, tensor in state.items() if not key.startswith("model_ema.")}
    for key, name in names.items():
        old = state[UNET_PREFIX + key]
        result[UNET_PREFIX + key] = unet[name].detach().to("cpu", old.dtype).reshape(old.shape)
    save_tensors(result, target, {**metadata, **extra})


def save_tensors(
    state: dict[str, Tensor], target: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Save a .safetensors file atomically: temporary file, flush to disk, rename. SaveError names the cause."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, str(temporary), metadata or None)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise SaveError(f"cannot write {target}: {error}") from error
