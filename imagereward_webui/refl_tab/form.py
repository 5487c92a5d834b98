"""ONE table of the ReFL form: each field, what the page shows, and the setting of the training process it becomes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import host
from ..core import ImageRewardError, plain_prompt
from ..lifecycle import available
from . import host as refl_host

PRESETS: dict[str, dict[str, Any]] = {
    "8 GB": {"train_batch_size": 1, "gradient_accumulation_steps": 16},
    "12 GB": {"train_batch_size": 2, "gradient_accumulation_steps": 8},
    "16 GB": {"train_batch_size": 1, "gradient_accumulation_steps": 16},
    "24 GB": {"train_batch_size": 2, "gradient_accumulation_steps": 8},
}
MAX_PROMPTS = 20_000


class SettingError(ImageRewardError, ValueError):
    """A form field with a value that cannot be used."""


@dataclass(frozen=True)
class Field:
    """One form field. kind: choice, int, float, text, lines or bool. `setting` is the name in the run's
    configuration.
    """

    name: str
    setting: str
    label: str
    kind: str
    default: Any
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    help: str = ""

    def describe(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


FIELDS: tuple[Field, ...] = (
    Field(
        "checkpoint",
        "pretrained_model_name_or_path",
        "Checkpoint",
        "choice",
        "",
        help="SD 1.x, SD 2.x or SDXL base; by default the one that is selected",
    ),
    Field(
        "output_name",
        "output_name",
        "Name of the result",
        "text",
        "",
        help="empty: the checkpoint's name with -refl, and a number if that is taken",
    ),
    Field(
        "prompts",
        "prompts",
        "Prompts, one per line",
        "lines",
        "",
        help="at least 50, better 500, like those you use; some are held out for evaluation",
    ),
    Field("from_outputs", "train_data", "Also take the prompts of my generated images", "bool", False),
    Field("reward", "rewards", "Reward", "choice", "ImageReward-v1.0", help="what is trained towards"),
    Field(
        "second_reward",
        "rewards",
        "Second reward",
        "choice",
        "",
        help="mixed with the first, each in its own standard deviations",
    ),
    Field(
        "second_weight", "rewards", "Weight of the second", "float", 0.5, low=0.0, high=100.0, help="the first has 1"
    ),
    Field(
        "judge", "judges", "Judge", "choice", "", help="only watched; training stops if it falls while the reward rises"
    ),
    Field("preset", "preset", "GPU memory", "choice", "8 GB", tuple(PRESETS)),
    Field(
        "algorithm",
        "algorithm",
        "Algorithm",
        "choice",
        "refl+",
        ("refl+", "refl", "draft-k", "draft-lv"),
        help="refl is the paper's arithmetic, refl+ our defaults",
    ),
    Field("steps", "max_train_steps", "Updates", "int", 100, low=1, high=100_000),
    Field("learning_rate", "learning_rate", "Learning rate", "float", 1e-4, low=1e-8, high=1.0),
    Field("rank", "lora_rank", "LoRA rank", "int", 16, low=1, high=512),
    Field("guidance", "guidance_scale", "CFG scale", "float", 7.0, low=1.0, high=30.0),
    Field("resolution", "resolution", "Resolution", "int", 0, low=0, high=2048, help="0: what the model was made for"),
    Field(
        "anchor",
        "anchor",
        "Anchor",
        "choice",
        "kl",
        ("kl", "samples", "pretrain", "none"),
        help="what holds the model near its base",
    ),
    Field(
        "anchor_folder",
        "anchor_data",
        "Images for the anchor pretrain",
        "text",
        "",
        help="a folder inside the WebUI's, of images with captions; empty: my generated images",
    ),
    Field("held_out", "held_out", "Held-out prompts", "int", 16, low=1, high=500),
    Field("stop_rule", "stop_rule", "When it over-optimises", "choice", "pause", ("pause", "stop", "off")),
    Field("seed", "seed", "Seed", "int", 0, low=0, high=2**31),
    Field(
        "output", "output", "Result", "choice", "lora", ("lora", "single-file"), help="a LoRA, or a whole checkpoint"
    ),
)
OWN_TERMS = (
    "preset",
    "reward",
    "second_reward",
    "second_weight",
    "judge",
    "from_outputs",
    "checkpoint",
    "anchor_folder",
)
"""Fields whose value is not their setting's as it stands."""
BY_NAME = {field.name: field for field in FIELDS}


