"""Read preference data in the layouts people have it in."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagereward_core.errors import DataError

from . import readers
from .readers import Reading

FORMATS = ("auto", "ranking", "records", "pairs", "pickapic", "folders")


def read_items(data: str | os.PathLike[str], images: str | os.PathLike[str] = "", format: str = "auto") -> Reading:
    """Read a data set. `images` is the folder that relative image names start from (default: where the data lies).

    format: "ranking" (JSON or JSONL of {id, prompt, generations, ranking}), "records" (ImageRewardDB's one record per
    image), "pairs" (CSV, TSV or JSONL of {prompt, better, worse}), "pickapic" (caption, image_0, image_1, label_0),
    "folders" (one folder per prompt), or "auto". Raises DataError if nothing can be read at all.
    """
    path = Path(data)
    if format not in FORMATS:
        raise DataError(f"format must be one of {', '.join(FORMATS)}; found {format!r}")
    if not path.exists():
        raise DataError(f"no such data set: {path}")
    reading = Reading()
    if path.is_dir():
        readers.folders(path, reading)
    else:
        root = Path(images) if images else path.parent
        rows = list(_rows(path))
        kind = format if format != "auto" else _guess(path, rows)
        if kind == "records":  # image_path starts at the data set's root; the images lie beside their JSON too
            rows = [
                {**row, "image_path": readers.beside(root, path.parent, row)} if "image_path" in row else row
                for row in rows
            ]
        {"ranking": readers.rankings, "records": readers.records, "pairs": readers.pairs, "pickapic": readers.pickapic}[
            kind
        ](rows, root, reading)
    _unique(reading)
    if not reading.items and not reading.problems:
        raise DataError(f"{path} holds no items")
    return reading


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON list, a JSONL, CSV or TSV file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".csv", ".tsv"):
                yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            elif path.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _record(json.loads(line), f"{path} line {number}")
            else:
                data = json.load(file)
                if not isinstance(data, list):
                    raise DataError(f"{path} must hold a JSON list of items, found {type(data).__name__}")
                for number, row in enumerate(data):
                    yield _record(row, f"{path} item {number}")
    except (ValueError, csv.Error, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {error}") from error


def _record(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where} must be an object with named fields, found {type(row).__name__}")
    return row


def _guess(path: Path, rows: list[dict[str, Any]]) -> str:
    names = set(rows[0]) if rows else set()
    if "generations" in names:
        return "ranking"
    if {"image_path", "rank"} <= names:
        return "records"
    if {"better", "worse"} <= names:
        return "pairs"
    if "label_0" in names:
        return "pickapic"
    raise DataError(
        f"{path}: no known format has the fields {sorted(names)}. Expected generations + ranking, image_path + rank,"
        " better + worse, or label_0 (see --format)"
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
