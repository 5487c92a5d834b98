"""From bytes to text where the bytes do not say, or say wrongly, how they are encoded."""

from __future__ import annotations

import codecs

UNICODE, ASCII, JIS, UNDEFINED = b"UNICODE", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8)
MARKS = (  # UTF-32 first: its little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Ranges that prompts are written in: Latin to Thai, punctuation, kana and CJK, Hangul, full-width forms, emoji and rare
# CJK. What lies between turns up when the two bytes of a character are read the wrong way round.
WRITTEN = ((0x20, 0x7E), (0xA0, 0xEFF), (0x2010, 0x203A), (0x3001, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3))
ENOUGH = 8  # ASCII characters that are no chance
WRITTEN_TOO = ((0xFF01, 0xFFEE), (0x1F000, 0x1FAFF), (0x20000, 0x323AF))


def decode(data: bytes) -> str:
    """Text by its byte order mark, else UTF-16 if every other byte is about zero, else UTF-8, else what Windows editors
    write.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if 4 * data.count(0) > len(data):
        return _utf16(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def decode_latin(data: bytes) -> str:
    """Text that should be Latin-1, as in PNG's tEXt, but is UTF-8 in the files of several programs.

    Latin-1 text of more than ASCII is next to never valid UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode_comment(raw: bytes) -> str:
    """EXIF's UserComment by its 8-byte character code, up to the first NUL.

    UNICODE says neither its byte order nor, since Exif 3, that it is UTF-16 at all.
    """
    code, body = raw[:8], raw[8:]
    if code[:7].upper() == UNICODE:
        text = _unicode(body)
    elif code == JIS:
        text = body.decode("iso2022_jp", errors="replace")
    else:
        text = decode(body if code in (ASCII, UNDEFINED) else raw)
    return text.partition("\0")[0]


def _unicode(body: bytes) -> str:
    if any(body.startswith(mark) for mark, _ in MARKS):
        return decode(body)
    return body.decode("utf-8") if _is_utf8(body.rstrip(b"\0")) else _utf16(body)


def _is_utf8(body: bytes) -> bool:
    """Whether these bytes are UTF-8 and not UTF-16, in which Latin letters have a zero byte and others hardly ever form
    valid UTF-8.
    """
    if not body or b"\0" in body:
        return False
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if len(body) % 2 or " " in text or "\n" in text:
        return True
    if len(body) <= 4 and not text.isascii():  # one or two characters of either encoding
        return False
    return all(char.isalnum() or char in ",.:;()<>{}[]_-'\"!?/" for char in text)


def _utf16(body: bytes) -> str:
    """UTF-16 in the more likely byte order: the one with by far more ASCII, which any infotext is full of; without
    ASCII to speak of the one with more characters that people write. Big-endian, as web UIs write, where nothing tells.
    """
    if len(body) % 2 and body.endswith(b"\0"):
        body = body[:-1]
    big, little = (body.decode(f"utf-16-{order}", errors="replace").rstrip("\0") for order in ("be", "le"))
    ascii_big, ascii_little = _count_ascii(big), _count_ascii(little)
    if max(ascii_big, ascii_little) >= ENOUGH and not 1 / 3 < (ascii_big + 0.1) / (ascii_little + 0.1) < 3:
        return big if ascii_big > ascii_little else little
    return little if (_count_written(little), ascii_little) > (_count_written(big), ascii_big) else big


def _count_ascii(text: str) -> int:
    return sum(" " <= char <= "~" for char in text)


def _count_written(text: str) -> int:
    ranges = (*WRITTEN, *WRITTEN_TOO)
    return sum(char in "\n\r\t" or any(low <= ord(char) <= high for low, high in ranges) for char in text[:4096])
