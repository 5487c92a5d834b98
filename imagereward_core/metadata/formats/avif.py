"""AVIF (ISO/IEC 14496-12 boxes, 23008-12 items): the Exif item. The coded image is copied as it is.

This is written by hand because no library at hand does it: hosts pin a Pillow that cannot write AVIF, one that can
would encode the pixels again, and the tools that edit items in place are programs apart.

An Exif item that is there already is replaced where it lies if the new one fits, else it moves to a box of its own at
the end. A file without one gets an entry in three tables; everything behind them moves, so the offsets in `iloc` move
along.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import MetadataError
from ..limits import MOST_ITEMS, MOST_PARTS
from . import exif

BRANDS = (b"avif", b"avis")


def matches(data: bytes) -> bool:
    if data[4:8] != b"ftyp":
        return False
    stop = min(int.from_bytes(data[:4], "big"), len(data))
    return any(data[position : position + 4] in BRANDS for position in (8, *range(16, stop, 4)))


def read_text(data: bytes) -> str | None:
    """The UserComment of the Exif item."""
    tiff = _exif(data)
    return None if tiff is None else exif.read_comment(tiff)


def read_texts(data: bytes) -> dict[str, str]:
    """The texts of the Exif item by their places."""
    tiff = _exif(data)
    return {} if tiff is None else exif.read_texts(tiff)


def _exif(data: bytes) -> bytes | None:
    meta = _Meta(data)
    return None if meta.exif is None else meta.payload()[1]


def write_text(data: bytes, text: str) -> bytes:
    """Replace the Exif item or add one."""
    meta = _Meta(data)
    if meta.exif is None:
        return _added(
            meta, b"\0\0\0\0" + exif.with_comment(b"", text)
        )  # the offset of the TIFF header, then the TIFF block
    header, tiff = meta.payload()
    return _replaced(meta, header + exif.with_comment(tiff, text))


@dataclass(frozen=True)
class _Box:
    """A box in the file: `start` and `end` of the whole, `body` where its content begins."""

    kind: bytes
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class _Field:
    """An unsigned number in the file, big-endian; `size` in bytes, 0 where the format leaves it out."""

    offset: int
    size: int
    value: int


@dataclass(frozen=True)
class _Item:
    """Where an item's data lies: `base` plus the offset of each extent."""

    number: int
    method: int
    base: _Field
    extents: tuple[tuple[_Field, _Field], ...]


def _boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[_Box]:
    for _ in range(MOST_PARTS):
        if start >= end:
            return
        size, body = int.from_bytes(data[start : start + 4], "big"), start + 8
        if size == 1:
            size, body = int.from_bytes(data[start + 8 : start + 16], "big"), start + 16
        stop = end if size == 0 else start + size
        if stop > end or stop < body:
            raise MetadataError("the AVIF file is damaged or incomplete")
        yield _Box(bytes(data[start + 4 : start + 8]), start, body, stop)
        start = stop
    raise MetadataError(f"the AVIF file has more than {MOST_PARTS} boxes")


class _Meta:
    """The tables of the file that say which items there are and where they lie."""

    def __init__(self, data: bytes):
        self.data = data
        self.top = list(_boxes(data, 0, len(data)))
        metas = [box for box in self.top if box.kind == b"meta"]
        if len(metas) != 1:
            raise MetadataError("the AVIF file has no table of items")
        self.box = metas[0]
        self.children = list(_boxes(data, self.box.body + 4, self.box.end))
        self.types = dict(self._types())
        self.items = {item.number: item for item in self._locations()}
        self.exif = next((self.items.get(number) for number, kind in self.types.items() if kind == b"Exif"), None)

    def child(self, kind: bytes) -> _Box:
        found = [box for box in self.children if box.kind == kind]
        if len(found) != 1:
            raise MetadataError(f"the AVIF file has {len(found)} boxes {kind!r} where one is needed")
        return found[0]

    def number(self, offset: int, size: int) -> _Field:
        if offset + size > len(self.data):
            raise MetadataError("the AVIF file is damaged: a table runs past its end")
        return _Field(offset, size, int.from_bytes(self.data[offset : offset + size], "big"))

    def _types(self) -> Iterator[tuple[int, bytes]]:
        box = self.child(b"iinf")
        count_size = 4 if self.data[box.body] else 2
        for entry in _boxes(self.data, box.body + 4 + count_size, box.end):
            size = {2: 2, 3: 4}.get(self.data[entry.body])
            if size is not None:
                after = entry.body + 4 + size
                yield self.number(entry.body + 4, size).value, bytes(self.data[after + 2 : after + 6])

    def _locations(self) -> Iterator[_Item]:
        box = self.child(b"iloc")
        version, position = self.data[box.body], box.body + 4
        sizes = self.number(position, 2).value
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        if version == 0:
            index_size = 0
        wide = 4 if version == 2 else 2
        count = self.number(position + 2, wide).value
        position += 2 + wide
        pieces = 0
        for _ in range(count):
            number, position = self.number(position, wide).value, position + wide
            method = 0
            if version:
                method, position = self.number(position, 2).value & 15, position + 2
            base = self.number(position + 2, base_size)  # after the data reference index
            extent_count = self.number(position + 2 + base_size, 2).value
            position += 4 + base_size
            pieces += max(1, extent_count)
            if pieces > MOST_ITEMS:  # entries may take no room at all, so that the file's size sets no limit
                raise MetadataError(f"the AVIF file has more than {MOST_ITEMS} items or pieces of items")
            extents = []
            for _ in range(extent_count):
                offset = self.number(position + index_size, offset_size)
                length = self.number(position + index_size + offset_size, length_size)
                extents.append((offset, length))
                position += index_size + offset_size + length_size
            yield _Item(number, method, base, tuple(extents))

    def span(self) -> tuple[int, int]:
        """(offset, length) of the Exif item in the file."""
        item = self.exif
        if (
            item is None
            or item.method
            or len(item.extents) != 1
            or 0 in (item.extents[0][0].size, item.extents[0][1].size)
        ):
            raise MetadataError("the AVIF file stores its EXIF block in a way that cannot be replaced without loss")
        offset, length = item.extents[0]
        if item.base.value + offset.value + length.value > len(self.data):
            raise MetadataError("the AVIF file is incomplete: its EXIF block lies past its end")
        return item.base.value + offset.value, length.value

    def payload(self) -> tuple[bytes, bytes]:
        """(header up to the TIFF block, TIFF block) of the Exif item."""
        offset, length = self.span()
        start = 4 + self.number(offset, 4).value
        content = self.data[offset : offset + length]
        return content[:start], content[start:]


