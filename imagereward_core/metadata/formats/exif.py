"""EXIF (a TIFF structure): the UserComment, where web UIs keep infotext in every format but PNG.

Nothing that is there moves: maker notes hold absolute offsets that nobody can correct. What is new goes to the end, and
directories that need one more entry are copied there.
"""

from __future__ import annotations

import struct

from ...errors import MetadataError

PREFIX = b"Exif\0\0"
USER_COMMENT, EXIF_DIRECTORY = 0x9286, 0x8769
LONG, UNDEFINED, IFD = 4, 7, 13


def read_comment(tiff: bytes) -> str | None:
    """The UserComment, None if there is none."""
    entry = _Tiff(tiff).comment()
    if entry is None:
        return None
    offset, length = entry
    text = _decode(tiff[offset : offset + length])
    return text or None


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

    def comment(self) -> tuple[int, int] | None:
        """(offset, length in bytes) of the UserComment."""
        entry = None if self.exif is None else self.find(self.exif, USER_COMMENT)
        if entry is None:
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
            offset = self.room(self.comment() or (0, 0), len(payload))
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


def _decode(raw: bytes) -> str:
    """Text by its 8-byte character code. UNICODE does not say its byte order: the reading with more ASCII wins."""
    code, body = raw[:8], raw[8:]
    if code == b"UNICODE\0":
        if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return body.decode("utf-16", errors="replace").rstrip("\0")
        big, little = (body.decode(f"utf-16-{order}", errors="replace").rstrip("\0") for order in ("be", "le"))
        return little if _ascii(little) > _ascii(big) else big
    if code in (b"ASCII\0\0\0", b"\0" * 8):
        return body.decode("utf-8", errors="replace").rstrip("\0")
    if code == b"JIS\0\0\0\0\0":
        return body.decode("iso2022_jp", errors="replace").rstrip("\0")
    return raw.decode("utf-8", errors="replace").rstrip("\0")


def _ascii(text: str) -> int:
    return sum(" " <= char <= "~" for char in text)
