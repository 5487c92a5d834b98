"""The library as a table for other programs: CSV, JSON lines or Parquet, written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import LibraryError
from ..parquet import pyarrow
from ..printable import csv_cell
from . import find
from .conditions import EVERYTHING, Where
from .images import loras_text
from .records import Picture
from .store import Library

FORMATS = ("csv", "jsonl", "parquet")
PARQUET = "a Parquet file"
TOGETHER = 5000  # rows of one group of a Parquet file
COLUMNS = (
    "path",
    "missing",
    "time",
    "width",
    "height",
    "prompt",
    "negative_prompt",
    "seed",
    "sampler",
    "steps",
    "cfg_scale",
    "checkpoint",
    "checkpoint_hash",
    "loras",
    "program",
    "mark",
    "stars",
    "pixels",
)


def as_dict(picture: Picture) -> dict[str, Any]:
    """A picture as JSON holds it; `scores` by scorer, `loras` as a list of names and weights."""
    made = picture.made
    return {
        "file": printable(picture.path),
        "missing": picture.missing,
        "time": _iso(picture.time),
        "width": picture.width,
        "height": picture.height,
        "prompt": made.prompt,
        "negative_prompt": made.negative,
        "seed": made.seed,
        "sampler": made.sampler,
        "steps": made.steps,
        "cfg_scale": made.cfg,
        "checkpoint": made.checkpoint,
        "checkpoint_hash": made.checkpoint_hash,
        "loras": [{"name": name, "weight": weight} for name, weight in made.loras],
        "program": made.program,
        "mark": picture.mark,
        "stars": picture.stars,
        "pixels": picture.pixels.hex(),
        "scores": dict(picture.scores),
    }


def printable(path: str) -> str:
    """A path as text; bytes of a name that are no text become escapes."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def export(library: Library, target: str | os.PathLike[str], form: str, where: Where = EVERYTHING) -> int:
    """Write every picture that `where` names; the number of rows. Raises LibraryError."""
    if form not in FORMATS:
        raise LibraryError(f"formats are {', '.join(FORMATS)}, not {form!r}")
    pictures = find.stream(library, where)
    names = list(dict.fromkeys(name for _, name, _, used in find.scorers(library) if used))
    write = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[form]
    if form == "parquet":
        pyarrow(PARQUET)  # say what is missing before a file is begun
    try:
        with atomic.replacing(Path(target)) as temporary:
            return write(temporary, pictures, names)
    except OSError as error:
        raise LibraryError(f"cannot write {target}: {error.strerror or error}") from error


def _row(picture: Picture, scorers: list[str]) -> dict[str, Any]:
    """A flat row: COLUMNS, then one column per scorer."""
    flat = as_dict(picture)
    flat["path"], flat["loras"] = flat["file"], loras_text(picture.made.loras)
    row = {column: flat[column] for column in COLUMNS}
    return {**row, **{f"score: {name}": picture.scores.get(name) for name in scorers}}


def _csv(path: Path, pictures: Iterator[Picture], scorers: list[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *(f"score: {name}" for name in scorers)], lineterminator="\n")
        writer.writeheader()
        for picture in pictures:
            writer.writerow({name: csv_cell(value) for name, value in _row(picture, scorers).items()})
            count += 1
    return count


def _jsonl(path: Path, pictures: Iterator[Picture], scorers: list[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for picture in pictures:
            file.write(json.dumps(as_dict(picture), ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(path: Path, pictures: Iterator[Picture], scorers: list[str]) -> int:
    arrow, parquet = pyarrow(PARQUET)
    kinds = {"missing": arrow.bool_(), "seed": arrow.uint64(), "cfg_scale": arrow.float64()}
    kinds |= dict.fromkeys(("width", "height", "stars"), arrow.int32()) | {"steps": arrow.int64()}
    fields = [(column, kinds.get(column, arrow.string())) for column in COLUMNS]
    schema = arrow.schema([*fields, *((f"score: {name}", arrow.float64()) for name in scorers)])
    count = 0
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as writer:
        for picture in pictures:
            rows.append(_row(picture, scorers))
            count += 1
            if len(rows) == TOGETHER:
                writer.write_table(arrow.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(arrow.Table.from_pylist(rows, schema))
    return count


def _iso(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""
