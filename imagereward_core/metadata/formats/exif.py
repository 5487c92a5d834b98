"""EXIF (a TIFF structure): the UserComment, where web UIs keep infotext in every format but PNG, and the few other
fields that programs keep text in.

Nothing that is there moves: maker notes hold absolute offsets that nobody can correct. What is new goes to the end, and
directories that need one more entry are copied there.
"""

from __future__ import annotations

import struct

from ...errors import MetadataError
from . import places
from .charset import decode, decode_comment

PREFIX = b"Exif\0\0"
USER_COMMENT, EXIF_DIRECTORY = 0x9286, 0x8769
BYTE, ASCII, LONG, UNDEFINED = 1, 2, 4, 7
OTHERS = {0x010E: places.DESCRIPTION, 0x010F: places.MAKE, 0x0110: places.MODEL, 0x0131: places.SOFTWARE}


def read_comment(tiff: bytes) -> str | None:
    """The UserComment, None if there is none. It belongs into the Exif directory; some programs put it into the first
    one.
    """
    block = _Tiff(tiff)
    for directory in (block.exif, block.first):
        place = None if directory is None else block.value(directory, USER_COMMENT)
        text = decode_comment(tiff[place[0] : place[0] + place[1]]) if place else ""
        if text:
            return text
    return None


def read_texts(tiff: bytes) -> dict[str, str]:
    """Every text by its place (see `places`), the empty ones left out."""
    block = _Tiff(tiff)
    texts = {places.USER_COMMENT: read_comment(tiff) or ""}
    for tag, place in OTHERS.items():
        try:
            found = block.value(block.first, tag)
        except MetadataError:
            continue  # only the comment matters enough to be missed
        if found:
            texts[place] = decode(tiff[found[0] : found[0] + found[1]]).partition("\0")[0]
    return {place: text for place, text in texts.items() if text.strip()}


def with_comment(tiff: bytes, text: str) -> bytes:
    """The same EXIF block with that UserComment; an empty block becomes a minimal one.

    The text is UTF-16 big-endian whatever the block's own byte order: that is how web UIs write it and the only way
    they read it.
    """
    return _Tiff(tiff or b"MM\0*\0\0\0\x08\0\0\0\0\0\0").replace_comment(b"UNICODE\0" + text.encode("utf-16-be"))


class _Tiff:
    def __init__(self, data: bytes):
        self.data = bytearray(data)
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]), "")
        if not self.order:
            raise MetadataError("the EXIF block is damaged: it does not start as TIFF")
        self.first = self.number("I", 4)
        pointer = self.find(self.first, EXIF_DIRECTORY)
        self.exif = None if pointer is None else self.number("I", pointer + 8)

    def number(self, kind: str, offset: int) -> int:
        try:
            return int(struct.unpack_from(self.order + kind, self.data, offset)[0])
        except struct.error as error:
            raise MetadataError(f"the EXIF block is damaged: {error}") from error

    def entries(self, directory: int) -> list[int]:
        """Offsets of a directory's 12-byte entries: tag, type, count, value or its offset."""
        return [directory + 2 + 12 * index for index in range(self.number("H", directory))]

    def find(self, directory: int, tag: int) -> int | None:
        return next((entry for entry in self.entries(directory) if self.number("H", entry) == tag), None)

    def value(self, directory: int, tag: int) -> tuple[int, int] | None:
        """(offset, length in bytes) of a field that holds bytes, None if there is no such field."""
        entry = self.find(directory, tag)
        if entry is None or self.number("H", entry + 2) not in (BYTE, ASCII, UNDEFINED):
            return None
        length = self.number("I", entry + 4)
        offset = entry + 8 if length <= 4 else self.number("I", entry + 8)
        if offset + length > len(self.data):
            raise MetadataError("the EXIF block is damaged: its comment runs past its end")
        return offset, length

    def replace_comment(self, payload: bytes) -> bytes:
        entry = None if self.exif is None else self.find(self.exif, USER_COMMENT)
        if entry is None:
            exif = self.extended(self.exif, USER_COMMENT, UNDEFINED, len(payload))
            pointer = self.find(self.first, EXIF_DIRECTORY)
            if pointer is None:
                self.put("I", 4, self.extended(self.first, EXIF_DIRECTORY, LONG, 1))
                self.first = self.number("I", 4)
                pointer = self.find(self.first, EXIF_DIRECTORY)
            self.put("I", (pointer or 0) + 8, exif)
            self.exif = exif
            entry = self.find(exif, USER_COMMENT)
            offset = self.end()
        else:
            offset = self.room(self.value(self.exif or 0, USER_COMMENT) or (0, 0), len(payload))
        entry = entry or 0
        self.put("H", entry + 2, UNDEFINED)
        self.put("I", entry + 4, len(payload))
        self.put("I", entry + 8, offset)
        self.data[offset : offset + len(payload)] = payload
        return bytes(self.data)

    def room(self, old: tuple[int, int], length: int) -> int:
        """Where `length` bytes can go: over the old comment if they fit there or it ends the block, else at the end."""
        offset, size = old
        if size > 4 and offset + size >= len(self.data):
            del self.data[offset:]
        elif size > 4 and length <= size:
            self.data[offset : offset + size] = bytes(size)
        else:
            return self.end()
        return offset

    def end(self) -> int:
        """The end of the block, on a word boundary as TIFF wants it."""
        self.data += bytes(len(self.data) % 2)
        return len(self.data)

    def put(self, kind: str, offset: int, value: int) -> None:
        struct.pack_into(self.order + kind, self.data, offset, value)

    def extended(self, directory: int | None, tag: int, kind: int, count: int) -> int:
        """A copy of the directory at the end with one entry more, its value 0; entries stay in the order of their
        tags.
        """
        old = [] if directory is None else [bytes(self.data[entry : entry + 12]) for entry in self.entries(directory)]
        next_directory = 0 if directory is None else self.number("I", directory + 2 + 12 * len(old))
        rows = [*old, struct.pack(self.order + "HHII", tag, kind, count, 0)]
        rows.sort(key=lambda row: int(struct.unpack_from(self.order + "H", row)[0]))
        offset = self.end()
        self.data += (
            struct.pack(self.order + "H", len(rows)) + b"".join(rows) + struct.pack(self.order + "I", next_directory)
        )
        return offset
