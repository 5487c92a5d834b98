"""The routes of the library tab: `/imagereward/v1/library/…`. Our own page alone may ask. Here: what there is, the
grid, single pictures, duels and tastes; `selection` has what is done with many, `ranking` the leaderboard.
"""

from __future__ import annotations

import dataclasses
import mimetypes
import os
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel

from .. import host, scorer_list
from ..core import ImageRewardError, errors, tastes
from ..core import module as core_module
from ..lifecycle import available
from ..remember import memory
from . import folders, last_job, pictures, ranking, selection
from .access import NUMBER, PREFIX, Number, answered, begin, history, new_router, opened, picture, shown, work
from .learning import learn
from .work import Progress

router = new_router()


class DescribeBody(BaseModel):
    """Which pictures, as ids with commas between, and whose scores."""

    ids: str
    by: str = ""


class ReadBody(BaseModel):
    """What is read: all known folders, one of them or below, or what the last job saved."""

    folder: str = ""
    last: bool = False


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


@router.get("/state")
def state() -> dict[str, Any]:
    """What there is: pictures, scorers, checkpoints, LoRAs, folders, tastes with what was measured, scorers that can be
    loaded (those on this machine first), what is under way, and what can be undone.
    """
    place = pictures.library_place()
    known = folders.known()
    roots = [folder for folder in known.named if os.path.isdir(folder)]
    answer: dict[str, Any] = {
        "place": str(place),
        "there": place.is_file(),
        "pictures": 0,
        "scorers": [],
        "made_with": {"checkpoint": [], "lora": []},
        "roots": [{"path": folder, "name": folders.short(folder, known)} for folder in roots],
        "folders": [],
        "last_job": len(last_job.paths()),
        "loadable": scorer_list.choices(),
        "tastes": [],
        "work": work.state(),
        "undo": history.last(),
    }
    if not place.is_file():
        return answer
    find, marks = core_module("library.find"), core_module("library.marks")
    with opened() as library:
        where = known.condition(core_module("library.conditions").EVERYTHING)
        ((answer["pictures"],),) = library.query(
            f"SELECT COUNT(*) FROM images i WHERE i.missing = 0 AND ({where.sql})", where.values
        )
        answer["scorers"] = list(dict.fromkeys(name for _, name, _, used in find.scorers(library) if used))
        answer["made_with"] = {
            kind: [{"name": name, "hash": digest, "pictures": count} for name, digest, count in rows]
            for kind, rows in find.used(library, where).items()
        }
        answer["folders"] = folders.listed(library, known)
        counts = marks.duels_by_taste(library)
    for name in dict.fromkeys(["my-taste", *counts, *tastes.names()]):
        path = tastes.find(name)
        told = tastes.about(path) if path else None
        about = dataclasses.asdict(told) if told else {}
        known_duels = {"fitted": about.get("duels", 0), "duels": counts.get(name, 0)}
        learnt_on = _loadable(told.base.source, answer["loadable"]) if told else ""
        answer["tastes"].append({**about, "name": name, **known_duels, "learnt_on": learnt_on})
    return answer


def _loadable(source: str, names: Sequence[str]) -> str:
    """What this host calls the scorer that a taste was learnt on, "" where it is gone."""
    return next((name for name in (source, os.path.basename(source)) if name in names), "")


@router.get("/work")
def under_way() -> dict[str, Any]:
    """What is under way, and what can be undone: asked every second while something is."""
    return {"work": work.state(), "undo": history.last()}


@router.get("/pictures")
def listed(
    by: str = pictures.DATE,
    order: str = pictures.BEST,
    where: str = "",
    folder: str = "",
    least: int = Query(0, ge=0, le=100),
) -> dict[str, Any]:
    """The ids of all pictures that the question names, in order."""
    with opened() as library:
        return pictures.found(library, pictures.Asked(by, order, where, folder, least))


@router.post("/described")
def described(body: DescribeBody) -> dict[str, Any]:
    """What the page shows of some pictures."""
    with opened() as library:
        some = shown(library, body.ids)[: pictures.TOGETHER]
        return {"pictures": pictures.described(library, some, body.by)}


@router.get("/thumbnail/{number}")
def thumbnail(number: int = NUMBER) -> FileResponse:
    """A small JPEG."""
    with opened() as library:
        found = picture(library, number)
    with answered():
        return FileResponse(pictures.thumbnail(found), media_type="image/jpeg")


@router.get("/image/{number}")
def image(number: int = NUMBER) -> FileResponse:
    """The picture's file."""
    with opened() as library:
        path = picture(library, number).path
    kind = mimetypes.guess_type(path)[0] or ""
    if not kind.startswith("image/") or kind == "image/svg+xml":
        raise HTTPException(status_code=404, detail="this is no picture that browsers show")
    return FileResponse(path, media_type=kind)


@router.get("/infotext/{number}")
def infotext(number: int = NUMBER) -> dict[str, str]:
    """The text with which the WebUI fills its fields: the file's own, else the prompts that the library knows."""
    with opened() as library:
        found = picture(library, number)
    with answered():
        text = core_module("metadata").read_infotext(found.path)
    made = found.made
    return {"text": text or f"{made.prompt or ''}\nNegative prompt: {made.negative or ''}"}


@router.post("/read")
def read(body: ReadBody) -> dict[str, Any]:
    """Read what is new in the folders into the library, in the background."""
    known = folders.known()
    with answered():
        if body.last:
            names = [path for path in last_job.paths() if known.holds(path)]
        else:
            wanted = [known.inside(body.folder)] if body.folder else list(known.real)
            names = [folder for folder in wanted if os.path.isdir(folder)]

    def action(progress: Progress) -> str:
        scan = core_module("library.scan")
        with core_module("library").open_library(pictures.library_place()) as library:
            added = scan.add_files(library, names, True, progress=progress)
        return f"{added.read} pictures read, {added.known} known already, {added.failed} not readable"

    return begin("reading pictures", action, patience=1.0 if body.last or body.folder else 0.0)


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
def pair(taste: str, where: str = "", folder: str = "", last: bool = False) -> dict[str, Any]:
    """Two pictures of one prompt to choose between; none where all were shown. `folder`: of those in it; `last`: of
    those that the last job saved.
    """
    _named(taste)
    find = core_module("library.find")
    known = folders.known()
    with opened() as library:
        question = known.condition(find.where_of(library, where), folder)
        if last:
            some = find.among(library, last_job.numbers(library))
            question = question.and_(some.sql, *some.values)
        found = core_module("taste.pairs").next_pair(library, taste, question)
        if found is None or not all(known.holds(one.path) for one in found):
            return {"pair": None}
        return {"pair": pictures.described(library, list(found))}


@router.post("/duel")
def duel(body: DuelBody) -> dict[str, Any]:
    """Keep a choice."""
    _named(body.taste)
    marks = core_module("library.marks")
    with opened() as library:
        for number in (body.winner, body.loser):
            picture(library, number)
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
    return begin(f"learning {body.taste}", lambda progress: learn(body.taste, body.scorer, progress))


def _named(taste: str) -> None:
    try:
        core_module("taste.files").check_free(taste)
    except errors.ConfigError as error:
        raise HTTPException(status_code=422, detail=str(error)) from error


def mount(_demo: Any, app: FastAPI) -> None:
    """Add the routes to a new app."""
    for each in (router, selection.router, ranking.router):
        app.include_router(each)


__all__ = ["PREFIX", "mount", "router", "work"]