def _replaced(meta: _Meta, payload: bytes) -> bytes:
    data, (offset, length) = bytearray(meta.data), meta.span()
    last, item = meta.top[-1], meta.exif
    if len(payload) <= length:
        data[offset : offset + length] = payload + bytes(length - len(payload))
    else:
        if last.kind == b"mdat" and (last.body, last.end) == (offset, offset + length):
            del data[last.start :]  # our own box from an earlier time
        offset = _appended(data, payload, last)
    if item is not None:
        _set(data, item.extents[0][0], offset - item.base.value)
        _set(data, item.extents[0][1], len(payload))
    return bytes(data)


def _added(meta: _Meta, payload: bytes) -> bytes:
    """One entry more in `iinf`, `iloc` and `iref`; then every offset behind the tables is moved by what they grew."""
    if any(box.kind == b"moov" for box in meta.top):
        raise MetadataError("an AVIF sequence without EXIF cannot take a score")
    new = max([*meta.types, *meta.items], default=0) + 1
    primary_box = meta.child(b"pitm")
    primary = meta.number(primary_box.body + 4, 4 if meta.data[primary_box.body] else 2).value
    if new > 0xFFFF or primary > 0xFFFF:
        raise MetadataError("the AVIF file has too many items")
    parts = []
    for box in meta.children:
        content = bytearray(meta.data[box.body : box.end])
        if box.kind == b"iinf":
            _count_up(content, 4, 4 if content[0] else 2)
            content += _box(b"infe", b"\x02\0\0\0" + struct.pack(">HH", new, 0) + b"Exif\0")
        elif box.kind == b"iloc":
            content += _location(content, new, len(payload))
        elif box.kind == b"iref":
            content += _reference(new, primary, 4 if content[0] else 2)
        parts.append(_box(box.kind, bytes(content)))
    if not any(box.kind == b"iref" for box in meta.children):
        parts.append(_box(b"iref", bytes(4) + _reference(new, primary, 2)))
    tables = _box(b"meta", meta.data[meta.box.body : meta.box.body + 4] + b"".join(parts))
    grown = len(tables) - (meta.box.end - meta.box.start)
    data = bytearray(meta.data[: meta.box.start] + tables + meta.data[meta.box.end :])
    moved = _Meta(bytes(data))
    for item in moved.items.values():
        if item.method:
            continue  # its data lies in a box that is named, not at an offset in the file
        if item.base.size and item.base.value >= meta.box.end:
            _set(data, item.base, item.base.value + grown)
        else:
            for offset, _ in item.extents:
                if item.number != new and item.base.value + offset.value >= meta.box.end:
                    _set(data, offset, offset.value + grown)
    _set(data, moved.items[new].extents[0][0], _appended(data, payload, moved.top[-1]))
    return bytes(data)


def _location(content: bytearray, number: int, length: int) -> bytes:
    """Counts one item more in `content` (a whole `iloc`) and returns its entry, its offset still 0."""
    version, sizes = content[0], int.from_bytes(content[4:6], "big")
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    if offset_size not in (4, 8) or length_size not in (4, 8):
        raise MetadataError("the AVIF file's table of offsets has no room for another item")
    wide = 4 if version == 2 else 2
    _count_up(content, 6, wide)
    entry = number.to_bytes(wide, "big") + (b"\0\0" if version else b"") + b"\0\0" + bytes(base_size) + b"\0\1"
    return entry + bytes(index_size if version else 0) + bytes(offset_size) + length.to_bytes(length_size, "big")


def _reference(new: int, primary: int, size: int) -> bytes:
    """The Exif item describes (`cdsc`) the primary image."""
    return _box(b"cdsc", new.to_bytes(size, "big") + b"\0\1" + primary.to_bytes(size, "big"))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _appended(data: bytearray, payload: bytes, last: _Box) -> int:
    """Adds a box with the payload at the end of the file; returns the payload's offset."""
    if last.start < len(data) and not any(data[last.start : last.start + 4]):
        raise MetadataError("the AVIF file's last box has no length; nothing can be added behind it")
    offset = len(data) + 8
    data += _box(b"mdat", payload)
    return offset


def _count_up(content: bytearray, offset: int, size: int) -> None:
    content[offset : offset + size] = (int.from_bytes(content[offset : offset + size], "big") + 1).to_bytes(size, "big")


def _set(data: bytearray, field: _Field, value: int) -> None:
    if not 0 <= value < 1 << 8 * field.size:
        raise MetadataError("the AVIF file's table of offsets cannot hold the new place of its EXIF block")
    data[field.offset : field.offset + field.size] = value.to_bytes(field.size, "big")
