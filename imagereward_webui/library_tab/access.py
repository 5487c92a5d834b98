"""What all routes of the library tab need: the library, pictures that may be shown, numbers, work in the background."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Path
from pydantic import conint

from ..core import ImageRewardError
from ..core import module as core_module
from ..guard import PageRoute
from . import folders, pictures
from .history import History
from .work import Progress, Work

PREFIX = "/imagereward/v1/library"
LARGEST = 2**53  # what a page's numbers hold exactly; SQLite's end at 2**63
if TYPE_CHECKING:
    Number = int
else:
    Number = conint(ge=0, le=LARGEST)  # for bodies, in pydantic 1 and 2
NUMBER = Path(ge=0, le=LARGEST)  # FastAPI before 0.106 passes over the bounds of an annotation
NUMBERS = re.compile(r"\d{1,16}(,\d{1,16})*", re.ASCII)
work = Work()
history = History()


def new_router() -> APIRouter:
    """A router whose routes only our own page may ask."""
    return APIRouter(prefix=PREFIX, route_class=PageRoute, tags=["ImageReward library"])


@contextmanager
def opened(create: bool = False) -> Iterator[Any]:
    """The library. What is wrong with it, or with a question, is the client's to read."""
    with answered():
        library = core_module("library").open_library(pictures.library_place(), create=create)
        with library:
            yield library


@contextmanager
def answered() -> Iterator[None]:
    """Our errors as answers that say what is wrong."""
    try:
        yield
    except ImageRewardError as error:
        raise HTTPException(status_code=422, detail=str(error)) from error


def picture(library: Any, number: int) -> Any:
    """A picture that may be shown. Raises 404 for any other."""
    found = core_module("library.find").by_id(library, number)
    if found is None or found.missing or not folders.known().holds(found.path):
        raise HTTPException(status_code=404, detail=f"there is no picture {number} in the output folders")
    return found


def numbers(text: str) -> list[int]:
    """Ids out of a text, with commas between: a list in a body may hold 4,096 values only, and a library has more.
    Raises 422.
    """
    if not text:
        return []
    if not NUMBERS.fullmatch(text):
        raise HTTPException(status_code=422, detail="ids are whole numbers with commas between")
    return [min(int(part), LARGEST) for part in text.split(",")]


def shown(library: Any, text: str) -> list[Any]:
    """The pictures among these ids that may be shown. Raises 404 if there is none."""
    known = folders.known()
    rows = core_module("library.find").by_ids(library, numbers(text))
    found = [one for one in rows if not one.missing and known.holds(one.path)]
    if not found:
        raise HTTPException(status_code=404, detail="none of these pictures is in the output folders")
    return found


def begin(what: str, action: Callable[[Progress], str], patience: float = 0.0) -> dict[str, Any]:
    """Start work in the background, and wait for it for a moment; how it is then. Raises 429 while other work runs."""
    try:
        work.start(what, action)
    except ImageRewardError as error:
        raise HTTPException(status_code=429, detail=str(error)) from error
    if patience:
        work.wait(patience)
    return work.state()
