"""PNG (ISO/IEC 15948): the text chunk with the keyword `parameters`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from ...errors import MetadataError

SUFFIXES = (".png", ".apng")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"parameters"
LARGEST_TEXT = 64 << 20  # bytes a compressed text may unfold to


def matches(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def read_text(data: bytes) -> str | None:
    """The last text chunk `parameters`, as image readers take it."""
    texts = [
        _decode(kind, data[start + 8 : end - 4]) for start, end, kind in _chunks(data) if _is_ours(data, start, kind)
    ]
    return texts[-1] if texts else None


def write_text(data: bytes, text: str) -> bytes:
    """Put the text where the first such chunk stood, else before the first IDAT; every other chunk stays byte for byte.

    tEXt is Latin-1 by the standard; anything else goes into an iTXt chunk (UTF-8).
    """
    try:
        new = _chunk(b"tEXt", KEYWORD + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        new = _chunk(b"iTXt", KEYWORD + b"\0\0\0\0\0" + text.encode("utf-8"))
    chunks = list(_chunks(data))
    ours = [start for start, _, kind in chunks if _is_ours(data, start, kind)]
    images = [start for start, _, kind in chunks if kind == b"IDAT"]
    if not images or chunks[-1][2] != b"IEND":
        raise MetadataError("the PNG file is incomplete")
    place = ours[0] if ours else images[0]
    parts = [SIGNATURE]
    for start, end, _ in chunks:
        if start == place:
            parts.append(new)
        if start not in ours:
            parts.append(data[start:end])
    parts.append(data[chunks[-1][1] :])
    return b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(start, end, type) of every chunk up to IEND: 4 bytes length, 4 type, content, 4 CRC."""
    position = len(SIGNATURE)
    while position < len(data):
        if position + 12 > len(data):
            raise MetadataError("the PNG file is incomplete")
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            raise MetadataError(f"the PNG file is incomplete: chunk {kind!r} runs past its end")
        yield position, end, kind
        if kind == b"IEND":
            return
        position = end


def _is_ours(data: bytes, start: int, kind: bytes) -> bool:
    return kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(KEYWORD + b"\0", start + 8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _decode(kind: bytes, content: bytes) -> str:
    body = content[len(KEYWORD) + 1 :]
    if kind == b"tEXt":
        return body.decode("latin-1")
    if kind == b"zTXt":
        return _inflate(body[1:]).decode("latin-1")
    compressed, rest = (
        body[:1] == b"\x01",
        body[2:],
    )  # compression flag and method, then language and translated keyword
    _, _, rest = rest.partition(b"\0")
    _, _, rest = rest.partition(b"\0")
    return (_inflate(rest) if compressed else rest).decode("utf-8", errors="replace")


def _inflate(data: bytes) -> bytes:
    try:
        unfolder = zlib.decompressobj()
        text = unfolder.decompress(data, LARGEST_TEXT)
    except zlib.error as error:
        raise MetadataError(f"the text in the PNG file is damaged: {error}") from error
    if unfolder.unconsumed_tail:
        raise MetadataError(f"the text in the PNG file unfolds to more than {LARGEST_TEXT >> 20} MiB")
    return text
