"""Where tastes lie, what they are called, and what a file says of the one in it. Reads no numbers: torch and numpy are
not needed to list them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ModelNotFoundError, WeightsError
from ..library.place import library_place, tastes_folder

METADATA = "imagereward_taste"
FORMAT = 1
SUFFIX = ".safetensors"
NAME = re.compile(r"\w[\w \-]{0,58}\w")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # names that Windows gives to no file


@dataclass(frozen=True)
class Base:
    """The scorer a taste is learnt on. `name` stands beside its scores; `source` is what loads it: a name of the
    registry or of an installed package, or a file's path.
    """

    name: str
    source: str


@dataclass(frozen=True)
class About:
    """What is known of a taste: how many duels it was learnt from and what was measured. None: not measured."""

    name: str
    base: Base
    duels: int = 0
    state: str = ""
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    scorer_accuracy: float | None = None
    p: float | None = None
    more: int | None = None
    time: float = 0.0
    format: int = FORMAT


def check_name(name: str) -> str:
    """`name` itself if a file can be called that. Raises ConfigError."""
    if not NAME.fullmatch(name) or DEVICES.fullmatch(name):
        raise ConfigError(f"a taste's name is 2 to 60 letters, digits, blanks, - and _; found {name!r}")
    return name


def path_of(name: str, place: str | os.PathLike[str] | None = None) -> Path:
    """Where the taste of that name lies, whether it is there or not. `place`: the library's file."""
    return tastes_folder(place or library_place()) / f"{check_name(name)}{SUFFIX}"


def names(place: str | os.PathLike[str] | None = None) -> list[str]:
    """The tastes that were fitted or imported."""
    try:
        entries = sorted(os.listdir(tastes_folder(place or library_place())))
    except OSError:
        return []
    found = [entry.removesuffix(SUFFIX) for entry in entries if entry.endswith(SUFFIX)]
    return [name for name in found if NAME.fullmatch(name)]


def find(name: str, place: str | os.PathLike[str] | None = None) -> Path | None:
    """The file of a taste's name; None where there is no such taste."""
    return path_of(name, place) if name in names(place) else None


def about(path: str | os.PathLike[str]) -> About | None:
    """What a file says of the taste in it; None if it is none. No tensor is read."""
    from safetensors import SafetensorError, safe_open

    if not os.fspath(path).endswith(SUFFIX) or not os.path.isfile(path):
        return None
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return None  # whoever reads the tensors says what is wrong
    return parsed(metadata[METADATA], path) if METADATA in metadata else None


def parsed(text: str, path: str | os.PathLike[str]) -> About:
    """The JSON in a taste's file. Raises WeightsError."""
    try:
        data = json.loads(text)
        if data["format"] > FORMAT:
            raise WeightsError(f"the taste {path} was written by a newer version of ImageReward: update it")
        base = Base(str(data["base"]["name"]), str(data["base"]["source"]))
        numbers = {key: _number(data.get(key), key) for key in ("accuracy", "scorer_accuracy", "p", "more", "time")}
        interval = data.get("interval")
        return About(
            str(data["name"]),
            base,
            duels=int(data["duels"]),
            state=str(data["state"]),
            interval=None if interval is None else (float(interval[0]), float(interval[1])),
            **{**numbers, "time": numbers["time"] or 0.0},
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise WeightsError(f"{path} is a damaged taste: {type(error).__name__}: {error}") from error


def _number(value: Any, key: str) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{key} must be a number, found {value!r}")
    return value


def existing(name: str, place: str | os.PathLike[str] | None = None) -> Path:
    """The file of a taste. Raises ModelNotFoundError naming what there is."""
    path = find(name, place)
    if path is None:
        there = ", ".join(names(place)) or "none"
        raise ModelNotFoundError(
            f"there is no taste called {name!r} beside {place or library_place()}; there are: {there}."
            " `imagereward taste fit` learns one from duels"
        )
    return path
