"""A score goes into an image file: read, changed and replaced as one step that no other writer comes between."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from filelock import Timeout

from .. import atomic
from ..errors import ImageError, MetadataError
from ..locks import lock_for
from ..log import logger
from ..preprocess import image_size
from .files import read_image_as_it_is
from .formats import places, read_text, read_texts, write_text
from .found import TEXT_FILE, FoundPrompt, NoPrompt
from .infotext import StoredScore, with_score
from .own_words import own_words
from .prompt import prompt_among

PATIENCE = 60.0  # seconds to wait for another writer of the same file


def write_score(path: str | os.PathLike[str], score: StoredScore) -> None:
    """Put a score into an image file, in place of an older one of the same key.

    Pixels and all other metadata stay byte for byte, and so does the prompt (`prompt_of`); an image without any takes
    the score's. The new file replaces the old one in one step, so that no crash leaves half an image; it keeps
    the old one's owner, permissions, extended attributes and times, by which galleries sort. What cannot be kept is
    logged. A link stays a link to the file. Two writers of one file wait for each other.

    Raises MetadataError, and leaves the file alone, if it is of another format, damaged, write-protected, known under
    several names (hard links), or changed meanwhile by a program that does not wait.
    """
    try:
        target = Path(os.path.realpath(path))
        with lock_for(target, timeout=PATIENCE):
            _write(path, target, score)
    except Timeout as error:
        raise MetadataError(
            f"{path} is being written by another process for more than {PATIENCE:.0f} s; its score was not added"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, MetadataError):
            raise
        raise MetadataError(f"cannot write {os.fspath(path)!r}: {getattr(error, 'strerror', None) or error}") from error


def _write(path: str | os.PathLike[str], target: Path, score: StoredScore) -> None:
    data, before = read_image_as_it_is(target)
    if not os.access(target, os.W_OK):
        raise MetadataError(f"{path} is write-protected")
    try:
        new = write_text(data, _with_score(data, path, score))
    except MetadataError as error:
        raise MetadataError(f"cannot write the score into {path}: {error}") from error
    if new == data:
        return
    if before.st_nlink > 1:
        raise MetadataError(
            f"{path} has {before.st_nlink} names (hard links), of which only this one would get the score: make it a"
            " file of its own first, by copying it"
        )
    _replace(target, new, before)


def _with_score(data: bytes, path: str | os.PathLike[str], score: StoredScore) -> str:
    """The infotext to write. Where the prompt stands elsewhere, an infotext with another one would hide it; that of the
    text file beside the image may be repeated in it.
    """
    texts = read_texts(data)
    text = read_text(data) or ""
    comment = texts.get(places.COMMENT, "")
    if not text.strip() and own_words(comment).settings:
        text = comment
    try:
        size = image_size(path)
    except ImageError:
        size = None
    found = prompt_among(texts, path)
    captioned = isinstance(found, FoundPrompt) and found.source == TEXT_FILE and found.words == score.prompt
    return with_score(text, score, size, takes_prompt=captioned or found == NoPrompt())


def _replace(target: Path, data: bytes, before: os.stat_result) -> None:
    with atomic.replacing(target, durable=True, mode=stat.S_IMODE(before.st_mode)) as temporary:
        temporary.write_bytes(data)
        _keep(target, temporary, before)
        atomic.sync(temporary)  # it may take long; what is compared below must hold at the last moment
        if _identity(target.stat()) != _identity(before):
            raise MetadataError(f"{target} was changed by another program meanwhile; its new content was kept")


def _identity(state: os.stat_result) -> tuple[int, ...]:
    """What no write of anybody's leaves equal. Our own gives the old time of change back, and may keep the size."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _keep(target: Path, temporary: Path, before: os.stat_result) -> None:
    """Owner, permissions, times and extended attributes of the old file for the new one."""
    if hasattr(os, "chown"):
        mine = temporary.stat()
        if (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
            try:
                os.chown(temporary, before.st_uid, before.st_gid)
            except OSError as error:
                logger.warning("%s: its owner could not be kept (%s); it is yours now", target, error.strerror)
    shutil.copystat(target, temporary)
    if hasattr(os, "listxattr"):
        lost = sorted(set(os.listxattr(target)) - set(os.listxattr(temporary)))
        if lost:
            logger.warning("%s: extended attributes that could not be kept: %s", target, ", ".join(lost))
    os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
