"""Which files are images, and which images a name, a folder or a pattern stands for."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

# Every format that is opened here, by Pillow's name of it: the suffixes of its files.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
GRID_FILE = re.compile(r"(xyz?_)?grid-|prompt_matrix-", re.IGNORECASE)  # as web UIs name contact sheets
GRID_FOLDER = re.compile(r".+-grids", re.IGNORECASE)  # txt2img-grids, img2img-grids


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is an image by its suffix; hidden files are none."""
    path = PurePath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_grid(path: str | os.PathLike[str]) -> bool:
    """Whether this is a contact sheet by its name or its folder's: no picture of any one prompt."""
    path = PurePath(path)
    return bool(GRID_FILE.match(path.name)) or any(GRID_FOLDER.fullmatch(part) for part in path.parts[:-1])


def find_images(
    names: Iterable[str | os.PathLike[str]],
    recursive: bool = False,
    *,
    exclude: Sequence[str] = (),
    grids: bool = False,
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Files, folders' images (those below them too if `recursive`) and glob patterns, each file once, in the order
    given, those of a folder in natural order.

    A name that matches nothing is returned as it is, so that scoring reports it. Linked folders are followed, each
    folder once. exclude: patterns of names, of folders on the way, or of whole paths. Grids (contact sheets) are left
    out unless `grids`, or unless the name itself asks for them. `note` is told what is left out, a line each.
    """
    search = _Search(recursive, tuple(exclude), grids)
    found: dict[str, Path] = {}
    for name in names:
        for path in search.expanded(os.fspath(name)):
            found.setdefault(os.path.normcase(os.path.abspath(path)), path)
    if note:
        for line in search.notes():
            note(line)
    return list(found.values())


@dataclass
class _Search:
    recursive: bool
    exclude: tuple[str, ...]
    grids: bool
    skipped: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def expanded(self, name: str) -> list[Path]:
        """The files that one name stands for."""
        if os.path.isdir(name):
            wanted = self.grids or is_grid(PurePath(os.path.abspath(name), "x"))
            return sorted(self._kept(self._walk(name), Path(name), wanted), key=natural)
        if not os.path.lexists(name) and glob.has_magic(name):
            matches = [Path(match) for match in matching(name) if not os.path.isdir(match)]
            wanted = self.grids or is_grid(name)
            return sorted(self._kept(matches, Path(), wanted), key=natural) if matches else [Path(name)]
        return [] if self._left_out(Path(name), Path(name)) else [Path(name)]

    def _kept(self, paths: Iterable[Path], root: Path, grids: bool) -> Iterator[Path]:
        for path in paths:
            inside = path.relative_to(root) if root.parts and path.is_relative_to(root) else path
            if self._left_out(path, inside):
                continue
            if not grids and is_grid(inside):
                self.skipped["grids"] += 1
            elif os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
                self.lines.append(f"{path} is no regular file (a pipe, socket or device): skipped")
            else:
                yield path

    def _left_out(self, path: Path, inside: Path) -> bool:
        """Whether a pattern of --exclude fits the file, a folder on the way to it, or its path."""
        subjects = (*inside.parts, inside.as_posix(), path.as_posix())
        excluded = any(
            subject == pattern or fnmatch.fnmatch(subject, pattern) for pattern in self.exclude for subject in subjects
        )
        self.skipped["exclude"] += excluded
        return excluded

    def _walk(self, root: str) -> Iterator[Path]:
        """Images in a folder, and below it if asked. Links to folders come last, so that a folder is met under its own
        name first; none is entered twice, which also ends circles.
        """
        seen: set[str] = set()
        folders, links = [root], list[str]()
        while folders or links:
            linked = not folders
            folder = links.pop(0) if linked else folders.pop(0)
            real = os.path.normcase(os.path.realpath(folder))
            if real in seen:
                self.lines.append(f"{folder} leads to a folder that was already looked through: not entered again")
                continue
            seen.add(real)
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self.lines.append(f"cannot look into {folder}: {error.strerror or error}")
                continue
            for entry in entries:
                if not _is_folder(entry):
                    if is_image_name(entry.name):
                        yield Path(folder, entry.name)
                elif self.recursive:
                    (links if entry.is_symlink() else folders).append(os.path.join(folder, entry.name))

    def notes(self) -> list[str]:
        """What was left out, for people."""
        told = list(dict.fromkeys(self.lines))
        if count := self.skipped["grids"]:
            told.append(f"{count} grid{'s' * (count > 1)} left out; --include-grids takes them too")
        if count := self.skipped["exclude"]:
            told.append(f"{count} image{'s' * (count > 1)} left out by --exclude")
        return told


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def matching(pattern: str) -> list[str]:
    """What a glob pattern stands for. A part of it that exists as it is written is taken so: `out [v2]/*.png`."""
    return _matching("", PurePath(pattern).parts)


def _matching(base: str, parts: Sequence[str]) -> list[str]:
    if not parts:
        return [base]
    head, rest = parts[0], parts[1:]
    literal = os.path.join(base, head)
    if head == "**":
        folders = [base, *_folders_below(base)]
        return [found for folder in folders for found in _matching(folder, rest or ("*",))]
    if os.path.lexists(literal) or not glob.has_magic(head):
        return _matching(literal, rest) if os.path.lexists(literal) else []
    steps = sorted(glob.glob(os.path.join(glob.escape(base), head)))
    return [found for step in steps for found in _matching(step, rest)]


def _folders_below(base: str) -> list[str]:
    """All folders below this one that are not hidden, linked ones too, each once."""
    seen, found, waiting = {os.path.realpath(base or ".")}, [], [base]
    while waiting:
        folder = waiting.pop(0)
        for name in sorted(glob.glob(os.path.join(glob.escape(folder), "*", ""))):
            path = name.rstrip(os.sep + (os.altsep or ""))
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                found.append(path)
                waiting.append(path)
    return found


def natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", os.fspath(path).casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
