"""Bytes from a server to a verified file: resumed after a break, checked, and renamed into place only when all is well.

The target either does not exist, or is a complete file; a good file that is there is never touched by a download that
fails. However silent or slow the server, `progress` is called several times a second, and may raise to cancel; after
STALL seconds with fewer than CHUNK bytes a connection is given up, and after the second such in a row the download.
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
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from typing import Any

import requests
from filelock import BaseFileLock, Timeout
from urllib3.exceptions import HTTPError

from .. import atomic
from ..errors import DownloadError
from ..hashing import file_digest
from ..locks import lock_for
from ..log import logger
from ..progress import Progress
from ..registry import Source
from . import hub, waiting
from .hub import DELAYS, Remote, refusal, transient

Check = Callable[[Path], str]  # what is wrong with a complete file, or ""
CHUNK = 1 << 16  # bytes; what is lost at most when a connection breaks
PROGRESS = 1 << 20  # bytes; a try that brings as many is no failure, however it ended
STALL = 30.0  # seconds in which CHUNK bytes must come
TIMEOUT = (15, 30)  # seconds to connect, and without a byte
SPARE = 64 * 1024 * 1024  # bytes that stay free on the disk
UNKNOWN = 8 * 10**9  # bytes taken of a file of whose size nobody says anything
LEAST = 64 * 1024 * 1024  # bytes taken of any file whose server announces no size, however small we know it to be


class _Broken(Exception):
    """A break that another request may mend."""


def remote(source: Source, progress: Progress | None = None) -> Remote:
    """What the source's server says of its file. Raises DownloadError; what `progress` raises cancels."""

    def tick() -> None:
        if progress:
            progress(0, source.size or source.about or None)

    if source.repo:
        return hub.ask(source, tick)
    return ask(source.url, source.size, source.sha256, source.about, tick)


def ask(
    url: str, size: int | None = None, sha256: str | None = None, about: int = 0, tick: waiting.Tick | None = None
) -> Remote:
    """What a plain web server says of a file; what we know ourselves comes first. Raises DownloadError."""
    with hub.asking(url):
        response = waiting.answer(
            lambda: requests.head(url, headers={"Accept-Encoding": "identity"}, allow_redirects=True, timeout=TIMEOUT),
            tick,
            url,
            limit=hub.LIMIT,
        )
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
        validator=_strong(headers.get("ETag", "")) or headers.get("Last-Modified", ""),
        about=about,
    )


def _strong(etag: str) -> str:
    """An ETag that stands for the very bytes; a weak one ("W/…") does not, and If-Range takes none."""
    return etag if etag.startswith('"') else ""


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
    with _writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_for(target)
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


def _wait_for(lock: BaseFileLock, part: Path, total: int | None, progress: Progress | None) -> None:
    told = False
    while True:
        try:
            with _writing(part.parent):
                lock.acquire(timeout=0 if not told else waiting.TICK)
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
    failures = stalls = 0
    validator = [remote.validator]
    while remote.size is None or _size(part) < remote.size:
        before = _size(part)
        try:
            _transfer(remote, part, progress, validator)
            return
        except (_Broken, waiting.Stalled, requests.RequestException, HTTPError, HTTPException) as error:
            brought = _size(part) >= before + PROGRESS
            failures = 0 if brought else failures + 1
            stalls = 0 if brought else stalls + isinstance(error, waiting.Stalled)
            if failures > len(DELAYS) or stalls > 1:
                had = f"{_size(part)} of {remote.size or 'unknown'} bytes are here and will not be asked for again"
                raise DownloadError(f"{remote.url} broke off {failures} times ({error}); {had}") from error
            logger.info("%s broke off (%s); asking again", remote.url, error)
            waiting.pause(DELAYS[max(failures - 1, 0)], _tick(progress, part, remote.size))


def _tick(progress: Progress | None, part: Path, total: int | None) -> waiting.Tick:
    def tick() -> None:
        if progress:
            progress(_size(part), total)

    return tick


def _transfer(remote: Remote, part: Path, progress: Progress | None, validator: list[str]) -> None:
    """One request. Returns when the whole file is there; raises _Broken or Stalled when it is not.

    validator[0]: the version that `part` is of, in the sender's own words; "" if those are not known yet.
    """
    start = _size(part)
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator[0]:
            headers["If-Range"] = validator[0]  # the whole file, should it be another one by now

    def work(put: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
        with requests.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            put(response)
            if response.ok:
                for piece in _pieces(response.raw, stopped):
                    put(piece)

    with waiting.Feed(work) as feed:
        pieces = feed.pieces(_tick(progress, part, remote.size), _length, CHUNK, STALL)
        response = next(pieces)
        done = _accepted(response, remote, part, start, validator)
        length = response.headers.get("Content-Length", "")
        total = remote.size if remote.size is not None else done + int(length) if length.isdigit() else None
        most = total if total is not None else max(2 * remote.about, LEAST) if remote.about else UNKNOWN
        _require_space(part.parent, (total or 0) - done)
        with open(part, "ab" if done else "wb", buffering=0) as file:
            for chunk in pieces:
                with _writing(part):
                    _write(file, chunk)
                done += len(chunk)
                if done > most:
                    break  # the size check says so
                if progress:
                    progress(done, total)
            with _writing(part):
                os.fsync(file.fileno())
    if total is None and done > most:
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"{remote.url} announces no size and has sent more than {most / 1e9:.2f} GB; it was thrown away"
        )
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _accepted(response: requests.Response, remote: Remote, part: Path, start: int, validator: list[str]) -> int:
    """How many bytes of `part` the answer goes on from; raises if it is no answer to go on with."""
    status, etag = response.status_code, _strong(response.headers.get("ETag", ""))
    if status == 416 or (status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-")):
        part.unlink(missing_ok=True)
        raise _Broken(f"the server cannot go on from byte {start}")
    if status == 206 and validator[0].startswith('"') and etag and etag != validator[0]:
        part.unlink(missing_ok=True)
        validator[0] = ""
        raise _Broken("the file on the server is another one by now")
    if transient(status):
        raise _Broken(f"the server answers {status}")
    if not response.ok:
        raise DownloadError(refusal(status, remote.url))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError(
            f"{remote.url} answers with a web page instead of the file, as a login page or a proxy does"
        )
    validator[0] = etag or validator[0]
    return start if status == 206 else 0


def _length(piece: Any) -> int:
    return len(piece) if isinstance(piece, bytes) else 0


def _pieces(raw: Any, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """What comes, as it comes: `read` would wait for a full block, and a slow server could never be told to stop."""
    read = getattr(raw, "read1", None) or getattr(getattr(raw, "_fp", None), "read1", None) or raw.read
    gathered = bytearray()
    since = time.monotonic()
    try:
        while not stopped():
            piece = read(CHUNK)
            gathered += piece
            if not piece:
                break
            if len(gathered) >= CHUNK or time.monotonic() - since > waiting.TICK / 2:
                yield bytes(gathered)
                gathered.clear()
                since = time.monotonic()
    except (HTTPError, HTTPException, OSError):
        if gathered:
            yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)


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
        atomic.replace(part, target)
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
