"""Which folders' pictures the tab shows and moves: the host's own output folders, and those that its settings name."""

from __future__ import annotations

import os
import stat
from typing import Any

from .. import host
from ..core import ConfigError
from ..core import module as core_module

BETWEEN = ";"


class Folders:
    """The known folders at one moment. `named` as the host or the user calls them, `real` with links followed."""

    def __init__(self, names: list[str]):
        self.named = tuple(dict.fromkeys(map(os.path.abspath, names)))
        self.real = tuple(dict.fromkeys(map(os.path.realpath, self.named)))
        self._parents: dict[str, str] = {}

    def holds(self, path: str) -> bool:
        """Whether a file is there, and lies below a known folder, links followed."""
        parent, name = os.path.split(path)
        try:
            linked = stat.S_ISLNK(os.lstat(path).st_mode)
        except (OSError, ValueError):  # ValueError: a name that can be none, with a NUL in it
            return False
        if linked:
            return self._below(os.path.realpath(path))
        if parent not in self._parents:  # thousands of pictures share their folder
            self._parents[parent] = os.path.realpath(parent)
        return self._below(os.path.join(self._parents[parent], name))

    def _below(self, real: str) -> bool:
        return any(real.startswith(folder.rstrip(os.sep) + os.sep) for folder in self.real)

    def inside(self, folder: str) -> str:
        """A known folder, or one below it, as a real path. It need not exist. Raises ConfigError for any other."""
        try:
            real = os.path.realpath(folder)
        except ValueError:  # a name that can be none, with a NUL in it
            real = ""
        if not os.path.isabs(folder) or not (real in self.real or self._below(real)):
            raise ConfigError(
                f"{folder!r} does not lie below the WebUI's output folders, nor below those that Settings > ImageReward"
                " names for the library tab"
            )
        return real

    def condition(self, where: Any, folder: str = "") -> Any:
        """The question `where`, and that the path begins with a known folder, or with `folder`. What a link hides is
        looked at when the picture is.
        """
        names = [self.inside(folder), folder] if folder else sorted({*self.real, *self.named})
        prefixes = list(dict.fromkeys(name.rstrip(os.sep) + os.sep for name in names))
        sql = " OR ".join("substr(CAST(i.path AS TEXT), 1, ?) = ?" for _ in prefixes) or "0"
        return where.and_(sql, *(value for prefix in prefixes for value in (len(prefix), prefix)))


def known() -> Folders:
    """The folders as host and settings name them now."""
    return Folders([*host.output_folders(), *host.more_folders()])


def listed(library: Any, folders: Folders) -> list[dict[str, Any]]:
    """Folders with pictures, and the known ones that exist: {"path", "name", "pictures"}."""
    counts = dict.fromkeys((folder for folder in folders.named if os.path.isdir(folder)), 0)
    where = folders.condition(core_module("library.conditions").EVERYTHING)
    sql = f"SELECT CAST(i.path AS TEXT) FROM images i WHERE i.missing = 0 AND ({where.sql})"
    for (path,) in library.query(sql, where.values):
        folder = os.path.dirname(path)
        counts[folder] = counts.get(folder, 0) + 1
    return [{"path": path, "name": short(path, folders), "pictures": count} for path, count in sorted(counts.items())]


def short(path: str, folders: Folders) -> str:
    """A folder as it is shown: below the known folder that holds it, beginning with that one's name."""
    for root in (*folders.named, *folders.real):
        if path == root or path.startswith(root.rstrip(os.sep) + os.sep):
            return os.path.join(os.path.basename(root), os.path.relpath(path, root)).removesuffix(os.sep + ".")
    return path


def target(root: str, name: str, folders: Folders) -> str:
    """The folder `name` below the known folder `root`, made if there is none. Raises ConfigError."""
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    if any(part in (".", "..") or ":" in part or "\0" in part or part != part.strip() for part in parts):
        raise ConfigError(f"{name!r} is no name of a folder: no . or .., no colon, no blanks at either end")
    folders.inside(root)
    wanted = folders.inside(os.path.join(root, *parts))
    try:
        os.makedirs(wanted, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {wanted}: {error.strerror or error}") from error
    return folders.inside(wanted)
