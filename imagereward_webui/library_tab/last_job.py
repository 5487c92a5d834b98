"""Which pictures the host's last job saved: duels can begin with them."""

from __future__ import annotations

import os
import threading
from typing import Any

from .. import host
from ..core import module as core_module

MOST = 2000  # pictures of one job that are kept in mind
_lock = threading.Lock()
_job: str = ""
_paths: list[str] = []


def image_saved(params: Any) -> None:
    """The host has written a picture (a callback of `on_image_saved`). Contact sheets, masks and unfinished stages of a
    picture are no pictures to choose between.
    """
    global _job
    path = os.path.abspath(str(params.filename))
    stem = os.path.splitext(os.path.basename(path))[0]
    if core_module("image_files").is_grid(path) or "-before-" in stem or stem.endswith(("-mask", "-mask-composite")):
        return
    job = host.job_id()
    with _lock:
        if job != _job:
            _job = job
            _paths.clear()
        if path not in _paths and len(_paths) < MOST:
            _paths.append(path)


def paths() -> list[str]:
    """Files that the last job saved and that are still there."""
    with _lock:
        return [path for path in _paths if os.path.isfile(path)]


def numbers(library: Any) -> list[int]:
    """The library's ids of these."""
    to_row = core_module("library.images").path_to_row
    sql = "SELECT id FROM images WHERE path = ? AND missing = 0"
    return [number for path in paths() for (number,) in library.query(sql, (to_row(path),))]
