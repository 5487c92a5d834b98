"""The text that web UIs keep inside image files, read and written without touching a pixel: one file per container.

Every format module has `matches(data)` and `read_texts(data)`; those that can hold a score also have `read_text(data)`
and `write_text(data, text)` for the infotext alone. They work on the whole file as bytes, leave every byte they need
not change as it is, and raise MetadataError for what they do not understand. A file is known by its first bytes;
which suffixes it may have, `image_files.FORMATS` says.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from types import ModuleType

from ...errors import MetadataError
from . import avif, gif, jpeg, places, png, webp

WRITABLE: tuple[ModuleType, ...] = (png, jpeg, webp, avif)
FORMATS: tuple[ModuleType, ...] = (*WRITABLE, gif)
NAMES = "PNG, JPEG, WebP and AVIF"
HEAD = 4096  # bytes of a file by which its format is known


def is_known(head: bytes) -> bool:
    """Whether a file with these first bytes (`HEAD` of them) can hold text that is read here."""
    return _format(head) is not None


def read_texts(data: bytes) -> dict[str, str]:
    """Every text that programs may keep a prompt in, by its place (see `places`)."""
    module = _format(data)
    if module is None:
        return {}
    with _damage_named():
        texts: dict[str, str] = module.read_texts(data)
    return texts


def read_text(data: bytes) -> str | None:
    """The infotext in an image file, None if there is none or the format has no place for it."""
    module = _format(data)
    if module is None:
        return None
    if module not in WRITABLE:
        return read_texts(data).get(places.COMMENT)
    with _damage_named():
        text: str | None = module.read_text(data)
    return text


def write_text(data: bytes, text: str) -> bytes:
    """The same image with that infotext in place of the old one. Reads its own result back before it returns it."""
    module = _format(data)
    if module not in WRITABLE:
        raise MetadataError(f"only {NAMES} files can hold a score")
    if "\0" in text:
        raise MetadataError("text with a NUL character cannot be stored in an image")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MetadataError(f"text with half a surrogate pair cannot be stored in an image: {error}") from error
    with _damage_named():
        result: bytes = module.write_text(data, text)
        again = module.read_text(result)
    if again != text:
        raise MetadataError("the text is not read back as it was written; the image was left as it is")
    return result


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Tables that point outside the file show up as these errors of Python's own."""
    try:
        yield
    except MetadataError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RecursionError, ValueError, struct.error) as error:
        raise MetadataError(f"the file is damaged: {type(error).__name__}: {error}") from error


def _format(data: bytes) -> ModuleType | None:
    return next((module for module in FORMATS if module.matches(data)), None)
