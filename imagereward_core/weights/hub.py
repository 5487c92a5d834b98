"""The Hugging Face hub, asked through its own client, which knows mirrors (HF_ENDPOINT), tokens and offline mode.

Only questions are asked here; `download` moves the bytes, because the client versions that hosts pin (0.25 to 0.36) can
neither report progress nor be cancelled, and none compares the checksum.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DownloadError
from ..registry import Source
from . import waiting

DELAYS = (1.0, 2.0, 4.0)  # seconds before asking again after a server error
LIMIT = 90.0  # seconds for one question with all its repetitions
DIGESTS = {64: "sha256", 40: "git-sha1"}  # the hub's etag: sha256 of large files, git's blob hash of small ones


@dataclass(frozen=True)
class Remote:
    """A file on a server. `digest` is (algorithm, hex); `tag` differs between versions of the file; None is unknown.

    `validator` is what If-Range may say to the very server that sends the bytes. `about` is the rounded size we know.
    """

    url: str
    size: int | None = None
    digest: tuple[str, str] | None = None
    tag: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    validator: str = ""
    about: int = 0


def offline() -> bool:
    """Whether the user asked for no network, by environment now or when the hub client was imported."""
    asked = any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )
    constants = sys.modules.get("huggingface_hub.constants")
    return asked or bool(getattr(constants, "HF_HUB_OFFLINE", False))


def address(source: Source, revision: str | None = None) -> str:
    """The URL of the file, for programs and people alike."""
    if source.url:
        return source.url
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    return f"{endpoint}/{source.repo}/resolve/{revision or source.revision}/{source.filename}"


def cached(source: Source) -> Path | None:
    """The file in the hub's own cache, if other programs have put it there. Never touches the network."""
    if not source.repo:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, source.filename, revision=source.revision)
    return Path(found) if isinstance(found, str) else None


def ask(source: Source, tick: waiting.Tick | None = None) -> Remote:
    """Size, checksum and exact revision of a hub file. tick: called several times a second meanwhile, may raise to
    cancel. Raises DownloadError saying what stands in the way.
    """
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.utils import HfHubHTTPError, build_hf_headers

    url = address(source)
    for delay in (*DELAYS, None):
        try:
            with asking(url):
                found = waiting.answer(
                    lambda: get_hf_file_metadata(url, token=None, timeout=15), tick, url, limit=LIMIT
                )
            break
        except DownloadError as error:
            cause = error.__cause__
            again = isinstance(cause, HfHubHTTPError) and transient(_status(cause))  # of others: it tried again itself
            if delay is None or not again:
                raise
            waiting.pause(delay, tick)
    etag = (found.etag or "").lower()
    algorithm = DIGESTS.get(len(etag)) if re.fullmatch("[0-9a-f]+", etag) else None
    return Remote(
        address(source, found.commit_hash),
        size=found.size if source.size is None else source.size,
        digest=("sha256", source.sha256) if source.sha256 else (algorithm, etag) if algorithm else None,
        tag=etag,
        headers=build_hf_headers(library_name="imagereward"),
        about=source.about,
    )


def unreachable() -> tuple[type[Exception], ...]:
    """Everything that asking a server raises when it cannot be reached, refuses, or answers nonsense.

    The hub's client changed its HTTP library twice, and each has errors of its own; the bases of the client's own
    error are those of the library in use.
    """
    from huggingface_hub.utils import HfHubHTTPError

    found: list[type[Exception]] = [OSError, ValueError, KeyError, TypeError, AttributeError]
    for base in HfHubHTTPError.__bases__:
        if issubclass(base, Exception):
            found.append(base)
        library = sys.modules.get(base.__module__.partition(".")[0])
        invalid = getattr(library, "InvalidURL", None)
        if isinstance(invalid, type) and issubclass(invalid, Exception):
            found.append(invalid)
    return tuple(found)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Whatever goes wrong while a server is asked for `what` becomes a DownloadError of one sentence."""
    try:
        yield
    except unreachable() as error:
        status = _status(error)
        if status:
            raise DownloadError(refusal(status, what)) from error
        reason = next(iter(str(error).strip().splitlines()), "")[:300]
        raise DownloadError(f"{what} cannot be reached ({type(error).__name__}: {reason})") from error


def _status(error: BaseException) -> int:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status if isinstance(status, int) else 0


def transient(status: int) -> bool:
    """Whether asking again may help."""
    return status in (408, 425, 429) or status >= 500


def refusal(status: int, url: str) -> str:
    """What an HTTP error status means for the user."""
    if status in (401, 403):
        page = url.partition("/resolve/")[0]
        return (
            f"{url} answers {status}: it needs a login. Accept its terms at {page}, then set HF_TOKEN or run `hf auth"
            " login`"
        )
    if status in (404, 410):
        return f"{url} answers {status}: there is no such file"
    if status == 429:
        return f"{url} answers 429: too many requests; wait a few minutes, or set HF_TOKEN"
    return f"{url} answers {status}: the server has a problem; try again later"
