"""Parquet files by pyarrow, which is asked for only where one is read or written: no WebUI brings it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError


def pyarrow(purpose: str) -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet). DataError that names what it is needed for and how to install it."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{purpose} needs the package pyarrow, which is not installed: `pip install pyarrow`, or use csv or jsonl"
        ) from error
    return pyarrow, parquet


def records(path: Path, together: int) -> Iterator[dict[str, Any]]:
    """The rows of a file, `together` in memory at once. Raises DataError for one that cannot be read."""
    arrow, parquet = pyarrow(f"{path}, a Parquet file,")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=together):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
