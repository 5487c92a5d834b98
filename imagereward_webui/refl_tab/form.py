"""ONE table of the ReFL form: each field, what the page shows, and how it becomes settings of the training process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import host
from ..core import plain_prompt
from . import host as refl_host
from .codecs import (
    PRESETS,
    AnchorFolder,
    Checkpoint,
    Codec,
    FromOutputs,
    Judge,
    OutputName,
    Plain,
    Preset,
    Promised,
    Reward,
    SecondReward,
    SecondWeight,
    SettingError,
    ZeroIsNone,
)

MAX_PROMPTS = 20_000


@dataclass(frozen=True)
class Field:
    """One form field. kind: choice, int, float, text, lines or bool. `codec` makes its settings of the run, and its
    value of a run's settings. `multiple`: what an int must be a multiple of.
    """

    name: str
    codec: Codec
    label: str
    kind: str
    default: Any
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = math.inf
    multiple: int = 1
    help: str = ""

    def describe(self) -> dict[str, Any]:
        """For the page."""
        low, high = (self.low, self.high) if self.kind in ("int", "float") else (None, None)
        shown = {name: getattr(self, name) for name in ("name", "label", "kind", "default", "choices", "help")}
        return {**shown, "low": low, "high": high}


FIELDS: tuple[Field, ...] = (
    Field(
        "checkpoint",
        Checkpoint(),
        "Checkpoint",
        "choice",
        "",
        help="SD 1.x, SD 2.x or SDXL base; by default the one that is selected",
    ),
    Field(
        "output_name",
        OutputName(),
        "Name of the result",
        "text",
        "",
        help="empty: the checkpoint's name with -refl, and a number if that is taken",
    ),
    Field(
        "prompts",
        Plain("prompts", "prompts"),
        "Prompts, one per line",
        "lines",
        "",
        help="at least 50, better 500, like those you use; some are held out for evaluation",
    ),
    Field("from_outputs", FromOutputs(), "Also take the prompts of my generated images", "bool", False),
    Field("reward", Reward(), "Reward", "choice", "ImageReward-v1.0", help="what is trained towards"),
    Field(
        "second_reward",
        SecondReward(),
        "Second reward",
        "choice",
        "",
        help="mixed with the first, each in its own standard deviations",
    ),
    Field(
        "second_weight",
        SecondWeight(),
        "Weight of the second",
        "float",
        0.5,
        low=0.0,
        high=100.0,
        help="the first has 1",
    ),
    Field(
        "judge", Judge(), "Judge", "choice", "", help="only watched; training stops if it falls while the reward rises"
    ),
    Field("preset", Preset(), "GPU memory", "choice", "8 GB", tuple(PRESETS)),
    Field(
        "algorithm",
        Plain("algorithm", "algorithm"),
        "Algorithm",
        "choice",
        "refl+",
        ("refl+", "refl", "draft-k", "draft-lv"),
        help="refl is the paper's arithmetic, refl+ our defaults",
    ),
    Field("steps", Plain("steps", "max_train_steps"), "Updates", "int", 100, low=1, high=100_000),
    Field("learning_rate", Plain("learning_rate", "learning_rate"), "Learning rate", "float", 1e-4, low=1e-8, high=1.0),
    Field("rank", Plain("rank", "lora_rank"), "LoRA rank", "int", 16, low=1, high=512),
    Field("guidance", Plain("guidance", "guidance_scale"), "CFG scale", "float", 7.0, low=1.0, high=30.0),
    Field(
        "resolution",
        ZeroIsNone("resolution", "resolution"),
        "Resolution",
        "int",
        0,
        low=0,
        high=2048,
        multiple=64,
        help="0: what the model was made for",
    ),
    Field(
        "anchor",
        Plain("anchor", "anchor"),
        "Anchor",
        "choice",
        "kl",
        ("kl", "samples", "pretrain", "none"),
        help="what holds the model near its base",
    ),
    Field(
        "anchor_folder",
        AnchorFolder(),
        "Images for the anchor pretrain",
        "text",
        "",
        help="a folder inside the WebUI's, of images with captions; empty: my generated images",
    ),
    Field("held_out", Plain("held_out", "held_out"), "Held-out prompts", "int", 16, low=1, high=500),
    Field(
        "stop_rule",
        Plain("stop_rule", "stop_rule"),
        "When it over-optimises",
        "choice",
        "pause",
        ("pause", "stop", "off"),
    ),
    Field("seed", Plain("seed", "seed"), "Seed", "int", 0, low=0, high=2**31),
    Field(
        "output",
        Plain("output", "output"),
        "Result",
        "choice",
        "lora",
        ("lora", "single-file"),
        help="a LoRA, or a whole checkpoint",
    ),
)
BY_NAME = {field.name: field for field in FIELDS}


def build_config(settings: Mapping[str, Any], promised: Promised = ()) -> dict[str, Any]:
    """The run configuration of a filled form. SettingError names the field that is wrong.

    promised: (folder, name) of results that belong to runs which have not ended.
    """
    unknown = sorted(str(name) for name in settings.keys() - BY_NAME.keys())
    if unknown:
        raise SettingError(f"unknown field {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    form = {field.name: _checked(field, settings.get(field.name, field.default)) for field in FIELDS}
    config = BY_NAME["checkpoint"].codec.to_config(form, promised)  # first: without one nothing else makes sense
    if not form["prompts"] and not form["from_outputs"]:
        raise SettingError("Prompts: there are none; write some, load a file, or take those of your generated images")
    for field in FIELDS:
        config |= field.codec.to_config(form, promised)
    return {
        **config,
        "models_dir": str(host.models_dir()),
        "vae": refl_host.selected_vae(),
        "device": "cpu" if host.device() == "cpu" else "",
    }


def form_settings(config: Mapping[str, Any], promised: Promised = ()) -> dict[str, Any]:
    """A run's configuration in the form's terms, for a clone. What the configuration does not tell has the form's
    default.
    """
    found = {field.name: field.codec.from_config(config, promised) for field in FIELDS}
    return {name: BY_NAME[name].default if value is None else value for name, value in found.items()}


def _checked(field: Field, value: Any) -> Any:
    """A field's value in its kind, whatever came as JSON."""
    if field.kind == "lines":
        return _lines(field, value)
    if field.kind == "bool":
        if not isinstance(value, (bool, int)) or value not in (0, 1):
            raise SettingError(f"{field.label}: must be true or false, found {value!r}")
        return bool(value)
    if field.kind in ("int", "float"):
        return _number(field, value)
    text = _text(field, value)
    if field.choices and text not in field.choices:
        raise SettingError(f"{field.label}: must be one of {', '.join(field.choices)}, found {text!r}")
    return text


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingError(f"{field.label}: must be text, found {value!r}"[:300])
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SettingError(f"{field.label}: holds a character that is none, in {value!r}"[:300])
    return value


