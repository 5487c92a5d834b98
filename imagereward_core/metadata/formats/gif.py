"""GIF (GIF89a specification): the comment in front of the first picture, where web UIs keep infotext. It is only read:
the format is for animations, which no scorer sees whole.
"""

from __future__ import annotations

from ...errors import MetadataError
from ..limits import MOST_PARTS
from . import places
from .charset import decode

EXTENSION, COMMENT = 0x21, 0xFE
HEADER = 13  # signature, screen descriptor


def matches(data: bytes) -> bool:
    return data[:6] in (b"GIF87a", b"GIF89a")


def read_texts(data: bytes) -> dict[str, str]:
    """The first comment, by its place."""
    flags = data[10]
    position = HEADER + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # behind the table of colours
    for _ in range(MOST_PARTS):
        if position + 1 >= len(data) or data[position] != EXTENSION:
            return {}
        label = data[position + 1]
        content, position = _blocks(data, position + 2)
        if label == COMMENT:
            return {places.COMMENT: decode(content).rstrip("\0")}
    raise MetadataError(f"the GIF file has more than {MOST_PARTS} blocks")


def _blocks(data: bytes, position: int) -> tuple[bytes, int]:
    """(content, where it ends) of a chain of blocks: each its length and so many bytes, the last one of length 0."""
    parts: list[bytes] = []
    for _ in range(MOST_PARTS):
        length = data[position]
        if length == 0:
            return b"".join(parts), position + 1
        parts.append(data[position + 1 : position + 1 + length])
        position += 1 + length
    raise MetadataError(f"the GIF file has a comment of more than {MOST_PARTS} blocks")
