"""What lies beside a single file: numbers that no tensor's shape tells, for models of unpublished sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

ZERO_SNR = ("rescale_betas_zero_snr", "zero_terminal_snr", "ztsnr")


@dataclass(frozen=True)
class Sidecar:
    """numbers: unet_heads, unet_head_width, text_heads; latent_side: cells of a picture's side. source: where all this
    stands, for messages.
    """

    source: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    latent_scale: float | None = None
    tokenizer: Path | None = None
    latent_side: int | None = None


def sidecar(path: Path) -> Sidecar:
    """From a diffusers configuration folder of the checkpoint's name beside it, else from the `.yaml` that the WebUIs
    read.
    """
    folder, description = path.with_suffix(""), path.with_suffix(".yaml")
    try:
        if (folder / "unet" / "config.json").is_file():
            return _from_folder(folder)
        if description.is_file():
            return _from_yaml(description)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError, ImportError) as error:
        raise CheckpointError(f"the configuration beside {path} cannot be read: {error}") from error
    return Sidecar()


def _from_folder(folder: Path) -> Sidecar:
    def read(part: str, name: str = "config.json") -> dict[str, Any]:
        file = folder / part / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    numbers = {
        "unet_heads": read("unet").get("attention_head_dim"),
        "text_heads": read("text_encoder").get("num_attention_heads"),
    }
    tokenizer = folder / "tokenizer"
    return Sidecar(
        f"{folder.name}/scheduler/scheduler_config.json beside it",
        {name: value for name, value in numbers.items() if value is not None},
        read("scheduler", "scheduler_config.json"),
        read("vae").get("scaling_factor"),
        tokenizer if (tokenizer / "vocab.json").is_file() or (tokenizer / "tokenizer.json").is_file() else None,
        read("unet").get("sample_size"),
    )


def _from_yaml(path: Path) -> Sidecar:
    import yaml

    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    unet = params.get("unet_config", {}).get("params", {})
    names = {"linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "num_train_timesteps"}
    scheduler = {ours: params[theirs] for theirs, ours in names.items() if theirs in params}
    if "parameterization" in params:
        scheduler["prediction_type"] = params["parameterization"]
    for name in ZERO_SNR:
        if name in params:
            scheduler["rescale_betas_zero_snr"] = bool(params[name])
    numbers = {"unet_heads": unet.get("num_heads"), "unet_head_width": unet.get("num_head_channels")}
    return Sidecar(
        f"{path.name} beside it",
        {name: value for name, value in numbers.items() if value not in (None, -1)},
        scheduler,
        params.get("scale_factor"),
        latent_side=params.get("image_size"),
    )
