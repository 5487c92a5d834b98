"""Tastes on disk: one safetensors file each, in a folder beside the library, with what is known of it as JSON inside.

A file holds numbers only: no picture, no prompt, no path of a picture. Tensors: `mean` [d], `covariance` [d, d],
`score_spread` [1], `directions` [D, K], `appearance_spread` [16], `units` [2].
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..atomic import replacing
from ..errors import ConfigError, ModelNotFoundError, WeightsError
from ..naming import own_model_name
from ..registry import get
from .basis import Basis
from .head import Head
from .place import METADATA, SUFFIX, About, check_name, existing, find, parsed, path_of


@dataclass(frozen=True)
class Taste:
    """A fitted taste. Its scores are factor · (what `basis.linear` makes of the head) + constant: of the duels'
    pictures they have the mean and the spread of the scorer's.
    """

    about: About
    head: Head
    basis: Basis
    factor: float = 1.0
    constant: float = 0.0


def check_free(name: str) -> str:
    """`name` itself if a taste may be called that. Raises ConfigError."""
    try:
        taken = get(check_name(name))
    except ModelNotFoundError:
        return name
    raise ConfigError(f"{name!r} is a scorer's name ({taken.name}): choose another for a taste")


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
    told = parsed(metadata[METADATA], path)
    _check(arrays, path)
    basis = Basis(float(arrays["score_spread"][0]), arrays["directions"], arrays["appearance_spread"])
    factor, constant = (float(value) for value in arrays["units"])
    return Taste(told, Head(arrays["mean"], arrays["covariance"]), basis, factor, constant)


def _check(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    from .appearance import NAMES

    wanted = ("mean", "covariance", "score_spread", "directions", "appearance_spread", "units")
    if missing := [key for key in wanted if key not in arrays]:
        raise WeightsError(f"{path} is a damaged taste: {', '.join(missing)} is missing")
    if not all(np.isfinite(arrays[key]).all() for key in wanted):
        raise WeightsError(f"{path} is a damaged taste: it holds values that are no numbers")
    size = 1 + (arrays["directions"].shape[1] if arrays["directions"].ndim == 2 else -1) + len(NAMES)
    shapes = {"mean": (size,), "covariance": (size, size), "appearance_spread": (len(NAMES),), "units": (2,)}
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
        "units": np.array([taste.factor, taste.constant]),
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
    called = check_free(name or taste.about.name)
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
