"""Libraries of the training process. Where the host lacks them they go into a folder of ours, on a button press, and
reach the training process by PYTHONPATH alone: the host's own environment never changes.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..core import logger
from ..core import module as core_module

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".refl-libs"
# name: (oldest version that works, what is installed where it is missing). The pins import on every known host's
# transformers (4.30 to 4.57), accelerate and huggingface_hub.
NEEDED = {
    "diffusers": ((0, 29, 2), "diffusers==0.30.3"),
    "peft": ((0, 6), "peft==0.13.2"),
    "accelerate": ((0, 21), "accelerate==0.21.0"),
    "importlib-metadata": ((0,), "importlib-metadata==8.7.0"),
    "zipp": ((0,), "zipp==3.23.0"),
    "regex": ((0,), "regex"),
    "requests": ((0,), "requests"),
    "psutil": ((0,), "psutil"),
}
ON_DEMAND = {"bitsandbytes": ((0, 46), "bitsandbytes==0.46.1")}  # what only some settings need


def _version(text: str) -> tuple[int, ...]:
    """The release numbers at the start of a version: "2.1.2+cu121" → (2, 1, 2)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def missing(folder: Path = FOLDER, also: Collection[str] = ()) -> list[str]:
    """Requirements that neither the host nor the folder fulfils. also: names of `ON_DEMAND` that were asked for."""
    needed = {**NEEDED, **{name: ON_DEMAND[name] for name in also}}
    found: dict[str, tuple[int, ...]] = {}
    for item in (*importlib.metadata.distributions(path=[str(folder)]), *importlib.metadata.distributions()):
        name = (item.metadata["Name"] or "").lower().replace("_", "-")
        found.setdefault(name, _version(item.version))  # the folder comes first on the child's path
    return [pin for name, (oldest, pin) in needed.items() if found.get(name, (-1,)) < oldest]


def environment(folder: Path = FOLDER) -> dict[str, str]:
    """Variables of the training process: our folder and this extension on its path, the library whose tastes may be
    rewards, nothing of the host's own settings.
    """
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "COMMANDLINE_ARGS", "PYTORCH_CUDA_ALLOC_CONF")
    }
    paths = [str(folder)] * folder.is_dir() + [str(ROOT)]
    place = core_module("library.place")
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        place.VARIABLE: str(place.library_place()),
    }


class Installer:
    """Fills the folder in the background; `status()` says how it goes."""

    def __init__(self, folder: Path = FOLDER, python: str = sys.executable):
        self.folder, self.python = folder, python
        self._thread: threading.Thread | None = None
        self._error = ""
        self._known: list[str] | None = None  # what is missing: looking costs seconds, and a page asks every second
        self._also: frozenset[str] = frozenset()

    def _missing(self) -> list[str]:
        if self._known is None:
            self._known = missing(self.folder, self._also)
        return self._known

    def want(self, name: str) -> None:
        """From now on a library of `ON_DEMAND` is among those that a run needs."""
        if name not in self._also:
            self._also, self._known = self._also | {name}, None

    def start(self) -> None:
        """Install what is missing; does nothing while an installation runs or if nothing is missing."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._known = None
        wanted = self._missing()
        if wanted:
            self._error = ""
            self._thread = threading.Thread(
                target=self._install, args=(wanted,), name="imagereward-refl-libs", daemon=True
            )
            self._thread.start()

    def _install(self, wanted: list[str]) -> None:
        command = [
            self.python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(self.folder),
            *wanted,
        ]
        logger.info("installing for the training process: %s", " ".join(wanted))
        try:
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            self._error = str(error)
            return
        self._known = None
        if result.returncode:
            self._error = result.stderr[-1500:] or result.stdout[-1500:]
            logger.error("the training libraries could not be installed:\n%s", self._error)

    def status(self) -> dict[str, Any]:
        """What is missing, whether it is being installed, and why it failed."""
        return {
            "missing": self._missing(),
            "installing": bool(self._thread and self._thread.is_alive()),
            "error": self._error,
        }
