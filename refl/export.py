"""The result of a run: a LoRA file, the original checkpoint with another UNet, or a diffusers folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagereward_core.atomic import replacing_folder
from imagereward_core.hashing import tensors_digest
from imagereward_core.runs import derived_name
from imagereward_core.version import VERSION

from . import checkpoint, kept, lora, setup
from .backend import Backend, open_model
from .checkpoints.write import save_tensors, write_back
from .config import ReFLConfig
from .errors import ConfigError, SaveError
from .families.base import Family
from .families.flow import FlowFamily
from .ldm import UNetLayout
from .quantised import is_quantised
from .runfiles import read_json
from .settings import last_name

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "flow": "flow"}  # modelspec's words, and ours for flows


def result_folder(config: ReFLConfig) -> Path:
    """Where the result goes."""
    return Path(config.export_dir or config.output_dir)


def result_name(config: ReFLConfig, source: Path) -> str:
    """File name of the result, without extension: the one asked for, else the checkpoint's with -refl."""
    return config.output_name or derived_name(source.stem if source.is_file() else source.name)


def result_suffix(config: ReFLConfig) -> str:
    """What follows the name: nothing for a folder."""
    return "" if config.output == "diffusers" else ".safetensors"


def check_output(config: ReFLConfig, source: Path, family: Family | None = None) -> None:
    """Refuse an output that cannot be written from this source: asked before training, so that no run ends without a
    result. family: of the model, once it is known.
    """
    if config.output == "single-file" and isinstance(family, FlowFamily):
        raise ConfigError(f"output single-file is for Stable Diffusion's UNets; of {family.name} use output lora")
    if config.output == "lora" and config.tune != "lora":
        raise ConfigError("output lora needs tune lora; a fully trained UNet is saved as single-file or diffusers")
    if config.output == "single-file" and not source.is_file():
        raise ConfigError("output single-file needs a single-file checkpoint to start from; use output diffusers")
    if config.output == "diffusers" and source.is_file():
        raise ConfigError("output diffusers needs a diffusers folder to start from; use output single-file")
    target = result_folder(config) / (result_name(config, source) + result_suffix(config))
    if target.resolve() == source.resolve():
        raise ConfigError(
            f"the result would replace {source}, the checkpoint it starts from: give output_name another name"
        )


def export(
    config: ReFLConfig, backend: Backend, folder: Path, step: int, extra: Mapping[str, str] | None = None
) -> Path:
    """Write the configured output into `folder`; the UNet holds the weights to export. Returns the file or folder.
    extra: more metadata of a LoRA.
    """
    check_output(config, backend.source, backend.family)
    name = result_name(config, backend.source)
    if config.output == "lora":
        target = folder / f"{name}.safetensors"
        state = lora.file_state(backend.unet, backend.family)
        facts = {**metadata(config, backend, name, step), **(extra or {}), "sshs_model_hash": tensors_digest(state)}
        save_tensors(state, target, facts)
        return target
    merged = _merged(config, backend) if config.tune == "lora" else dict(backend.unet.state_dict())
    if config.output == "single-file":
        target = folder / f"{name}.safetensors"
        write_back(backend.source, target, merged, UNetLayout.of(backend.unet.config), our_metadata(config))
        return target
    return _diffusers_folder(backend, merged, folder / name)


def _merged(config: ReFLConfig, backend: Backend) -> dict[str, Tensor]:
    """The network's weights with the LoRA in them: a quantised network's are read again, as the checkpoint has them."""
    quantised = is_quantised(backend.unet)
    plain = open_model(backend.source, config.parts).unet(torch.float32) if quantised else None
    return lora.merged_state(backend.unet, base=plain)


def _diffusers_folder(backend: Backend, unet: dict[str, Tensor], target: Path) -> Path:
    dtype = backend.unet.dtype if isinstance(backend.unet.dtype, torch.dtype) else torch.float32
    try:
        with replacing_folder(target) as fresh:
            part = backend.family.folder
            shutil.copytree(backend.source, fresh, ignore=shutil.ignore_patterns(part), dirs_exist_ok=True)
            (fresh / part).mkdir()
            shutil.copy(backend.source / part / "config.json", fresh / part / "config.json")
            save_tensors(
                {key: tensor.to("cpu", dtype) for key, tensor in unet.items()},
                fresh / part / "diffusion_pytorch_model.safetensors",
                {"format": "pt"},
            )
    except OSError as error:
        raise SaveError(f"cannot write {target}: {error}") from error
    return target


def our_metadata(config: ReFLConfig) -> dict[str, str]:
    """How the result was made, without the paths of this machine."""
    precision = "fp32" if config.mixed_precision in (None, "no") else config.mixed_precision
    base = precision if config.base_precision == "auto" else config.base_precision
    facts = {"refl.config": json.dumps(config.shareable()), "refl.version": VERSION}
    return {**facts, "refl.base_precision": str(base)}


def metadata(config: ReFLConfig, backend: Backend, name: str, step: int) -> dict[str, str]:
    """kohya's `ss_*` keys (the WebUIs read the version and the alias from them), modelspec 1.0.1, and our own
    settings.
    """
    now = datetime.now(timezone.utc)
    aims = ", ".join(map(last_name, config.aims or [config.picks]))
    data: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": config.lora_rank,
        "ss_network_alpha": config.lora_alpha,
        "ss_output_name": name,
        "ss_sd_model_name": backend.source.name,
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_clip_skip": config.clip_skip,
        "ss_learning_rate": config.learning_rate,
        "ss_steps": step,
        "ss_seed": config.seed,
        "ss_training_finished_at": now.timestamp(),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.date": now.isoformat(timespec="seconds"),
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": PREDICTIONS[backend.schedule.prediction_type],
        "modelspec.license": f"as the base model's: {backend.licence}" if backend.licence else None,
        "ss_zero_terminal_snr": True if backend.schedule.zero_snr else None,
        "modelspec.description": f"fine-tuning ({config.algorithm}) towards {aims}",
        **backend.family.lora_facts(backend.schedule),
        **our_metadata(config),
    }
    return {key: str(value) for key, value in data.items() if value is not None}


def export_state(folder: Path, step: int | None, changes: dict[str, Any]) -> Path:
    """Write the result of a saved state again, with other output settings. Returns the file or folder."""
    settings = read_json(folder / "config.json")
    states = checkpoint.saved(folder / "checkpoints")
    chosen = states[-1:] if step is None else [path for path in states if path.name == f"step-{step:06d}"]
    if settings is None or not chosen:
        raise ConfigError(
            f"{folder} holds no saved state{'' if step is None else f' of update {step}'}; there are"
            f" {[path.name for path in states]}"
        )
    state = checkpoint.load(chosen[0])
    trained = state.info.get("kept", {})  # by the state's own words; the folder's settings may have been edited since
    trained = {name: trained[name] for name in kept.SETTINGS if name in trained}
    asked = ReFLConfig.from_dict({**settings, **trained, **changes})
    config = asked.resolved()
    backend = setup.load(asked)
    if config.tune == "lora":
        lora.inject(
            backend.unet,
            config.lora_rank,
            config.lora_alpha,
            config.lora_targets,
            config.seed,
            backend.family,
        )
    else:
        backend.unet.requires_grad_(True)
    lora.assign(backend.unet, state.ema or state.weights)
    return export(ReFLConfig(**config.decided()), backend, Path(config.export_dir or folder), state.step)
