"""Reading files that may be anything: no more of them than is needed, and nothing that is no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import MetadataError
from .formats import HEAD, is_known
from .formats.charset import decode
from .limits import LARGEST_CAPTION, LARGEST_FILE


def read_image(path: str | os.PathLike[str]) -> bytes:
    """A whole image file; of one whose format holds no text that we read, its first bytes alone.

    Raises MetadataError for what is no file, cannot be read, or is larger than the limit.
    """
    return read_image_as_it_is(path)[0]


def read_image_as_it_is(path: str | os.PathLike[str]) -> tuple[bytes, os.stat_result]:
    """The same, with the file's state before anything was read."""
    try:
        _check_regular(path)
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            head = file.read(HEAD)
            if not is_known(head):
                return head, before
            if before.st_size > LARGEST_FILE:
                size, limit = before.st_size >> 20, LARGEST_FILE >> 20
                raise MetadataError(f"{size} MiB is more than the {limit} MiB up to which metadata are read")
            return head + file.read(), before
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, MetadataError):
            raise
        raise MetadataError(f"cannot read {os.fspath(path)!r}: {_cause(error)}") from error


def read_caption(path: Path) -> str | None:
    """A text file, None if there is no such file. Raises MetadataError as `read_image` does, naming it."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            data = file.read(LARGEST_CAPTION + 1)
    except (OSError, ValueError) as error:
        raise MetadataError(f"cannot read {os.fspath(path)!r}: {_cause(error)}") from error
    if len(data) > LARGEST_CAPTION:
        raise MetadataError(f"{path} is larger than {LARGEST_CAPTION >> 20} MiB: that is no caption")
    return decode(data).replace("\r\n", "\n")


def _check_regular(path: str | os.PathLike[str]) -> None:
    """A pipe or a device would be waited for, or read without end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise MetadataError(f"{os.fspath(path)} is a folder")
    if not stat.S_ISREG(mode):
        raise MetadataError(f"{os.fspath(path)} is no file but a pipe, a socket or a device")


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
