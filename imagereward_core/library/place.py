"""Where the library lies, and how SQLite may keep its journal there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

FILE_NAME = "imagereward-library.sqlite"
VARIABLE = "IMAGEREWARD_LIBRARY"
COMPANIONS = ("-wal", "-shm", "-journal")  # what SQLite keeps beside its file
TASTES = "imagereward-tastes"  # fitted tastes, in the library's folder
THUMBNAILS = "imagereward-library-thumbnails"  # the tab's cache, in the library's folder
_settled: Path | None = None
# File systems that are served by another machine, or by the host of a virtual one: shared memory between processes,
# which SQLite's WAL needs, does not work across them.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb(fs|\d)?|afpfs|webdav|davfs\d?|ncpfs|afs|ceph|glusterfs|lustre|beegfs"
    r"|9p|v9fs|drvfs|vboxsf|prl_fs|vmhgfs|virtiofs|osxfuse|macfuse"
    r"|(fuse\.)?(sshfs|davfs2|rclone|s3fs|glusterfs|vmhgfs-fuse|osxfs|grpcfuse|gvfsd-fuse)"
)


def data_folder(platform: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """This user's folder for programs' data: %LOCALAPPDATA%, ~/Library/Application Support, or XDG_DATA_HOME."""
    home = Path(environ.get("USERPROFILE" if platform == "win32" else "HOME") or Path.home())
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "ImageReward"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "ImageReward"
    named = environ.get("XDG_DATA_HOME", "")
    return (Path(named) if os.path.isabs(named) else home / ".local" / "share") / "imagereward"


def settle(place: str | os.PathLike[str] | None) -> None:
    """Where this process has its library unless a call or IMAGEREWARD_LIBRARY names another: a host has a folder of its
    own for data. None: the user's data folder again.
    """
    global _settled
    _settled = None if place is None else Path(place)


def library_place(named: str | os.PathLike[str] | None = None) -> Path:
    """The library's file: the one named (a folder stands for the file in it), else IMAGEREWARD_LIBRARY, else where this
    process settled, else the user's data folder.
    """
    chosen = named or os.environ.get(VARIABLE)
    if not chosen:
        return _settled or data_folder() / FILE_NAME
    path = Path(chosen).expanduser()
    return Path(os.path.abspath(path / FILE_NAME if path.is_dir() else path))


def thumbnails_folder(place: str | os.PathLike[str]) -> Path:
    """Where thumbnails of this library's pictures are cached; deleted with it."""
    return Path(place).parent / THUMBNAILS


def tastes_folder(place: str | os.PathLike[str]) -> Path:
    """Where tastes that were learnt from this library's duels lie; deleted with it."""
    return Path(place).parent / TASTES


def on_network_drive(
    path: str | os.PathLike[str], platform: str = sys.platform, mounts: str | None = None
) -> str | None:
    """The name of the network file system a path lies on, None on a local one. `mounts`: the system's table of mounts,
    as /proc/self/mounts or `mount` print it (read here by default).
    """
    real = os.path.realpath(path)
    if platform == "win32":
        return _windows_drive(real)
    if mounts is None:
        mounts = _mounts(platform)
    best, kind = "", ""
    for line in mounts.splitlines():
        where, found = _mount(line)
        if where and len(where) >= len(best) and (real == where or real.startswith(where.rstrip("/") + "/")):
            best, kind = where, found
    return kind if NETWORK.fullmatch(kind) else None


def _mount(line: str) -> tuple[str, str]:
    """(folder, file system) of "source folder type options …" (Linux) or "source on folder (type, …)" (macOS)."""
    apple = re.fullmatch(r".+? on (.+) \(([\w.-]+).*\)", line)
    if apple:
        return apple[1], apple[2]
    words = line.split(" ")
    if len(words) < 3:
        return "", ""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), words[1]), words[2]


def _mounts(platform: str) -> str:
    if platform == "darwin":
        import subprocess

        try:
            return subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=False).stdout
        except (OSError, subprocess.SubprocessError):
            return ""
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _windows_drive(real: str) -> str | None:
    if real.startswith("\\\\") and not real.startswith("\\\\?\\"):
        return "a network share"
    import ctypes

    loader = getattr(ctypes, "windll", None)
    drive = os.path.splitdrive(real)[0]
    remote = 4  # DRIVE_REMOTE
    if loader is not None and loader.kernel32.GetDriveTypeW(drive + "\\") == remote:
        return "a network drive"
    return None