def _lines(field: Field, value: Any) -> list[str]:
    lines = value if isinstance(value, list) else _text(field, value).splitlines()
    texts = (plain_prompt(_text(field, line)).strip() for line in lines)
    prompts = list(dict.fromkeys(text for text in texts if text))
    if len(prompts) > MAX_PROMPTS:
        raise SettingError(f"{field.label}: {len(prompts)} prompts, and {MAX_PROMPTS} are the limit")
    return prompts


def _number(field: Field, value: Any) -> float:
    """An int or float from a number or its text; the page sends what was typed."""
    if not isinstance(value, (int, float, str)) or isinstance(value, bool) or len(str(value)) > 40:
        raise SettingError(f"{field.label}: {str(value)[:40]!r} is not a number")
    try:
        number = float(value)
    except ValueError as error:
        raise SettingError(f"{field.label}: {value!r} is not a number") from error
    if not field.low <= number <= field.high or math.isinf(number):
        raise SettingError(f"{field.label}: must lie between {field.low:g} and {field.high:g}, found {number:g}")
    if field.kind == "float":
        return number
    if number != int(number):
        raise SettingError(f"{field.label}: must be a whole number, found {number:g}")
    if number % field.multiple:
        raise SettingError(f"{field.label}: must be a multiple of {field.multiple}, found {number:g}")
    return int(number)
