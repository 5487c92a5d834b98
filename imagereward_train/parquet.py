"""Preference data in Parquet files, as the hub keeps it: the pictures are columns of bytes.

Reading needs pyarrow (the extra `data`). Pictures are written to the data set's folder, once, and the records name
those files, so that everything after this works as with any other layout.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagereward_core.atomic import write_bytes
from imagereward_core.errors import DataError
from imagereward_core.image_files import FORMATS
from imagereward_core.parquet import records

SUFFIX = ".parquet"
TOGETHER = 64  # records in memory at once, each with its pictures
FOLDER = "unpacked"  # beside the data
NAMED = {"jpg_0": "image_0", "jpg_1": "image_1"}  # Pick-a-Pic's columns of bytes, by what the reader calls them
UID = re.compile(r"[\w-]{1,100}", re.ASCII)


def files(path: Path) -> list[Path]:
    """The Parquet files that a path stands for: itself, or those in a folder; none for other data."""
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.suffix.lower() == SUFFIX)
    return [path] if path.suffix.lower() == SUFFIX else []


def rows(tables: Sequence[Path], root: Path) -> Iterator[dict[str, Any]]:
    """The records, with the paths of pictures under `root` in place of their bytes. Raises DataError."""
    for path in tables:
        for row in records(path, TOGETHER):
            yield _without_bytes(row, root / FOLDER, path)


def _without_bytes(row: Mapping[str, Any], folder: Path, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, value in row.items():
        name = NAMED.get(column, column)
        content = value.get("bytes") if isinstance(value, Mapping) else value  # the hub's own kind of picture
        if isinstance(content, bytes):
            found[name] = _unpacked(content, row.get(f"{name}_uid"), folder, f"{path}: {column}")
        elif isinstance(value, Mapping) and isinstance(value.get("path"), str):
            found[name] = value["path"]
        elif name not in found:
            found[name] = value
    return found


def _unpacked(content: bytes, uid: Any, folder: Path, where: str) -> str:
    """The picture's file, written if it is not there yet; named by its uid, else by what it holds."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            suffix = FORMATS[str(image.format)][0]
    except (OSError, ValueError, KeyError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} holds {len(content)} bytes that are no picture: {error}") from error
    name = uid if isinstance(uid, str) and UID.fullmatch(uid) else hashlib.sha256(content).hexdigest()[:32]
    target = folder / f"{name}{suffix}"
    if not target.is_file() or target.stat().st_size != len(content):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(target, content)
    return str(target)
