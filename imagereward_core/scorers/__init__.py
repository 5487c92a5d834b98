"""Scorers: one file each, all with the interface of `base.Scorer`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from .. import weights
from ..errors import ConfigError, ModelNotFoundError
from ..naming import own_model_name
from ..registry import ModelInfo, describe, get, labelled
from ..taste import place as tastes
from . import own
from .base import Scorer
from .loading import read_config, settings_of

__all__ = ["Scorer", "entry_of", "load_scorer"]


def load_scorer(name: str | os.PathLike[str], *, own_code: bool = False, **options: Any) -> Scorer:
    """Load any scorer: a registry name, an installed package's, a taste's, the path of a reward model, of a taste, or
    of another scorer's weights with a JSON of the same name beside it that says {"scorer": NAME} (and sizes, settings).

    Options are those of `imagereward_core.load_score`. own_code: whether `package.module:function` is taken too, which
    runs that module's code: for names that the user typed, never for names from a request. Raises as `load` does.
    """
    if own.is_spec(name) and not os.path.exists(name):
        if not own_code:
            raise ConfigError(f"scorer {name} names code, which is loaded from the command line only")
        return own.load_spec(str(name), **options)
    if weights.is_path(name):
        if tastes.about(name) is not None:
            return _of_kind("taste", name, **options)
        described = beside(name)
        if described and options.get("weights") is None:
            config = {**described, **read_config(options.pop("config", None))}
            return _load(str(config.pop("scorer")), **{**options, "weights": name, "config": config})
        return _of_kind("imagereward", name, **options)
    return _load(str(name), **options)


def _load(name: str, **options: Any) -> Scorer:
    try:
        info = get(name)
    except ModelNotFoundError:
        if name in own.installed():
            return own.load_installed(name, **options)
        if (path := tastes.find(name)) is not None:
            return _of_kind("taste", path, **options)
        raise
    return _of_kind(info.kind, name, **options)


def _of_kind(kind: str, name: str | os.PathLike[str], **options: Any) -> Scorer:
    module = importlib.import_module(f".{kind}", __package__)  # the registry's kinds are this package's files
    return getattr(module, f"load_{kind}")(name, **options)


def entry_of(name: str | os.PathLike[str]) -> tuple[ModelInfo, str]:
    """(entry, the name that is stored beside its scores) of a registry name, of a reward model's path, or of other
    weights with a JSON beside them. Nothing is loaded. Raises ModelNotFoundError, ConfigError.
    """
    if not weights.is_path(name):
        info = get(str(name))
        return info, info.name
    described = beside(name)
    if not described:
        return describe(os.fspath(name)), own_model_name(name)
    info = get(described["scorer"])
    digest = own_model_name(name).rpartition(" ")[2]
    return info, f"{labelled(info, settings_of(info, described))} {digest}"


def beside(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON of the same name beside a weights file if it names a scorer; empty otherwise. Raises ConfigError."""
    described = Path(path).expanduser().with_suffix(".json")
    if not described.is_file():
        return {}
    try:
        found = read_config(described)
    except ConfigError:
        return {}  # any other program's file
    return found if isinstance(found.get("scorer"), str) else {}
