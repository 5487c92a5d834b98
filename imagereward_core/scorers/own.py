"""Scorers of other people: a function named `package.module:function`, or an installed package's entry point.

Naming a function runs its module's code, so only callers whose user typed the name allow it; entry points are what a
package declared when it was installed, and are open to all.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError, ModelNotFoundError
from .base import Scorer, pick_device

GROUP = "imagereward.scorers"
SPEC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_spec(name: object) -> bool:
    """Whether the name is `package.module:function`."""
    return isinstance(name, str) and SPEC.fullmatch(name) is not None


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """Name → entry point of the scorers that installed packages declare. Nothing of theirs is imported."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def load_spec(name: str, **options: Any) -> Scorer:
    """The scorer that `package.module:function` makes. The current folder's modules count. Raises ConfigError."""
    module, _, attribute = name.partition(":")
    folder = os.getcwd()
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.append(folder)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ConfigError(
            f"scorer {name}: {module} cannot be imported: {error}; it is looked for among the installed packages and in"
            f" {folder}"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"scorer {name}: {error}") from error
    finally:
        if added:
            sys.path.remove(folder)
    return made_by(found, name, options)


def load_installed(name: str, **options: Any) -> Scorer:
    """The scorer of an installed package's entry point. Raises ModelNotFoundError, ConfigError."""
    point = installed().get(name)
    if point is None:
        raise ModelNotFoundError(f"no installed package has a scorer called {name!r}")
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"scorer {name} of an installed package ({point.value}) cannot be imported: {error}"
        ) from error
    return made_by(found, name, options)


def made_by(function: Callable[..., Any], name: str, options: dict[str, Any]) -> Scorer:
    """What the function makes of those options that it takes. Raises ConfigError if it is no scorer."""
    if not callable(function):
        raise ConfigError(f"scorer {name} is a {type(function).__name__}; a function that makes a scorer is wanted")
    given = {key: value for key, value in options.items() if value is not None}
    given["device"] = pick_device(options.get("device"))
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise ConfigError(f"scorer {name}: its arguments cannot be told: {error}") from error
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        given = {key: value for key, value in given.items() if key in {parameter.name for parameter in parameters}}
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in given
    ]
    if missing:
        raise ConfigError(
            f"scorer {name} wants {', '.join(missing)}; it is given device, and precision, models_dir, download_root,"
            " weights, config where it takes them"
        )
    scorer = function(**given)
    if not isinstance(scorer, Scorer):
        raise ConfigError(
            f"scorer {name} made a {type(scorer).__name__}; a subclass of imagereward_core.scorers.Scorer is wanted"
        )
    return scorer
