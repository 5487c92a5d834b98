"""Locks between processes. They live in the user's temporary folder, so that none lies about beside pictures."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from pathlib import Path

from filelock import FileLock


def lock_for(path: str | os.PathLike[str], timeout: float = -1) -> FileLock:
    """The lock that stands for this file or folder, whichever process asks and by whichever link it comes.

    `with lock_for(path, timeout=10):` waits at most ten seconds and then raises filelock.Timeout; -1 waits for ever.
    The operating system frees the lock when its process ends, however it ends.
    """
    real = os.path.normcase(os.path.realpath(path))
    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
    return FileLock(_folder() / f"{name}.lock", timeout=timeout)


def _folder() -> Path:
    """A folder of this user's own: locks in a shared one could be held, or planted, by others."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without an entry for this user
        user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    safe = hashlib.sha256(user.encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"imagereward-locks-{safe}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
