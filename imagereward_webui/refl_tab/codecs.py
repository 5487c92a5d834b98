"""How a field of the form becomes settings of a run, and back. One small class per kind of translation; for every
configuration that the form made, `to_config(from_config(config))` is that configuration.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .. import host
from ..core import ConfigError, ImageRewardError, presets, runs, tastes
from ..core import module as core_module
from ..lifecycle import available
from . import checkpoints
from . import host as refl_host

Form = Mapping[str, Any]
Config = Mapping[str, Any]
Promised = Collection[tuple[str, str]]
"""(folder, name) of results that belong to runs which have not ended."""

PRESETS = presets.PRESETS
FROM_REWARD, FROM_PICKS = "a reward", "my picks"  # what a run learns from
MY_TASTE: str = core_module("library.records").MY_TASTE
LIBRARY = "library"  # in place of a file of duels: those kept in the library


class SettingError(ImageRewardError, ValueError):
    """A form field with a value that cannot be used."""


class Codec(Protocol):
    """`to_config(form, promised)` → the settings this field decides; `from_config(config, promised)` → its value in the
    form, or None if the configuration does not tell it.
    """

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]: ...

    def from_config(self, config: Config, promised: Promised) -> Any: ...


@dataclass(frozen=True)
class Plain:
    """The value as it stands."""

    name: str
    setting: str

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {self.setting: form[self.name]}

    def from_config(self, config: Config, promised: Promised) -> Any:
        return config.get(self.setting)


@dataclass(frozen=True)
class ZeroIsNone(Plain):
    """0 in the form leaves the decision open."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {self.setting: form[self.name] or None}

    def from_config(self, config: Config, promised: Promised) -> Any:
        return config.get(self.setting) or 0


class LearnFrom:
    """A reward or picks, and which picks: those of a taste in the library, or a file. Written for the three fields."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {"picks": picks_source(form) if learns_picks(form) else ""}

    def from_config(self, config: Config, promised: Promised) -> Any:
        return FROM_PICKS if config.get("picks") else FROM_REWARD


class Taste:
    """Whose duels of the library. Written by `LearnFrom`."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {}

    def from_config(self, config: Config, promised: Promised) -> Any:
        place, _, taste = str(config.get("picks") or "").partition(":")
        return taste if place == LIBRARY and taste else None


class PicksFile:
    """A file of duels in the host's own folders. Written by `LearnFrom`."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {}

    def from_config(self, config: Config, promised: Promised) -> Any:
        source = str(config.get("picks") or "")
        return "" if source.partition(":")[0] == LIBRARY else _shortened(source)


class Algorithm(Plain):
    """How a reward's gradient is taken; picks have one algorithm of their own."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {self.setting: "dpo"} if learns_picks(form) else super().to_config(form, promised)

    def from_config(self, config: Config, promised: Promised) -> Any:
        return None if config.get("picks") else super().from_config(config, promised)


class Anchor(Plain):
    """The loss of picks keeps near the base by itself, so that `kl` is left open there."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        chosen = form[self.name]
        return {self.setting: None if chosen == "kl" and learns_picks(form) else chosen}


class Checkpoint:
    """The host's title in the form, the file in the configuration."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {"pretrained_model_name_or_path": checkpoint_file(form)}

    def from_config(self, config: Config, promised: Promised) -> Any:
        titles = {item["path"]: item["title"] for item in refl_host.checkpoints()}
        return titles.get(config.get("pretrained_model_name_or_path", ""), "")


class OutputName:
    """Never the name of something that exists, or that is promised to a run which has not ended: an empty name gets a
    free one, a name that is taken is refused.
    """

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        folder, name = result_folder(form), form["output_name"]
        taken = _taken(folder, promised)
        if not name:
            name = runs.free_name(runs.derived_name(Path(checkpoint_file(form)).stem), taken)
        problem = runs.check_name(name)
        if problem:
            raise SettingError(f"Name of the result: {name!r} {problem}")
        if taken(name):
            raise SettingError(
                f"Name of the result: there is a {name}.safetensors in {folder} already, or a run that will write it;"
                " choose another name"
            )
        return {"output_name": name, "export_dir": str(folder)}

    def from_config(self, config: Config, promised: Promised) -> Any:
        name = str(config.get("output_name") or "")
        return "" if _taken(Path(str(config.get("export_dir") or ".")), promised)(name) else name


def _taken(folder: Path, promised: Promised) -> Any:
    place = os.path.realpath(folder)
    return runs.taken_names(folder, [name for where, name in promised if os.path.realpath(where) == place])


class FromOutputs:
    """Whether prompts of generated images are taken, too."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {"train_data": str(refl_host.outputs_folder()) if form["from_outputs"] else ""}

    def from_config(self, config: Config, promised: Promised) -> Any:
        return bool(config.get("train_data"))


class Reward:
    """Writes the list of rewards for the three fields that make it up: first, second, weight of the second."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        first = scorer(form["reward"], "Reward")
        if not form["second_reward"]:
            return {"rewards": [first]}
        second = scorer(form["second_reward"], "Second reward")
        return {"rewards": [f"{first}=1", f"{second}={form['second_weight']!r}"]}

    def from_config(self, config: Config, promised: Promised) -> Any:
        parts = _rewards(config)
        return scorer_name(parts[0][0]) if parts else None


