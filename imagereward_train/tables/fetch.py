"""Download what the tables are computed on: rankings, prompts, and the hub's zips of images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from imagereward_core.errors import DownloadError
from imagereward_core.registry import Source

from ..public import obtain, unpack
from . import published


def fetch_preference(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """(test.json, folder of its images) under `folder`; what is there already is kept. Raises DownloadError."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    data = obtain(published.TEST_JSON, target)
    return data, unpack(published.TEST_IMAGES, target, "test_images")


def fetch_models(folder: str | os.PathLike[str], names: Iterable[str] = ()) -> tuple[Path, Path]:
    """(benchmark-prompts.json, folder of one folder per model) under `folder`. names: some of the paper's six, or
    all.
    """
    target = Path(folder)
    (target / "generations").mkdir(parents=True, exist_ok=True)
    prompts = obtain(published.PROMPTS_JSON, target)
    wanted = set(names)
    for generator in published.GENERATORS:
        if not wanted or generator.folder in wanted or wanted & set(generator.aliases):
            _unpack_first(published.generations(generator), target, f"generations/{generator.folder}")
    return prompts, target / "generations"


def _unpack_first(sources: Sequence[Source], root: Path, name: str) -> Path:
    """The content of the first of these zips that the hub has."""
    for source in sources[:-1]:
        try:
            return unpack(source, root, name)
        except DownloadError as error:
            if "there is no such file" not in str(error):
                raise
    return unpack(sources[-1], root, name)
