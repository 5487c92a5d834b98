"""The settings of a run as they are asked for: flags, a JSON file, or the host's form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imagereward_core.runs.presets import PRESETS

from .errors import ConfigError
from .resolved import USUAL_SD, USUAL_SDXL, ResolvedConfig, resolve
from .settings import ALGORITHMS, ANCHORS, OUTPUTS, PREDICTIONS, SCHEDULES, Settings

__all__ = ["ALGORITHMS", "ANCHORS", "OUTPUTS", "PREDICTIONS", "PRESETS", "SCHEDULES", "ReFLConfig", "load_config"]


@dataclass(frozen=True)
class ReFLConfig(Settings):
    """Settings of one run as asked; `None` leaves a decision open. `ReFLConfig(...).resolved()` raises ConfigError for
    anything out of range.
    """

    def resolved(self, is_sdxl: bool = False, device_type: str = "cpu") -> ResolvedConfig:
        """All settings decided and checked, while no checkpoint has been opened; else `resolve` takes its family's
        `usual`.
        """
        return resolve(self, USUAL_SDXL if is_sdxl else USUAL_SD, device_type)


def load_config(path: str | os.PathLike[str]) -> ReFLConfig:
    """The configuration in a JSON file."""
    try:
        return ReFLConfig.from_json(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the run configuration {os.fspath(path)} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the run configuration {os.fspath(path)}: {error}") from error
