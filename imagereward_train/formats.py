"""Read preference data in the layouts people have it in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagereward_core import prompt_files
from imagereward_core.errors import DataError

from . import parquet, readers
from .readers import Reading

FORMATS = ("auto", "ranking", "records", "pairs", "pickapic", "hpdv2", "folders")
READERS = {
    "ranking": readers.rankings,
    "records": readers.records,
    "pairs": readers.pairs,
    "pickapic": readers.pickapic,
    "hpdv2": readers.hpdv2,
}
FIELDS = frozenset(
    (
        *readers.PROMPTS,
        *("id", "generations", "ranking", "pairs", "better", "worse", "prompt_id", "image_path", "file_path", "rank"),
        *("human_preference", "label_0", "image_0", "image_1", "image_0_uid", "image_1_uid", "has_label"),
        *(name for names in readers.CHOICES for name in names),
    )
)
"""Every field that a reader asks for: they tell a table's delimiter, and may be written in any case."""


def read_items(data: str | os.PathLike[str], images: str | os.PathLike[str] = "", format: str = "auto") -> Reading:
    """Read a data set. `images` is the folder that relative image names start from (default: where the data lies).

    format: "ranking" (JSON or JSONL of {id, prompt, generations, ranking}), "records" (ImageRewardDB's one record per
    image), "pairs" (CSV, TSV or JSONL of {prompt, better, worse}, or chosen and rejected, or HPD v3's path1 and path2),
    "pickapic" (caption, image_0, image_1, label_0),
    "hpdv2" (HPD v2: a list of images as image_path, with rank or human_preference), "folders" (one folder per prompt),
    or "auto". A .parquet file, or a folder of them, holds the same fields; its pictures are unpacked (see `parquet`).
    Raises DataError if nothing can be read at all.
    """
    path = Path(data)
    if format not in FORMATS:
        raise DataError(f"format must be one of {', '.join(FORMATS)}; found {format!r}")
    if not path.exists():
        raise DataError(f"no such data set: {path}")
    reading = Reading()
    tables = parquet.files(path)
    if path.is_dir() and not tables:
        readers.folders(path, reading)
    else:
        root = Path(images) if images else path if path.is_dir() else path.parent
        rows = [_known(row) for row in parquet.rows(tables, root)] if tables else list(_rows(path))
        kind = format if format != "auto" else _guess(path, rows)
        if kind == "records":  # image_path starts at the data set's root; the images lie beside their JSON too
            rows = [
                {**row, "image_path": readers.beside(root, path.parent, row)} if "image_path" in row else row
                for row in rows
            ]
        READERS[kind](rows, root, reading)
    _unique(reading)
    if not reading.items and not reading.problems:
        raise DataError(f"{path} holds no items")
    return reading


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON list, a JSONL, CSV or TSV file; known fields in our spelling, whatever their case."""
    try:
        found = prompt_files.entries(str(path), prompt_files.read_file(path), FIELDS, expected=" of items")
        for number, entry in enumerate(found):
            where = f"item {number}" if entry.line is None else f"line {entry.line}"
            if not isinstance(entry.value, dict):
                raise DataError(
                    f"{path} {where} must be an object with named fields, found {type(entry.value).__name__}"
                )
            yield _known(entry.value)
    except DataError as error:
        raise DataError(f"cannot read the data set: {error}") from error


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {_spelled(key): value for key, value in row.items()}


def _spelled(key: str) -> str:
    known = key.strip().lower()
    return known if known in FIELDS else key


def _guess(path: Path, rows: list[dict[str, Any]]) -> str:
    if not rows:
        raise DataError(f"{path} holds no items")
    names = set(rows[0])
    if "generations" in names:
        return "ranking"
    if "human_preference" in names or any(isinstance(rows[0].get(field), list) for field in readers.HPDV2_IMAGES):
        return "hpdv2"
    if {"image_path", "rank"} <= names:
        return "records"
    if any(names.issuperset(choice) for choice in readers.CHOICES):
        return "pairs"
    if "label_0" in names:
        return "pickapic"
    raise DataError(
        f"{path}: no known format has the fields {sorted(map(str, names))}. Expected generations + ranking,"
        " image_path + rank, better + worse, chosen + rejected, path1 + path2, label_0, or image_path +"
        " human_preference (see --format)"
    )


def _unique(reading: Reading) -> None:
    """Keep the first item of each id and report the others: two rankings under one id are a mistake in the source."""
    seen: set[str] = set()
    kept = []
    for item in reading.items:
        if item.id in seen:
            reading.problem(f"item {item.id}", "its id occurs twice")
        else:
            kept.append(item)
        seen.add(item.id)
    reading.items = kept
