"""Bytes from a server to a verified file: resumed after a break, checked, and renamed into place only when all is well.

The target either does not exist, or is a complete file; a good file that is there is never touched by a download that
fails.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import requests
from filelock import FileLock, Timeout

from ..errors import DownloadError
from ..hashing import file_digest
from ..log import logger
from ..progress import Progress
from .hub import DELAYS, Remote, refusal, transient

Check = Callable[[Path], str]  # what is wrong with a complete file, or ""
CHUNK = 1 << 16  # bytes; what is lost at most when a connection breaks
PROGRESS = 1 << 20  # bytes; a try that brings as many is no failure, however it ended
TIMEOUT = (15, 60)  # seconds to connect, and without a byte
SPARE = 64 * 1024 * 1024  # bytes that stay free on the disk


class _Broken(Exception):
    """A break that another request may mend."""


def ask(url: str, size: int | None = None, sha256: str | None = None) -> Remote:
    """What a plain web server says of a file; what we know ourselves comes first. Raises DownloadError."""
    try:
        response = requests.head(url, headers={"Accept-Encoding": "identity"}, allow_redirects=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be reached ({type(error).__name__}: {error})") from error
    headers = response.headers if response.ok else {}  # some servers answer GET only
    if response.status_code in (401, 403, 404, 410):
        raise DownloadError(refusal(response.status_code, url))
    length = headers.get("Content-Length", "")
    digest = ("sha256", sha256) if sha256 else _google_md5(headers.get("x-goog-hash", ""))
    return Remote(
        url,
        size or (int(length) if length.isdigit() else None),
        digest,
        headers.get("ETag") or headers.get("Last-Modified") or "",
    )


def _google_md5(text: str) -> tuple[str, str] | None:
    """Google Cloud Storage announces `crc32c=…,md5=…` in base64."""
    found = re.search(r"md5=([A-Za-z0-9+/]{22}==)", text)
    return ("md5", base64.b64decode(found[1]).hex()) if found else None


def download(remote: Remote, target: Path, *, progress: Progress | None = None, check: Check = lambda path: "") -> Path:
    """Fetch `remote` to `target`. `check` has the last word on the complete file before it takes its name.

    What arrived stays in `<target>.<version>.part` after a break, a full disk or an exception of `progress` (that is
    how to cancel), and the next call goes on from there. One process at a time downloads; others wait and use its
    result. Raises DownloadError.
    """
    version = hashlib.sha256((remote.tag or remote.url).encode()).hexdigest()[:8]
    part = target.with_name(f"{target.name}.{version}.part")
    lock = FileLock(os.fspath(target.with_name(f".{target.name}.lock")))
    with _writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    _wait_for(lock, part, remote.size, progress)
    try:
        if _complete(target, remote, check):
            return target
        for again in (True, False):
            resumed = _size(part) > 0
            _receive(remote, part, progress)
            problem = " and ".join(filter(None, (_verify(part, remote), check(part))))
            if not problem:
                break
            part.unlink()
            if not (again and resumed):
                raise DownloadError(f"{remote.url} gave a file that {problem}; it was thrown away")
            logger.warning("the resumed download of %s %s; starting over", target.name, problem)
        _replace(part, target)
        for old in target.parent.glob(
            f"{_escaped(target.name)}.????????.part"
        ):  # of versions nobody will ask for again
            old.unlink(missing_ok=True)
        return target
    finally:
        lock.release()


def _wait_for(lock: FileLock, part: Path, total: int | None, progress: Progress | None) -> None:
    told = False
    while True:
        try:
            with _writing(part.parent):
                lock.acquire(timeout=0 if not told else 0.5)
            return
        except Timeout:
            if not told:
                logger.info("another process is downloading %s; waiting for it", part.name)
            told = True
            if progress:
                progress(_size(part), total)


def _complete(target: Path, remote: Remote, check: Check) -> bool:
    return target.is_file() and remote.size in (None, _size(target)) and not check(target)


def _receive(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Fill `part` to its full size, asking again after breaks as long as that brings bytes."""
    failures = 0
    while remote.size is None or _size(part) < remote.size:
        before = _size(part)
        try:
            _transfer(remote, part, progress)
            return
        except (_Broken, requests.RequestException) as error:
            failures = failures + 1 if _size(part) < before + PROGRESS else 0
            if failures > len(DELAYS):
                had = f"{_size(part)} of {remote.size or 'unknown'} bytes are here and will not be asked for again"
                raise DownloadError(f"{remote.url} broke off {failures} times ({error}); {had}") from error
            logger.info("%s broke off (%s); asking again", remote.url, error)
            time.sleep(DELAYS[max(failures - 1, 0)])


def _transfer(remote: Remote, part: Path, progress: Progress | None) -> None:
    """One request. Returns when the whole file is there; raises _Broken when it is not."""
    start = _size(part)
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416 or (
            status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        ):
            part.unlink(missing_ok=True)
            raise _Broken(f"the server cannot go on from byte {start}")
        if transient(status):
            raise _Broken(f"the server answers {status}")
        if not response.ok:
            raise DownloadError(refusal(status, remote.url))
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(
                f"{remote.url} answers with a web page instead of the file, as a login page or a proxy does"
            )
        done = start if status == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = remote.size if remote.size is not None else done + int(length) if length.isdigit() else None
        _require_space(part.parent, (total or 0) - done)
        with open(part, "ab" if done else "wb", buffering=0) as file:
            for chunk in response.iter_content(CHUNK):
                with _writing(part):
                    _write(file, chunk)
                done += len(chunk)
                if total is not None and done > total:
                    break  # the size check says so
                if progress:
                    progress(done, total)
            with _writing(part):
                os.fsync(file.fileno())
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _write(file: FileIO, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[file.write(chunk) :]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say what the disk refused."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        why = (
            "the disk is full; what arrived is kept and the next try goes on from there"
            if error.errno == errno.ENOSPC
            else error.strerror or error
        )
        raise DownloadError(f"{path} cannot be written to: {why}") from error


def _require_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE:
        raise DownloadError(
            f"{folder} has {free / 1e9:.2f} GB free and {(wanted + SPARE) / 1e9:.2f} GB are needed; free some, or"
            " choose another download_root"
        )


def _verify(path: Path, remote: Remote) -> str:
    if remote.size is not None and _size(path) != remote.size:
        return f"has {_size(path)} bytes where {remote.size} were announced"
    if remote.digest:
        algorithm, wanted = remote.digest
        found = file_digest(path, algorithm)
        if found != wanted:
            return f"has {algorithm} {found} where {wanted} was announced"
    return ""


def _replace(part: Path, target: Path) -> None:
    try:
        os.replace(part, target)
    except OSError as error:
        raise DownloadError(
            f"{target} could not be put in place ({error.strerror or error}); close the programs that use it and try"
            " again"
        ) from error
    if os.name == "posix":  # so that the name survives a power cut, too
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
