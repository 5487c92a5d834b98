"""What training asks of the host: which checkpoints there are, where results belong, and to lend its GPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import host
from ..core import ImageRewardError, kind_of_file, logger
from ..lifecycle import holder


def data_folder() -> Path:
    """Where the host keeps its data."""
    return Path(host.module("paths").data_path)


def runs_folder() -> Path:
    """Where runs are kept: beside the host's other data."""
    return data_folder() / "imagereward-runs"


def checkpoints() -> list[dict[str, str]]:
    """The host's checkpoints: title and file."""
    infos = host.module("sd_models").checkpoints_list.values()
    return [{"title": str(info.title), "path": str(info.filename)} for info in infos]


def refresh_checkpoints() -> None:
    """Let the host look for checkpoints again."""
    host.module("shared").refresh_checkpoints()


def selected_checkpoint() -> str:
    """The title of the checkpoint chosen in the UI; "" where the host itself cannot tell which one is meant.

    The setting holds a title, a name or a short title, by host and by how it was chosen, so the host's own look-up is
    asked. Asking the model itself could load it.
    """
    models = host.module("sd_models")
    chosen = str(getattr(host.module("shared").opts, "sd_model_checkpoint", "") or "")
    found = getattr(models, "get_closet_checkpoint_match", _known)(chosen) if chosen else None
    title = str(getattr(found, "title", ""))
    return title if title in {item["title"] for item in checkpoints()} else ""


def checkpoint_path(title: str) -> str:
    """The file of a checkpoint by its title, or by another name that the host knows it under; "" if it has none."""
    found = next((item["path"] for item in checkpoints() if item["title"] == title), "")
    return found or str(getattr(_known(title), "filename", ""))


def _known(name: str) -> Any:
    """The host's checkpoint of exactly this title, name, short title or hash, or None."""
    return getattr(host.module("sd_models"), "checkpoint_aliases", {}).get(name)


def selected_vae() -> str:
    """The VAE file chosen in the UI, which replaces the checkpoint's own; empty for Automatic and None.

    Forge and Forge Neo keep it in one list with text encoders, as paths; `sd_vae` means nothing there.
    """
    opts = host.module("shared").opts
    parts = getattr(opts, "forge_additional_modules", None)
    if isinstance(parts, (list, tuple)):
        return next((str(path) for path in parts if _is_vae(Path(str(path)))), "")
    chosen = str(getattr(opts, "sd_vae", "") or "")
    return str(getattr(host.module("sd_vae"), "vae_dict", {}).get(chosen, ""))


def selected_parts() -> list[str]:
    """Where training finds the text encoders of a checkpoint that holds none: the additional modules of Forge and Neo
    without the VAE, and the host's own folder of configurations and tokenisers.
    """
    parts = getattr(host.module("shared").opts, "forge_additional_modules", None)
    if not isinstance(parts, (list, tuple)):
        return []
    files = [str(path) for path in parts if not _is_vae(Path(str(path)))]
    root = getattr(host.module("paths"), "script_path", None)
    configurations = Path(root) / "backend" / "huggingface" if root else None
    return [*files, *([str(configurations)] if configurations and configurations.is_dir() else [])]


def _is_vae(path: Path) -> bool:
    """By its tensors' names, else (a pickled file shows none) by the folder in which the WebUI looks for VAEs."""
    with suppress(ImageRewardError):
        kind = kind_of_file(path)
        if kind is not None:
            return bool(kind.key == "vae")
    return path.parent.name.casefold() == "vae"


def lora_folder() -> Path:
    """Where LoRA files belong."""
    options = host.module("shared").cmd_opts
    return Path(getattr(options, "lora_dir", None) or Path(host.module("paths").models_path) / "Lora")


def checkpoint_folder() -> Path:
    """Where new checkpoints belong."""
    options = host.module("shared").cmd_opts
    given = getattr(options, "ckpt_dir", None) or next(iter(getattr(options, "ckpt_dirs", None) or ()), None)
    return Path(given or host.module("sd_models").model_path)


def outputs_folder() -> Path:
    """The folder of generated images."""
    opts = host.module("shared").opts
    chosen = (
        getattr(opts, "outdir_samples", "") or getattr(opts, "outdir_txt2img_samples", "") or "outputs/txt2img-images"
    )
    return data_folder() / chosen


def guidance() -> float | None:
    """The CFG scale that txt2img starts with, if the host tells it: the user's own default, kept with the page."""
    saved = getattr(getattr(host.module("shared"), "demo", None), "ui_loadsave", None)
    stored = getattr(saved, "ui_settings", None)
    value = stored.get("txt2img/CFG Scale/value") if isinstance(stored, dict) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def lend_gpu(run: dict[str, Any]) -> None:
    """Before a run on a GPU: wait for the running job, then drop the scorer and the host's model from it."""
    if str(run["device"]).startswith("cpu") or not host.device().startswith("cuda"):
        return
    with host.generation_lock():
        holder.unload()
        host.module("sd_models").unload_model_weights()
        host.collect_garbage()
    logger.info("the GPU is free for training run %s", run["id"])


def take_back(run: dict[str, Any]) -> None:
    """After a run: bring the host's model back, and let it find what the run wrote."""
    shared, models = host.module("shared"), host.module("sd_models")
    if not str(run["device"]).startswith("cpu") and host.device().startswith("cuda") and host.name() == "AUTOMATIC1111":
        with host.generation_lock():
            model = getattr(models, "model_data", None)
            if model is not None and model.sd_model is not None:
                # A1111 only moved its model to the CPU and believes that it is loaded
                models.send_model_to_device(model.sd_model)
    shared.refresh_checkpoints()
    refresh_loras()


def refresh_loras() -> None:
    """Let the built-in LoRA extension list its files again, so that the new one can be used at once."""
    import sys

    networks = sys.modules.get("networks")
    if networks is not None and hasattr(networks, "list_available_networks"):
        networks.list_available_networks()
