"""WebP (RFC 9649): the EXIF chunk of the RIFF container. A file without extensions gets the extended header it
needs.
"""

from __future__ import annotations

import struct

from ...errors import MetadataError
from ..limits import MOST_PARTS
from . import exif

HAS_EXIF, HAS_ALPHA = 0x08, 0x10  # flags in the VP8X header


def matches(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_text(data: bytes) -> str | None:
    """The UserComment of the EXIF chunk."""
    tiff = _exif(data)
    return None if tiff is None else exif.read_comment(tiff)


def read_texts(data: bytes) -> dict[str, str]:
    """The texts of the EXIF chunk by their places."""
    tiff = _exif(data)
    return {} if tiff is None else exif.read_texts(tiff)


def _exif(data: bytes) -> bytes | None:
    contents = (content for kind, content in _chunks(data)[0] if kind == b"EXIF")
    content = next(contents, None)
    return None if content is None else content.removeprefix(exif.PREFIX)


def write_text(data: bytes, text: str) -> bytes:
    """Replace the EXIF chunk, or add one before the XMP chunk, where the standard wants it."""
    chunks, rest = _chunks(data)
    if not chunks:
        raise MetadataError("the WebP file holds no image")
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _extended_header(*chunks[0])))
    header = chunks[0][1]
    chunks[0] = (b"VP8X", bytes([header[0] | HAS_EXIF]) + header[1:])
    places = [index for index, (kind, _) in enumerate(chunks) if kind == b"EXIF"]
    if places:
        old = chunks[places[0]][1]
        prefix = exif.PREFIX if old.startswith(exif.PREFIX) else b""
        chunks[places[0]] = (b"EXIF", prefix + exif.with_comment(old.removeprefix(exif.PREFIX), text))
    else:
        xmp = next((index for index, (kind, _) in enumerate(chunks) if kind == b"XMP "), len(chunks))
        chunks.insert(xmp, (b"EXIF", exif.with_comment(b"", text)))
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body + rest


def _chunks(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """([(type, content)], what follows the container)."""
    stop = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if stop > len(data):
        raise MetadataError("the WebP file is incomplete")
    chunks: list[tuple[bytes, bytes]] = []
    position = 12
    while position + 8 <= stop:
        kind, (length,) = data[position : position + 4], struct.unpack_from("<I", data, position + 4)
        if position + 8 + length > stop:
            raise MetadataError(f"the WebP file is incomplete: chunk {kind!r} runs past its end")
        if len(chunks) == MOST_PARTS:
            raise MetadataError(f"the WebP file has more than {MOST_PARTS} chunks")
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    if chunks and chunks[0][0] == b"VP8X" and len(chunks[0][1]) < 10:
        raise MetadataError("the WebP file is damaged: its header is too short")
    return chunks, data[stop:]


def _extended_header(kind: bytes, content: bytes) -> bytes:
    """A VP8X header for a bare image: flags and the canvas size read from the bitstream."""
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a" and len(content) >= 10:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", content, 6))
        flags = 0
    elif kind == b"VP8L" and content[:1] == b"\x2f" and len(content) >= 5:
        (bits,) = struct.unpack_from("<I", content, 1)  # 14 bits width - 1, 14 bits height - 1, 1 bit alpha
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = HAS_ALPHA if bits >> 28 & 1 else 0
    else:
        raise MetadataError(f"the WebP file starts with {kind!r}, which is no image")
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
