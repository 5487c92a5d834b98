"""Tastes on disk: one safetensors file each, in a folder beside the library, with what is known of it as JSON inside.

A file holds numbers only: no picture, no prompt, no path of a picture. Tensors: `mean` [d], `covariance` [d, d],
`score_spread` [1], `directions` [D, K], `appearance_spread` [16], `constant` [1].
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import replacing
from ..errors import ConfigError, ModelNotFoundError, WeightsError
from ..library.place import library_place, tastes_folder
from ..naming import TASTE_KEY, own_model_name
from ..registry import ModelInfo, describe, get
from .basis import Basis
from .head import Head

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


@dataclass(frozen=True)
class Taste:
    """A fitted taste."""

    about: About
    head: Head
    basis: Basis
    constant: float = 0.0


def check_name(name: str) -> str:
    """`name` itself if a taste may be called that. Raises ConfigError."""
    if not NAME.fullmatch(name) or DEVICES.fullmatch(name):
        raise ConfigError(f"a taste's name is 2 to 60 letters, digits, blanks, - and _; found {name!r}")
    try:
        taken = get(name)
    except ModelNotFoundError:
        return name
    raise ConfigError(f"{name!r} is a scorer's name ({taken.name}): choose another for a taste")


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
    return _about(metadata[METADATA], path) if METADATA in metadata else None


def _about(text: str, path: str | os.PathLike[str]) -> About:
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


def read(path: str | os.PathLike[str]) -> Taste:
    """The taste in a file. Raises WeightsError for a file that is damaged or none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"the taste {path} cannot be read: {error}") from error
    if METADATA not in metadata:
        raise WeightsError(f"{path} is a weights file, but no taste: `imagereward taste export` writes one")
    told = _about(metadata[METADATA], path)
    _check(arrays, path)
    basis = Basis(float(arrays["score_spread"][0]), arrays["directions"], arrays["appearance_spread"])
    return Taste(told, Head(arrays["mean"], arrays["covariance"], 0.0), basis, float(arrays["constant"][0]))


def _check(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    from .appearance import NAMES

    wanted = ("mean", "covariance", "score_spread", "directions", "appearance_spread", "constant")
    if missing := [key for key in wanted if key not in arrays]:
        raise WeightsError(f"{path} is a damaged taste: {', '.join(missing)} is missing")
    if not all(np.isfinite(arrays[key]).all() for key in wanted):
        raise WeightsError(f"{path} is a damaged taste: it holds values that are no numbers")
    size = 1 + (arrays["directions"].shape[1] if arrays["directions"].ndim == 2 else -1) + len(NAMES)
    shapes = {"mean": (size,), "covariance": (size, size), "appearance_spread": (len(NAMES),), "constant": (1,)}
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise WeightsError(f"{path} is a damaged taste: {key} has the shape {arrays[key].shape}, not {shape}")


def write(taste: Taste, path: str | os.PathLike[str]) -> None:
    """Write a taste, whole or not at all. Raises ConfigError if it cannot be written."""
    from safetensors.numpy import save

    arrays = {
        "mean": taste.head.mean,
        "covariance": taste.head.covariance,
        "score_spread": np.array([taste.basis.score_spread]),
        "directions": taste.basis.directions,
        "appearance_spread": taste.basis.appearance_spread,
        "constant": np.array([taste.constant]),
    }
    data = save({key: np.ascontiguousarray(value, np.float64) for key, value in arrays.items()}, metadata_of(taste))
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"the taste cannot be written to {path}: {error.strerror or error}") from error


def metadata_of(taste: Taste) -> dict[str, str]:
    """The JSON that lies in the file."""
    return {METADATA: json.dumps(asdict(taste.about))}


def export(name: str, target: str | os.PathLike[str], place: str | os.PathLike[str] | None = None) -> Path:
    """Write a taste to a file that may leave the machine: the path of the scorer's weights becomes their bare name.
    Raises ModelNotFoundError, ConfigError.
    """
    taste = read(existing(name, place))
    bare = replace(taste.about.base, source=os.path.basename(taste.about.base.source))
    path = Path(target)
    path = path / f"{name}{SUFFIX}" if path.is_dir() else path
    if path.suffix != SUFFIX:
        raise ConfigError(f"a taste is exported to a file that ends in {SUFFIX}, found {path}")
    write(replace(taste, about=replace(taste.about, base=bare)), path)
    return path


def take_in(
    source: str | os.PathLike[str],
    name: str | None = None,
    place: str | os.PathLike[str] | None = None,
    *,
    base: str | None = None,
    overwrite: bool = False,
) -> About:
    """Import an exported taste, under its own name or another. `base`: the weights of its scorer, if they are a file of
    one's own. Raises WeightsError, ConfigError.
    """
    taste = read(source)
    called = check_name(name or taste.about.name)
    target = path_of(called, place)
    if target.exists() and not overwrite:
        raise ConfigError(f"there is a taste called {called!r} already: import it under another name")
    known = taste.about.base
    if base is not None:
        if own_model_name(base) != known.name:
            raise ConfigError(
                f"the taste was learnt on {known.name}; {base} is {own_model_name(base)}, whose features differ"
            )
        known = replace(known, source=os.path.abspath(base))
    told = replace(taste.about, name=called, base=known)
    write(replace(taste, about=told), target)
    return told


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


def forget(name: str, place: str | os.PathLike[str] | None = None) -> bool:
    """Delete a fitted taste's file; whether there was one."""
    path = find(name, place)
    if path is None:
        return False
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot delete {path}: {error.strerror or error}") from error
    return True


def entry(path: str | os.PathLike[str]) -> ModelInfo | None:
    """A scorer's entry for the taste in a file, like its base's; None if the file holds none."""
    told = about(path)
    if told is None:
        return None
    return replace(
        describe(told.base.source),
        name=Path(path).stem,
        kind="taste",
        sources=(),
        key=TASTE_KEY,
        description=f"A taste of one's own, learnt from {told.duels} duels on {told.base.name}",
        aliases=(),
        advice="",
    )
