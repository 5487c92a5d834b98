"""The model package, by the name it was loaded under.

`scripts/image_reward.py` loads the core from beside this package. Should another copy of it already be in the process
(a second clone, a pip install), ours gets an alias. So nothing here may say `import imagereward_core`: what the WebUI
needs of the core is either a name below, or `module("registry")`, which also serves what must not be imported before
it is needed (`weights` and `scorers` import torch).
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

CORE_NAME: str = getattr(sys.modules[__package__], "CORE_NAME", "imagereward_core")


def module(name: str) -> ModuleType:
    """A module of the core, by its name below the package: `module("metadata.infotext")`."""
    return importlib.import_module(f"{CORE_NAME}.{name}")


if TYPE_CHECKING:
    import imagereward_core as RM
    from imagereward_core import errors, metadata, naming, printable, prompt_files, registry, runs
    from imagereward_core.atomic import replace
    from imagereward_core.errors import ConfigError, ImageRewardError
    from imagereward_core.log import logger
    from imagereward_core.metadata.infotext import with_settings
    from imagereward_core.prompts import plain_prompt
    from imagereward_core.runs import drawing, measures, presets
    from imagereward_core.taste import place as tastes
else:
    RM = importlib.import_module(CORE_NAME)
    errors, naming, printable, registry = (module(name) for name in ("errors", "naming", "printable", "registry"))
    metadata, prompt_files, runs = module("metadata"), module("prompt_files"), module("runs")
    ConfigError, ImageRewardError = errors.ConfigError, errors.ImageRewardError
    logger = module("log").logger
    replace = module("atomic").replace
    with_settings = module("metadata.infotext").with_settings
    plain_prompt = module("prompts").plain_prompt
    drawing, measures, presets = module("runs.drawing"), module("runs.measures"), module("runs.presets")
    tastes = module("taste.place")


def kind_of_file(path: str | os.PathLike[str]) -> Any:
    """The core's `weights.formats.kind_of_file`, imported when it is asked for: the package needs torch."""
    return module("weights.formats").kind_of_file(path)


__all__ = [
    "RM",
    "ConfigError",
    "ImageRewardError",
    "drawing",
    "errors",
    "kind_of_file",
    "logger",
    "measures",
    "metadata",
    "module",
    "naming",
    "plain_prompt",
    "presets",
    "prompt_files",
    "registry",
    "replace",
    "runs",
    "tastes",
    "with_settings",
]
