"""The one way this project writes a file that others may be reading: whole, or not at all.

    with replacing(path) as temporary:
        temporary.write_bytes(data)

The temporary file lies beside its target, so that the last step is a rename within one file system. A process that is
killed leaves a `.imagereward-…tmp` behind; the next write into that folder removes it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TRIES, PAUSE = 20, 0.05  # on Windows a reader that has the file open makes a rename fail for a moment
LEFTOVER = re.compile(r"\.imagereward-(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
AGE = 3600.0  # seconds after which a leftover counts as one even where process ids say nothing
_tidied: set[str] = set()  # folders looked through by this process


@contextmanager
def replacing(target: str | os.PathLike[str], *, durable: bool = False, mode: int | None = None) -> Iterator[Path]:
    """A path beside `target` to write a file at; it takes the target's place at the end of the block, and is removed
    if the block raises.

    durable: the bytes have reached the disk before the old file goes. mode: permissions; default those of any new file
    here, whatever the writer gave its own (safetensors: the owner's alone).
    Raises OSError as the operating system does; the target is then as it was.
    """
    target = Path(target)
    _tidy(target.parent)
    temporary = target.parent / f".imagereward-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    usual = _new_mode(temporary) if mode is None else mode
    try:
        yield temporary
        if usual is not None:
            os.chmod(temporary, usual)
        if durable:
            sync(temporary)
        replace(temporary, target)
        if durable:
            _sync_folder(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _new_mode(path: Path) -> int | None:
    """The permissions that a new file gets at `path`, by the process's umask and the folder's rules; None where there
    are no such permissions.
    """
    if os.name != "posix":
        return None
    path.touch(exist_ok=False)
    try:
        return stat.S_IMODE(path.stat().st_mode)
    finally:
        path.unlink()


def replace(source: Path, target: Path) -> None:
    """`os.replace`, patient with Windows, where a reader that has the target open makes it fail for a moment."""
    for attempt in range(TRIES):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == TRIES - 1:
                raise
            time.sleep(PAUSE)


def write_bytes(target: str | os.PathLike[str], data: bytes, **options: Any) -> None:
    """Replace a file by these bytes; options are those of `replacing`."""
    with replacing(target, **options) as temporary:
        temporary.write_bytes(data)


def write_text(target: str | os.PathLike[str], text: str, **options: Any) -> None:
    """Replace a file by this text as UTF-8, line breaks as they are."""
    write_bytes(target, text.encode("utf-8"), **options)


def write_json(target: str | os.PathLike[str], data: Any, *, indent: int | None = None, **options: Any) -> None:
    """Replace a file by this value as JSON. ValueError for NaN and infinity, which JSON has not."""
    write_text(target, json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", **options)


def sync(path: Path) -> None:
    """Wait until the file's bytes have reached the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and its entry is written with the file
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tidy(folder: Path) -> None:
    """Remove what killed writers left in this folder; once per process and folder, as it reads the whole folder."""
    if os.fspath(folder) in _tidied:
        return
    _tidied.add(os.fspath(folder))
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = LEFTOVER.fullmatch(entry.name)
            if found and _abandoned(entry, int(found["pid"])):
                with suppress(OSError):
                    remove = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink
                    remove(entry.path)


def _abandoned(entry: os.DirEntry[str], pid: int) -> bool:
    """Whether nobody can be writing this any more: its process is gone, or it was last touched long ago."""
    if time.time() - entry.stat(follow_symlinks=False).st_mtime > AGE:
        return True
    return os.name == "posix" and pid != os.getpid() and not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks; on Windows it would end the process, so it is never asked there
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def replacing_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder beside `target` to fill; at the end of the block it takes the target's place.

    A folder cannot replace another in one step: the old one is renamed, the new one takes its name, the old one goes. A
    process killed between the two renames leaves the old folder under a `.imagereward-…tmp` name.
    """
    target = Path(target)
    _tidy(target.parent)
    temporary, old = (target.parent / f".imagereward-{os.getpid()}-{secrets.token_hex(4)}.tmp" for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            replace(target, old)
        try:
            replace(temporary, target)
        except BaseException:
            if old.exists():
                replace(old, target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
