"""The routes of the library tab: `/imagereward/v1/library/…`. Our own page alone may ask."""

from __future__ import annotations

import dataclasses
import mimetypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, HTTPException, Path, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, conint

from .. import host
from ..core import ImageRewardError, errors, tastes
from ..core import module as core_module
from ..guard import PageRoute
from ..lifecycle import available
from ..remember import memory
from . import pictures
from .learning import learn
from .work import Progress, Work

PREFIX = "/imagereward/v1/library"
LARGEST = 2**53  # what a page's numbers hold exactly; SQLite's end at 2**63
if TYPE_CHECKING:
    Number = int
else:
    Number = conint(ge=0, le=LARGEST)  # for bodies, in pydantic 1 and 2
NUMBER = Path(ge=0, le=LARGEST)  # FastAPI before 0.106 passes over the bounds of an annotation
OFFSET = Query(0, ge=0, le=LARGEST)
router = APIRouter(prefix=PREFIX, route_class=PageRoute, tags=["ImageReward library"])
work = Work()


class MarkBody(BaseModel):
    """keep, reject or null; stars from 1 to 5, or null."""

    id: Number
    mark: str | None = None
    stars: Number | None = None


class DuelBody(BaseModel):
    """Two pictures; `verdict`: win, both or neither."""

    winner: Number
    loser: Number
    verdict: str = "win"
    taste: str


class UndoBody(BaseModel):
    """The duel to take back."""

    id: Number


class FitBody(BaseModel):
    """Which taste is learnt, on which scorer."""

    taste: str
    scorer: str


@contextmanager
def opened(create: bool = False) -> Iterator[Any]:
    """The library. What is wrong with it, or with a question, is the client's to read."""
    try:
        library = core_module("library").open_library(pictures.library_place(), create=create)
        with library:
            yield library
    except ImageRewardError as error:
        raise HTTPException(status_code=422, detail=str(error)) from error


@router.get("/state")
def state() -> dict[str, Any]:
    """What there is: pictures, scorers, tastes with what was measured, and what is under way."""
    place = pictures.library_place()
    answer: dict[str, Any] = {
        "place": str(place),
        "there": place.is_file(),
        "pictures": 0,
        "scorers": [],
        "loadable": available(host.models_dir()),
        "tastes": [],
        "work": work.state(),
    }
    if not place.is_file():
        return answer
    find, marks = core_module("library.find"), core_module("library.marks")
    with opened() as library:
        where = pictures.shown_only(core_module("library.conditions").EVERYTHING)
        ((answer["pictures"],),) = library.query(
            f"SELECT COUNT(*) FROM images i WHERE i.missing = 0 AND ({where.sql})", where.values
        )
        answer["scorers"] = list(dict.fromkeys(name for _, name, _, used in find.scorers(library) if used))
        counts = marks.duels_by_taste(library)
    for name in dict.fromkeys(["my-taste", *counts, *tastes.names()]):
        path = tastes.find(name)
        told = tastes.about(path) if path else None
        known = dataclasses.asdict(told) if told else {}
        answer["tastes"].append({**known, "name": name, "fitted": known.get("duels", 0), "duels": counts.get(name, 0)})
    return answer


@router.get("/pictures")
def listed(by: str = "", where: str = "", offset: int = OFFSET) -> dict[str, Any]:
    """Pictures by a scorer's score, or the newest: a page of them."""
    with opened() as library:
        return pictures.listed(library, by, where, offset)


def _picture(library: Any, number: int) -> Any:
    """A picture that may be shown. Raises 404 for any other."""
    found = core_module("library.find").by_id(library, number)
    if found is None or found.missing or not pictures.is_shown(found.path):
        raise HTTPException(status_code=404, detail=f"there is no picture {number} in the output folders")
    return found


@router.get("/thumbnail/{number}")
def thumbnail(number: int = NUMBER) -> FileResponse:
    """A small JPEG."""
    with opened() as library:
        return FileResponse(pictures.thumbnail(_picture(library, number)), media_type="image/jpeg")


