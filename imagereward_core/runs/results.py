"""What a run needs at its end, checked at its beginning: a name that every system takes, a place, and room."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from .. import atomic
from .errors import RunUnwritable

MAX_NAME = 200  # bytes; file systems end at 255, and suffixes are to come
FORBIDDEN = '<>:"/\\|?*'
# Devices of Windows, whatever the suffix: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
RESERVE = 64 << 20  # bytes left on the disk for the log, the pictures and the system


def check_name(name: str) -> str:
    """Why this is no file name for a result, in words that follow it; empty if it is one on every system."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate), which no file name can"
    if not name:
        return "is empty"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "holds a control character"
    found = [letter for letter in FORBIDDEN if letter in name]
    if found:
        return f"must be a file name without folders and without {' '.join(found)}"
    if name.strip(". ") == "":
        return "is no file name"
    if name != name.strip() or name.endswith("."):
        return "must not begin or end with a blank nor end with a dot: Windows drops them"
    if RESERVED.fullmatch(name.split(".")[0].rstrip()):
        return "is the name of a device in Windows"
    if size > MAX_NAME:
        return f"is {size} bytes long; file systems take {MAX_NAME}"
    return ""


def derived_name(stem: str, ending: str = "-refl") -> str:
    """A name for the result of a checkpoint called `stem`: what no file name may hold is replaced, what is too long
    cut.
    """
    text = "".join("_" if letter in FORBIDDEN or ord(letter) < 32 or ord(letter) == 127 else letter for letter in stem)
    room = MAX_NAME - len(ending.encode()) - 6  # and a number
    short = text.encode("utf-8", errors="ignore")[:room].decode("utf-8", errors="ignore").strip() or "model"
    return short + ending if not check_name(short + ending) else f"model{ending}"


def free_name(stem: str, taken: Callable[[str], bool]) -> str:
    """The stem, or the first of stem-2, stem-3 … that is not taken."""
    name, number = stem, 1
    while taken(name):
        number += 1
        name = f"{stem}-{number}"
    return name


def taken_names(folder: Path, reserved: Collection[str] = (), suffix: str = ".safetensors") -> Callable[[str], bool]:
    """Tells whether a result of this name exists in the folder, or is promised to a run that has not ended.

    Letter case makes no difference: on Windows and macOS it would be the same file.
    """
    promised = {name.casefold() for name in reserved}
    try:
        there = {entry.name.casefold() for entry in os.scandir(folder)}
    except OSError:
        there = set()

    def taken(name: str) -> bool:
        return name.casefold() in promised or (name + suffix).casefold() in there

    return taken


def check_writable(folder: str | os.PathLike[str], what: str) -> None:
    """Make the folder and write a byte into it; RunUnwritable says what cannot be written there."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path / ".imagereward-write-test") as temporary:
            temporary.write_bytes(b"0")
        (path / ".imagereward-write-test").unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise RunUnwritable(f"{what} cannot be written in {os.fspath(folder)!r}: {error}") from error


def bytes_free(folder: str | os.PathLike[str]) -> int:
    """Free bytes for this user on the disk of a folder that may not exist yet."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def check_space(needs: Collection[tuple[str | os.PathLike[str], int, str]]) -> None:
    """RunUnwritable unless every disk has room for what is to be written there: (folder, bytes, what it is)."""
    by_disk: dict[int, list[tuple[str | os.PathLike[str], int, str]]] = {}
    for need in needs:
        by_disk.setdefault(_disk(need[0]), []).append(need)
    for parts in by_disk.values():
        total, free = sum(size for _, size, _ in parts) + RESERVE, bytes_free(parts[0][0])
        if free < total:
            listed = ", ".join(f"{_size(size)} for {what}" for _, size, what in parts)
            raise RunUnwritable(
                f"the disk of {os.fspath(parts[0][0])} has {_size(free)} free, and this run needs {_size(total)}:"
                f" {listed}, and {_size(RESERVE)} to spare"
            )


def _disk(folder: str | os.PathLike[str]) -> int:
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.stat().st_dev


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