class SecondReward:
    """Written by `Reward`."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {}

    def from_config(self, config: Config, promised: Promised) -> Any:
        parts = _rewards(config)
        return scorer_name(parts[1][0]) if len(parts) > 1 else ""


class SecondWeight:
    """Written by `Reward`."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {}

    def from_config(self, config: Config, promised: Promised) -> Any:
        parts = _rewards(config)
        return parts[1][1] if len(parts) > 1 else None


class Judge:
    """One judge or none."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {"judges": [scorer(form["judge"], "Judge")] if form["judge"] else []}

    def from_config(self, config: Config, promised: Promised) -> Any:
        judges = config.get("judges") or [""]
        return scorer_name(judges[0])


class Preset:
    """Batch sizes by the name of a GPU's memory."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        path = refl_host.checkpoint_path(form["checkpoint"] or refl_host.selected_checkpoint())
        return dict(presets.preset(form["preset"], path))

    def from_config(self, config: Config, promised: Promised) -> Any:
        return presets.name_of(dict(config))


class AnchorFolder:
    """A folder of captioned images, used by the anchor `pretrain` alone."""

    def to_config(self, form: Form, promised: Promised) -> dict[str, Any]:
        return {"anchor_data": str(_anchor_folder(form["anchor_folder"])) if form["anchor"] == "pretrain" else ""}

    def from_config(self, config: Config, promised: Promised) -> Any:
        folder = config.get("anchor_data") or ""
        return "" if folder == str(refl_host.outputs_folder()) else _shortened(folder)  # "": the default


def learns_picks(form: Form) -> bool:
    """Whether the run follows picks and no reward."""
    return bool(form["learn"] == FROM_PICKS)


def picks_source(form: Form) -> str:
    """The form's picks as the training process names them: a file, `library`, or `library:TASTE`."""
    if form["picks_file"].strip():
        path = _inside(form["picks_file"], "File of duels")
        if path.suffix.lower() != ".jsonl":
            raise SettingError(f"File of duels: {path.name} is none; their names end in .jsonl")
        if not path.is_file():
            raise SettingError(f"File of duels: there is no file {path}")
        return str(path)
    try:
        taste = tastes.check_name(form["picks"] or MY_TASTE)
    except ConfigError as error:
        raise SettingError(f"Whose picks: {error}") from error
    return LIBRARY if taste == MY_TASTE else f"{LIBRARY}:{taste}"


def checkpoint_file(form: Form) -> str:
    """The file of the chosen checkpoint, by default of the one selected in the host."""
    wanted = form["checkpoint"] or refl_host.selected_checkpoint()
    if not wanted:
        raise SettingError("Checkpoint: none is chosen, and the WebUI does not say which one it uses; choose one")
    path = refl_host.checkpoint_path(wanted)
    if not path:
        raise SettingError(f"Checkpoint: the host has no checkpoint {wanted!r}; refresh the list and choose one")
    why = checkpoints.why_not(path)
    if why:
        raise SettingError(f"Checkpoint: {wanted} cannot be trained: {why}; choose SD 1.x, SD 2.x or SDXL")
    return path


def result_folder(form: Form) -> Path:
    """Where the host looks for such a result."""
    return refl_host.lora_folder() if form["output"] == "lora" else refl_host.checkpoint_folder()


def scorer(name: str, label: str) -> str:
    """A registry name as it is, a file of the models folder as its path; nothing else."""
    names = available(host.models_dir())
    if name not in names:
        raise SettingError(f"{label}: there is no scorer {name!r}; there are: {', '.join(names)}")
    path = host.models_dir() / name
    return str(path) if path.is_file() else name


def scorer_name(text: str) -> str:
    """What `scorer` made of a name, the other way round."""
    known = {str(host.models_dir() / name): name for name in available(host.models_dir())}
    return known.get(text, text)


def _rewards(config: Config) -> list[tuple[str, float]]:
    return [_name_and_weight(text) for text in config.get("rewards") or []]


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
    folder = _inside(text, "Images for the anchor")
    if not folder.is_dir():
        raise SettingError(f"Images for the anchor: there is no folder {folder}")
    return folder


def _inside(text: str, label: str) -> Path:
    """A file or folder by its path from the host's data folder. SettingError for one outside the host's folders."""
    path = Path(os.path.realpath(refl_host.data_folder() / text.strip()))
    allowed = [Path(os.path.realpath(place)) for place in (refl_host.data_folder(), refl_host.outputs_folder())]
    if not any(path == place or place in path.parents for place in allowed):
        raise SettingError(f"{label}: {text.strip()} lies outside the WebUI's folder {allowed[0]}; put it there")
    return path


def _shortened(path: str) -> str:
    """The inverse of `_inside`."""
    data = Path(os.path.realpath(refl_host.data_folder()))
    return str(Path(path).relative_to(data)) if path and data in Path(path).parents else path
