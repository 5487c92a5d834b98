"""Public files: have one on this machine, or the content of a zip."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from imagereward_core.atomic import replace
from imagereward_core.errors import DownloadError
from imagereward_core.progress import Bar
from imagereward_core.registry import Source
from imagereward_core.weights import hub


def obtain(source: Source, root: Path) -> Path:
    """The file as `root`/its name; downloaded (resumable, checksum compared) if it is not there. Raises
    DownloadError.
    """
    target = root / source.filename
    if target.is_file():
        return target
    if hub.offline():
        raise DownloadError(
            f"{target} is not there, and offline mode is on. Download {hub.address(source)} by hand and put it there"
        )
    from imagereward_core.weights import download

    with Bar(source.filename) as bar:
        return download.download(download.remote(source, bar), target, progress=bar, check=_problem)


def _problem(path: Path) -> str:
    """What is wrong with a complete download, as download() wants it said; empty if nothing is."""
    with open(path, "rb") as file:
        page = file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html"))
    return "is a web page" if page else ""


def unpack(source: Source, root: Path, name: str) -> Path:
    """Have the zip's content as `root`/`name`; a top folder inside the zip is dropped. Complete or not there at all."""
    target = root / name
    if target.is_dir():
        return target
    archive = obtain(source, root)
    fresh = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    extract(archive, fresh)
    inner = fresh
    while (
        len(entries := list(inner.iterdir())) == 1
        and entries[0].is_dir()
        and entries[0].name in (target.name, archive.stem)
    ):
        inner = entries[0]
    replace(inner, target)
    shutil.rmtree(fresh, ignore_errors=True)
    archive.unlink()  # gigabytes that are no longer needed
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
                        f"{archive.name} holds {entry.filename!r}, which lies outside the folder it is unpacked to; it"
                        " is not to be trusted"
                    )
                file.extract(entry, target)
    except DownloadError:
        raise
    except Exception as error:  # a damaged or encrypted zip raises half a dozen kinds
        raise DownloadError(
            f"{archive} cannot be unpacked: {error}. Remove it and run again to download it anew"
        ) from error