def build_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The run configuration of a filled form. SettingError names the field that is wrong."""
    unknown = sorted(settings.keys() - BY_NAME.keys())
    if unknown:
        raise SettingError(f"unknown field {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    values = {field.name: _checked(field, settings.get(field.name, field.default)) for field in FIELDS}
    path = refl_host.checkpoint_path(values["checkpoint"] or refl_host.selected_checkpoint())
    if not path:
        raise SettingError(
            f"Checkpoint: the host has no checkpoint {values['checkpoint']!r}; refresh the list and choose one"
        )
    if not values["prompts"] and not values["from_outputs"]:
        raise SettingError("Prompts: there are none; write some, load a file, or take those of your generated images")
    values["resolution"] = values["resolution"] or None
    output = refl_host.lora_folder() if values["output"] == "lora" else refl_host.checkpoint_folder()
    if values["output_name"] != Path(values["output_name"]).name:
        raise SettingError("Name of the result: give a file name without folders")
    values["output_name"] = values["output_name"] or _free_name(output, f"{Path(path).stem}-refl")
    if (output / f"{values['output_name']}.safetensors").exists():
        raise SettingError(
            f"Name of the result: there is a {values['output_name']}.safetensors in {output} already; choose another"
            " name"
        )
    config = {field.setting: values[field.name] for field in FIELDS if field.name not in OWN_TERMS}
    rewards = [_scorer(values["reward"], "Reward")]
    if values["second_reward"]:
        rewards = [
            f"{rewards[0]}=1",
            f"{_scorer(values['second_reward'], 'Second reward')}={values['second_weight']:g}",
        ]
    return {
        **config,
        **PRESETS[values["preset"]],
        "pretrained_model_name_or_path": path,
        "train_data": str(refl_host.outputs_folder()) if values["from_outputs"] else "",
        "anchor_data": str(_anchor_folder(values["anchor_folder"])) if values["anchor"] == "pretrain" else "",
        "rewards": rewards,
        "judges": [_scorer(values["judge"], "Judge")] if values["judge"] else [],
        "models_dir": str(host.models_dir()),
        "vae": refl_host.selected_vae(),
        "export_dir": str(output),
        "device": "cpu" if host.device() == "cpu" else "",
    }


def form_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration in the form's terms, for a clone: what :func:`build_config` made of them, the other way
    round.
    """
    known = {str(host.models_dir() / name): name for name in available(host.models_dir())}
    titles = {item["path"]: item["title"] for item in refl_host.checkpoints()}
    form = {
        field.name: config[field.setting] for field in FIELDS if field.name not in OWN_TERMS and field.setting in config
    }
    parts = [_name_and_weight(text) for text in config.get("rewards", [])]
    for (name, weight), place in zip(parts, ("reward", "second_reward"), strict=False):
        form[place] = known.get(name, name)
        if place == "second_reward":
            form["second_weight"] = weight
    judges = config.get("judges") or [""]
    preset = {key: config.get(key) for key in ("train_batch_size", "gradient_accumulation_steps")}
    form |= {
        "second_reward": form.get("second_reward", ""),
        "judge": known.get(judges[0], judges[0]),
        "from_outputs": bool(config.get("train_data")),
        "checkpoint": titles.get(config.get("pretrained_model_name_or_path", ""), ""),
        "anchor_folder": config.get("anchor_data", ""),
        "resolution": config.get("resolution") or 0,
    }
    if (Path(config.get("export_dir") or ".") / f"{config.get('output_name')}.safetensors").exists():
        form["output_name"] = ""  # taken by the run's own result
    fitting = [name for name, values in PRESETS.items() if values == preset]
    return {**form, "preset": fitting[0]} if fitting else form


def _name_and_weight(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        return (name, float(weight)) if name else (text, 1.0)
    except ValueError:  # the equals sign is part of the name
        return text, 1.0


def _anchor_folder(text: str) -> Path:
    """The folder of captioned images; only the host's own folders can be asked for."""
    if not text.strip():
        return refl_host.outputs_folder()
    folder = Path(os.path.realpath(refl_host.data_folder() / text.strip()))
    allowed = [Path(os.path.realpath(path)) for path in (refl_host.data_folder(), refl_host.outputs_folder())]
    if not any(folder == place or place in folder.parents for place in allowed):
        raise SettingError(
            f"Images for the anchor: {text.strip()} lies outside the WebUI's folder {allowed[0]}; put the images there"
        )
    if not folder.is_dir():
        raise SettingError(f"Images for the anchor: there is no folder {folder}")
    return folder


def _free_name(folder: Path, stem: str) -> str:
    """The stem, or the first stem-2, stem-3 … that no earlier result has."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    return next(name for name in names if not (folder / f"{name}.safetensors").exists())


def _scorer(name: str, label: str) -> str:
    """A registry name as it is, a file of the models folder as its path; nothing else."""
    names = available(host.models_dir())
    if name not in names:
        raise SettingError(f"{label}: there is no scorer {name!r}; there are: {', '.join(names)}")
    path = host.models_dir() / name
    return str(path) if path.is_file() else name


def _checked(field: Field, value: Any) -> Any:
    if field.kind == "lines":
        lines = value if isinstance(value, list) else str(value).splitlines()
        prompts = list(dict.fromkeys(text for text in (plain_prompt(str(line)).strip() for line in lines) if text))
        if len(prompts) > MAX_PROMPTS:
            raise SettingError(f"{field.label}: {len(prompts)} prompts, and {MAX_PROMPTS} are the limit")
        return prompts
    if field.kind == "bool":
        return bool(value)
    if field.kind in ("int", "float"):
        try:
            number = int(value) if field.kind == "int" else float(value)
        except (TypeError, ValueError) as error:
            raise SettingError(f"{field.label}: {value!r} is not a number") from error
        if not (field.low or 0) <= number <= (field.high or float("inf")):
            raise SettingError(f"{field.label}: must lie between {field.low:g} and {field.high:g}, found {number:g}")
        if field.name == "resolution" and number % 64:
            raise SettingError(f"{field.label}: must be a multiple of 64, found {number}")
        return number
    value = str(value)
    if field.choices and value not in field.choices:
        raise SettingError(f"{field.label}: must be one of {', '.join(field.choices)}, found {value!r}")
    return value