@router.get("/image/{number}")
def image(number: int = NUMBER) -> FileResponse:
    """The picture's file."""
    with opened() as library:
        path = _picture(library, number).path
    kind = mimetypes.guess_type(path)[0] or ""
    if not kind.startswith("image/") or kind == "image/svg+xml":
        raise HTTPException(status_code=404, detail="this is no picture that browsers show")
    return FileResponse(path, media_type=kind)


@router.post("/mark")
def mark(body: MarkBody) -> dict[str, Any]:
    """Set a picture's mark and stars as they are sent."""
    marks = core_module("library.marks")
    with opened() as library:
        _picture(library, body.id)
        marks.set_mark(library, body.id, body.mark)
        marks.set_stars(library, body.id, body.stars)
        return pictures.described(_picture(library, body.id))


@router.post("/read")
def read() -> dict[str, Any]:
    """Read what is new in the output folders into the library, in the background."""

    def action(progress: Progress) -> str:
        scan = core_module("library.scan")
        folders = [folder for folder in pictures.known_folders() if os.path.isdir(folder)]
        with core_module("library").open_library(pictures.library_place()) as library:
            added = scan.add_files(library, folders, True, progress=progress)
        return f"{added.read} pictures read, {added.known} known already, {added.failed} not readable"

    return _begin("reading pictures", action)


@router.post("/forget")
def forget() -> dict[str, Any]:
    """Delete the library: rows, features, duels, tastes, thumbnails and journals, and what waits to be written. No
    picture is touched.
    """
    place = pictures.library_place()
    there = place.exists()
    try:
        memory.forget()
    except ImageRewardError as error:
        raise HTTPException(status_code=503, detail=str(error)) from error
    return {"place": str(place), "deleted": there}


@router.get("/pair")
def pair(taste: str, where: str = "") -> dict[str, Any]:
    """Two pictures of one prompt to choose between; none where all were shown."""
    _named(taste)
    find = core_module("library.find")
    with opened() as library:
        question = pictures.shown_only(find.where_of(library, where))
        found = core_module("taste.pairs").next_pair(library, taste, question)
    if found is None or not all(pictures.is_shown(picture.path) for picture in found):
        return {"pair": None}
    return {"pair": [pictures.described(picture) for picture in found]}


@router.post("/duel")
def duel(body: DuelBody) -> dict[str, Any]:
    """Keep a choice."""
    _named(body.taste)
    marks = core_module("library.marks")
    with opened() as library:
        for number in (body.winner, body.loser):
            _picture(library, number)
        number = marks.add_duel(library, body.winner, body.loser, body.verdict, taste=body.taste)
        return {"id": number, "duels": marks.duels_by_taste(library)[body.taste]}


@router.post("/undo")
def undo(body: UndoBody) -> dict[str, Any]:
    """Take a choice back."""
    with opened() as library:
        return {"removed": core_module("library.marks").remove_duel(library, body.id)}


@router.post("/fit")
def fit(body: FitBody) -> dict[str, Any]:
    """Learn a taste, in the background."""
    _named(body.taste)
    if body.scorer not in available(host.models_dir()) or tastes.find(body.scorer):
        raise HTTPException(status_code=422, detail=f"there is no scorer {body.scorer!r} to learn a taste on")
    return _begin(f"learning {body.taste}", lambda progress: learn(body.taste, body.scorer, progress))


def _named(taste: str) -> None:
    try:
        core_module("taste.files").check_free(taste)
    except errors.ConfigError as error:
        raise HTTPException(status_code=422, detail=str(error)) from error


def _begin(what: str, action: Callable[[Progress], str]) -> dict[str, Any]:
    try:
        work.start(what, action)
    except ImageRewardError as error:
        raise HTTPException(status_code=429, detail=str(error)) from error
    return work.state()


def mount(_demo: Any, app: FastAPI) -> None:
    """Add the routes to a new app."""
    app.include_router(router)
