"""JPEG (ITU-T T.81): the EXIF block in an APP1 segment. The compressed image data is copied as it is."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from ...errors import MetadataError
from ..limits import MOST_PARTS
from . import exif, places
from .charset import decode

APP0, APP1, COMMENT, SCAN = 0xE0, 0xE1, 0xFE, 0xDA
FILL = re.compile(rb"\xff+")


def matches(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8\xff")


def read_text(data: bytes) -> str | None:
    """The UserComment of the first EXIF segment."""
    tiff = _exif(data)
    return None if tiff is None else exif.read_comment(tiff)


def read_texts(data: bytes) -> dict[str, str]:
    """The texts of the first EXIF segment and of the first comment by their places."""
    tiff = _exif(data)
    texts = {} if tiff is None else exif.read_texts(tiff)
    try:
        comments = (data[start + 4 : end] for start, end, marker in _segments(data) if marker == COMMENT)
        texts[places.COMMENT] = decode(next(comments, b"")).rstrip("\0")
    except MetadataError:
        if not texts:  # a file that is cut off behind its EXIF segment keeps that
            raise
    return texts


def _exif(data: bytes) -> bytes | None:
    found = next(_exif_segments(data), None)
    return None if found is None else data[found[0] + 4 + len(exif.PREFIX) : found[1]]


def write_text(data: bytes, text: str) -> bytes:
    """Replace the EXIF segment, or add one after the JFIF header."""
    old = list(_exif_segments(data))
    if len(old) > 1:
        raise MetadataError("the JPEG file has several EXIF segments; none was changed")
    if old:
        start, end = old[0]
        tiff = data[start + 4 + len(exif.PREFIX) : end]
    else:
        start = end = next((stop for _, stop, marker in reversed(list(_segments(data))) if marker == APP0), 2)
        tiff = b""
    content = exif.PREFIX + exif.with_comment(tiff, text)
    if len(content) + 2 > 0xFFFF:
        raise MetadataError(
            f"a JPEG file holds at most 64 KiB of EXIF, this would be {len(content)} bytes: save the image as PNG or"
            " WebP"
        )
    return data[:start] + struct.pack(">BBH", 0xFF, APP1, len(content) + 2) + content + data[end:]


def _exif_segments(data: bytes) -> Iterator[tuple[int, int]]:
    for start, end, marker in _segments(data):
        if marker == APP1 and data.startswith(exif.PREFIX, start + 4):
            yield start, end


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(start, end, marker) of the segments before the image data: FF, marker, length of what follows, content."""
    position = 2
    for _ in range(MOST_PARTS):
        if filled := FILL.match(data, position):
            position = filled.end() - 1
        if position + 4 > len(data) or data[position] != 0xFF:
            raise MetadataError("the JPEG file is damaged or incomplete")
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if marker == SCAN:
            return
        if end > len(data) or length < 2:
            raise MetadataError("the JPEG file is damaged or incomplete")
        yield position, end, marker
        position = end
    raise MetadataError(f"the JPEG file has more than {MOST_PARTS} segments")
