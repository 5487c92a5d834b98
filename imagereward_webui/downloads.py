"""Fetching a scorer's weights before they are needed: `/imagereward/v1/downloads`, for the buttons below the lists of
scorers. One at a time; what arrived before an interrupt is kept, and the next try goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel

from . import host
from .core import errors, logger, registry
from .core import module as core_module
from .guard import PageRoute
from .lifecycle import Cancelled

PREFIX = "/imagereward/v1/downloads"


class DownloadBody(BaseModel):
    """The scorer whose weights to fetch."""

    scorer: str


def fetch(name: str, progress: Callable[[int, int | None], None]) -> None:
    """Have every file of a scorer in the models folder."""
    core_module("weights").fetch(registry.get(name), models_dir=host.models_dir(), progress=progress)


class Downloads:
    """The download under way, or the last one; `state()` says how it goes."""

    def __init__(self, fetch: Callable[..., None] = fetch):
        self.fetch = fetch
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: dict[str, Any] = {}

    def start(self, name: str) -> None:
        """Fetch in the background; nothing to do while that very scorer is being fetched. Raises ConfigError while
        another one is.
        """
        with self._lock:
            if self.running:
                if self._state["scorer"] == name:
                    return
                raise errors.ConfigError(
                    f"{self._state['scorer']} is being downloaded: wait for it, or interrupt it first"
                )
            self._stop.clear()
            self._state = {"scorer": name, "done": 0, "total": None, "outcome": "", "error": ""}
            self._thread = threading.Thread(target=self._run, args=(name,), name="imagereward-download", daemon=True)
            self._thread.start()

    def interrupt(self) -> None:
        """End the download; what arrived stays."""
        self._stop.set()

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._thread is not None and self._thread.is_alive()

    def of(self, name: str) -> bool:
        """Whether this scorer is being fetched."""
        return self.running and self._state["scorer"] == name

    def state(self) -> dict[str, Any]:
        """`scorer` ("" before the first), `running`, bytes `done` and in `total` (null: unknown), and in the end the
        `outcome`: done, interrupted or failed, with its `error`.
        """
        running = self.running  # before the state, whose outcome is set before the thread ends
        return {"scorer": "", "done": 0, "total": None, "outcome": "", "error": "", **self._state, "running": running}

    def _run(self, name: str) -> None:
        try:
            self.fetch(name, self._progress)
            outcome, error = "done", ""
        except Cancelled:
            outcome, error = "interrupted", ""
        except Exception as failure:  # noqa: BLE001 - a thread of its own: the page is the only one that can tell
            logger.warning("%s could not be downloaded: %s", name, failure)
            outcome, error = "failed", str(failure) or type(failure).__name__
        self._state = {**self._state, "outcome": outcome, "error": error}

    def _progress(self, done: int, total: int | None = None) -> None:
        if self._stop.is_set():
            raise Cancelled("interrupted by the user")
        self._state = {**self._state, "done": done, "total": total}


downloads = Downloads()

# --- the routes -----------------------------------------------------------------------------------

router = APIRouter(prefix=PREFIX, tags=["ImageReward downloads"], route_class=PageRoute)


@router.get("")
def state() -> dict:
    """How the download goes."""
    return downloads.state()


@router.post("")
def start(body: DownloadBody) -> dict:
    """Start one."""
    if body.scorer not in registry.names():
        raise HTTPException(status_code=404, detail=f"there is no scorer {body.scorer!r} to download")
    try:
        downloads.start(body.scorer)
    except errors.ConfigError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    return downloads.state()


@router.post("/interrupt")
def interrupt() -> dict:
    """End it; what arrived is kept."""
    downloads.interrupt()
    return downloads.state()


def mount(_demo: Any, app: FastAPI) -> None:
    """Add the routes to a new app (a callback of `on_app_started`)."""
    app.include_router(router)
