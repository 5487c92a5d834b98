"""PNG (ISO/IEC 15948): text chunks, of which web UIs keep infotext in the one with the keyword `parameters`, and the
EXIF block.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator

from ...errors import MetadataError
from ..limits import LARGEST_TEXT, MOST_PARTS
from . import exif, places
from .charset import decode_latin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"parameters"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
LONGEST_KEYWORD = 79


def matches(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def read_text(data: bytes) -> str | None:
    """The last text chunk `parameters`, as image readers take it, else the UserComment of the EXIF block."""
    texts = read_texts(data, frozenset((places.PARAMETERS,)))
    if places.PARAMETERS in texts:
        return texts[places.PARAMETERS]
    comment = texts.get(places.USER_COMMENT, "")
    return comment if comment and not comment.lstrip().startswith("{") else None


def read_texts(data: bytes, keywords: frozenset[str] = places.PNG_KEYWORDS) -> dict[str, str]:
    """The texts under these keywords, and those of the EXIF block, by their places."""
    texts: dict[str, str] = {}
    room = LARGEST_TEXT
    for start, end, kind in _chunks(data):
        if kind in TEXT_CHUNKS:
            keyword, found, rest = data[start + 8 : end - 4].partition(b"\0")
            name = keyword[:LONGEST_KEYWORD].decode("latin-1")
            if found and name in keywords:
                texts[name], unfolded = _decode(kind, rest, room)
                room -= unfolded
        elif kind == b"eXIf":
            with contextlib.suppress(MetadataError):  # the chunks are what counts in PNG files
                texts = {**exif.read_texts(data[start + 8 : end - 4].removeprefix(exif.PREFIX)), **texts}
    return texts


def write_text(data: bytes, text: str) -> bytes:
    """Put the text where the first such chunk stood, else before the first IDAT; every other chunk stays byte for byte.

    tEXt is Latin-1 by the standard; anything else, and what would be taken for UTF-8 there, goes into an iTXt chunk.
    """
    latin = text.encode("latin-1", errors="ignore")
    if decode_latin(latin) == text:
        new = _chunk(b"tEXt", KEYWORD + b"\0" + latin)
    else:
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
    for _ in range(MOST_PARTS):
        if position >= len(data):
            return
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
    raise MetadataError(f"the PNG file has more than {MOST_PARTS} chunks")


def _is_ours(data: bytes, start: int, kind: bytes) -> bool:
    return kind in TEXT_CHUNKS and data.startswith(KEYWORD + b"\0", start + 8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _decode(kind: bytes, rest: bytes, room: int) -> tuple[str, int]:
    """(text, bytes it was unfolded to) of what follows a text chunk's keyword."""
    if kind == b"tEXt":
        return decode_latin(rest), 0
    if kind == b"zTXt":
        unfolded = _inflate(rest[1:], room)
        return decode_latin(unfolded), len(unfolded)
    compressed = rest[:1] == b"\x01"  # compression flag and method, then language and translated keyword
    _, _, rest = rest[2:].partition(b"\0")
    _, _, rest = rest.partition(b"\0")
    if not compressed:
        return rest.decode("utf-8", errors="replace"), 0
    unfolded = _inflate(rest, room)
    return unfolded.decode("utf-8", errors="replace"), len(unfolded)


def _inflate(data: bytes, room: int) -> bytes:
    try:
        unfolder = zlib.decompressobj()
        text = unfolder.decompress(data, room + 1)
    except zlib.error as error:
        raise MetadataError(f"the text in the PNG file is damaged: {error}") from error
    if len(text) > room:
        raise MetadataError(f"the texts in the PNG file unfold to more than {LARGEST_TEXT >> 20} MiB")
    return text
