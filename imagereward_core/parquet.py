"""pyarrow, asked for only where a Parquet file is read or written: no WebUI brings it."""

from __future__ import annotations

from typing import Any

from .errors import ConfigError


def pyarrow(purpose: str) -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet). ConfigError that names what it is needed for and how to install it."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs the package pyarrow, which is not installed: `pip install pyarrow`, or use csv or jsonl"
        ) from error
    return pyarrow, parquet
