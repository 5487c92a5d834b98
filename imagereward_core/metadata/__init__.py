"""Scores and prompts in image files: read, and written without re-encoding, in one atomic step.

The text is AUTOMATIC1111's infotext (see `infotext`), in the PNG chunk `parameters` or the EXIF UserComment of JPEG,
WebP and AVIF. Prompts are also read from a text file beside the image (`cat.png` and `cat.txt`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import MetadataError
from .formats import read_text, write_text
from .infotext import StoredScore, get_score, parse_infotext, with_score


@dataclass(frozen=True)
class FoundPrompt:
    """A prompt and where it was found: "infotext" (in the image) or "text file". `text` is as written, with its
    syntax.
    """

    text: str
    source: str


def read_infotext(path: str | os.PathLike[str]) -> str | None:
    """The infotext in an image file, None if it has none. Raises MetadataError naming the file if it is damaged."""
    return _text_of(_read(Path(path)), path)


def read_prompt(path: str | os.PathLike[str]) -> FoundPrompt | None:
    """The prompt an image was made from: of its infotext, else of the text file beside it, None if there is neither."""
    text = read_infotext(path)
    if text and text.strip():
        return FoundPrompt(_prompt_of(text), "infotext")
    beside = Path(path).with_suffix(".txt")
    if beside.is_file():
        return FoundPrompt(_prompt_of(_decode(_read(beside)).replace("\r\n", "\n")), "text file")
    return None


def read_score(path: str | os.PathLike[str], key: str = "ImageReward") -> StoredScore | None:
    """The score kept in an image file under `key`, None if there is none."""
    return get_score(read_infotext(path) or "", key)


def write_score(path: str | os.PathLike[str], score: StoredScore) -> None:
    """Put a score into an image file, in place of an older one of the same key.

    Pixels and all other metadata stay byte for byte. The new file replaces the old one in one step, so that no crash
    leaves half an image; it keeps the old one's permissions and times, by which galleries sort. A link stays a link to
    the file. Raises MetadataError, and leaves the file alone, if it is of another format, damaged, write-protected, or
    changed meanwhile.
    """
    target = Path(os.path.realpath(path))
    data = _read(target)
    before = target.stat()
    if not os.access(target, os.W_OK):
        raise MetadataError(f"{path} is write-protected")
    try:
        text = read_text(data) or ""
        new = write_text(data, with_score(text, score, _size(target)))
    except MetadataError as error:
        raise MetadataError(f"cannot write the score into {path}: {error}") from error
    if new != data:
        _replace(target, new, before)


def _text_of(data: bytes, path: str | os.PathLike[str]) -> str | None:
    try:
        return read_text(data)
    except MetadataError as error:
        raise MetadataError(f"cannot read the metadata of {path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MetadataError(f"cannot read {path}: {error.strerror or error}") from error


def _decode(data: bytes) -> str:
    """Text files are UTF-8, or else what Windows editors write."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _prompt_of(text: str) -> str:
    """The prompt of an infotext or of the JSON that Fooocus keeps in the same place."""
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict) and isinstance(data.get("prompt"), str):
            return str(data["prompt"])
    return parse_infotext(text).prompt


def _size(path: Path) -> tuple[int, int] | None:
    """(width, height) from the file's header, None where this Pillow does not know the format."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _replace(target: Path, data: bytes, before: os.stat_result) -> None:
    """Write beside the target, flush to disk, rename over it."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".imagereward-", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, temporary)
        os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
        now = target.stat()
        if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
            raise MetadataError(f"{target} was changed by another program meanwhile; its new content was kept")
        os.replace(temporary, target)
        temporary = ""
    except OSError as error:
        raise MetadataError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
