"""Download what is public, verify it and unpack it: rankings, prompts, and the hub's zips of images."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .. import weights
from ..errors import DownloadError
from ..registry import Source
from . import published


def fetch_preference(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """(test.json, folder of its images) under `folder`; what is there already is kept. Raises DownloadError."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    data = weights.locate(published.TEST_JSON, download_root=target)
    return data, unpack(published.TEST_IMAGES, target, "test_images")


def fetch_models(folder: str | os.PathLike[str], names: Iterable[str] = ()) -> tuple[Path, Path]:
    """(benchmark-prompts.json, folder of one folder per model) under `folder`. names: some of the paper's six, or all."""
    target = Path(folder)
    (target / "generations").mkdir(parents=True, exist_ok=True)
    prompts = weights.locate(published.PROMPTS_JSON, download_root=target)
    wanted = set(names)
    for generator in published.GENERATORS:
        if not wanted or generator.folder in wanted or wanted & set(generator.aliases):
            unpack(published.generations(generator), target, f"generations/{generator.folder}")
    return prompts, target / "generations"


def unpack(source: Source, root: Path, name: str) -> Path:
    """Have the zip's content as `root`/`name`; a top folder inside the zip is dropped. Complete or not there at all."""
    target = root / name
    if target.is_dir():
        return target
    archive = weights.locate(source, download_root=root)
    fresh = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    extract(archive, fresh)
    entries = list(fresh.iterdir())
    inner = entries[0] if len(entries) == 1 and entries[0].is_dir() and entries[0].name in (target.name, Path(source.filename).stem) else fresh
    os.replace(inner, target)
    shutil.rmtree(fresh, ignore_errors=True)
    return target


def extract(archive: Path, target: Path) -> None:
    """Unpack a zip, refusing entries that would land outside `target`; CRCs are checked. Raises DownloadError."""
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                place = (target / entry.filename).resolve()
                if not place.is_relative_to(target.resolve()):
                    raise DownloadError(
                        f"{archive.name} holds {entry.filename!r}, which lies outside the folder it is unpacked to; it is not to be trusted"
                    )
                file.extract(entry, target)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DownloadError(f"{archive} cannot be unpacked: {error}. Remove it and run again to download it anew") from error
