"""What is done with chosen pictures: keep, reject, stars, move to another folder, export; and what takes it back."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from fastapi import HTTPException
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask

from .. import host
from ..core import ImageRewardError
from ..core import module as core_module
from ..lifecycle import available
from . import folders, pictures, scoring
from .access import Number, answered, begin, history, new_router, opened, shown
from .work import Progress

router = new_router()
FORMS = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
AT_ONCE = 0.8  # seconds in which a move of few files is done before the answer goes


class MarkBody(BaseModel):
    """Ids with commas between; what is null stays, "" takes the mark away, 0 the stars."""

    ids: str
    mark: str | None = None
    stars: Number | None = None


class MoveBody(BaseModel):
    """Ids with commas between; a known folder, and the name of one below it (or empty)."""

    ids: str
    root: str
    name: str = ""


class ExportBody(BaseModel):
    """Ids with commas between; csv or jsonl."""

    ids: str
    form: str = "csv"


class ScoreBody(BaseModel):
    """Ids with commas between; a scorer as the host names it."""

    ids: str
    scorer: str


class TakeBackBody(BaseModel):
    """The action to undo: the last one."""

    id: Number


def count(number: int) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{number:,} picture{'' if number == 1 else 's'}"


@router.post("/mark")
def mark(body: MarkBody) -> dict[str, Any]:
    """Set mark, stars or both of pictures."""
    marks = core_module("library.marks")
    with opened() as library:
        numbers = [picture.id for picture in shown(library, body.ids)]
        before = marks.judge(library, numbers, body.mark, body.stars)

    def back() -> str:
        with opened() as again:
            marks.restore(again, before)
        return f"{count(len(before))} as before"

    history.keep(_said(body, len(numbers)), back)
    return {"changed": len(numbers), "undo": history.last()}


def _said(body: MarkBody, number: int) -> str:
    words = []
    if body.mark is not None:
        words.append(body.mark or "no mark")
    if body.stars is not None:
        words.append("★" * body.stars or "no stars")
    return f"{', '.join(words)}: {count(number)}"


@router.post("/move")
def move(body: MoveBody) -> dict[str, Any]:
    """Move pictures' files, and the texts beside them, into a folder; in the background."""
    known = folders.known()
    with opened() as library:
        numbers = [picture.id for picture in shown(library, body.ids)]
    with answered():
        target = folders.target(body.root, body.name, known)
    where = folders.short(target, known)
    return begin(
        f"moving {count(len(numbers))} to {where}",
        lambda progress: _move([(number, target, "") for number in numbers], f"to {where}", progress),
        AT_ONCE,
    )


def _move(wanted: list[tuple[int, str, str]], where: str, progress: Progress, undoable: bool = True) -> str:
    """Move each (id, folder, name or ""); says what became of them. What was moved can be undone, also if some stay."""
    moving = core_module("library.move")
    known = folders.known()
    done, failed = [], []
    with core_module("library").open_library(pictures.library_place(), create=False) as library:
        for index, (number, folder, name) in enumerate(wanted):
            try:
                os.makedirs(known.inside(folder), exist_ok=True)
                found = moving.move(library, number, folder, name)
                if found.before != found.after:
                    done.append(found)
            except (ImageRewardError, OSError) as error:
                failed.append(str(error))
            progress(index + 1, len(wanted))
    if done and undoable:
        back = [(found.id, *os.path.split(found.before)) for found in reversed(done)]
        history.keep(f"moved {count(len(done))} {where}", lambda: _moved_back(back))
    stayed = f"; {len(failed)} stayed: {failed[0]}" if failed else ""
    return f"{count(len(done))} moved {where}{stayed}"


def _moved_back(wanted: list[tuple[int, str, str]]) -> str:
    def action(progress: Progress) -> str:
        return _move(wanted, "back", progress, undoable=False)

    state = begin("moving back", action, AT_ONCE)
    return str(state["error"] or state["said"] or "moving back …")


@router.post("/takeback")
def take_back(body: TakeBackBody) -> dict[str, Any]:
    """Undo the last action."""
    with answered():
        what, undo = history.take(body.id)
    try:
        said = undo()
    except HTTPException:
        history.keep(what, undo)  # other work is under way, or the library is away: it may be tried again
        raise
    return {"said": f"undone: {what} ({said})", "undo": history.last()}


@router.post("/score")
def score(body: ScoreBody) -> dict[str, Any]:
    """Score what this scorer has not scored yet, in the background."""
    if body.scorer not in available(host.models_dir()):
        raise HTTPException(status_code=422, detail=f"there is no scorer {body.scorer!r} on this machine")
    with opened() as library:
        numbers = [picture.id for picture in shown(library, body.ids)]
    what = f"scoring {count(len(numbers))} by {body.scorer}"
    return begin(what, lambda progress: scoring.score(numbers, body.scorer, progress))


@router.post("/export")
def export(body: ExportBody) -> FileResponse:
    """A table of pictures."""
    if body.form not in FORMS:
        raise HTTPException(status_code=422, detail=f"formats are {', '.join(FORMS)}, not {body.form!r}")
    find, exporting = core_module("library.find"), core_module("library.export")
    folder = tempfile.mkdtemp(prefix="imagereward-")
    target = os.path.join(folder, f"imagereward-library.{body.form}")
    try:
        with opened() as library:
            numbers = [picture.id for picture in shown(library, body.ids)]
            exporting.export(library, target, body.form, find.among(library, numbers))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return FileResponse(
        target,
        media_type=FORMS[body.form],
        filename=os.path.basename(target),
        background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
    )
