"""Settings that the user saved under a name, for other checkpoints and prompts: one JSON file beside the runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import ImageRewardError, runs
from ..core import module as core_module

FILE = "settings.json"


class SavedSettings:
    """name → the form's values, in `folder`/settings.json."""

    def __init__(self, folder: Path):
        self.path = folder / FILE

    def all(self) -> dict[str, dict[str, Any]]:
        """Everything that was saved. RunDamaged names a file that cannot be read; what is no settings is left out."""
        found = runs.read_object(self.path) or {}
        return {name: values for name, values in found.items() if isinstance(values, dict)}

    def save(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep values under a name; what had that name is replaced."""
        if not name.strip():
            raise ImageRewardError("Name of the settings: it is empty; write one")
        self._write({**self.all(), name.strip(): dict(values)})

    def delete(self, name: str) -> None:
        """Forget the settings of that name."""
        self._write({key: values for key, values in self.all().items() if key != name})

    def _write(self, content: Mapping[str, Any]) -> None:
        runs.check_writable(self.path.parent, "the settings")
        core_module("runs.writing").write_object(self.path, content, indent=1, durable=True)
