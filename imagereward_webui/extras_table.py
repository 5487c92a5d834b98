"""What the Extras tab scored in one run, as a table below its gallery: file, score and prompt, best first, and as a
CSV. The host itself tells of the last image alone.

The page's script (javascript/imagereward_extras.js) sorts the table by its other columns, and puts the scores onto the
gallery's thumbnails.
"""

from __future__ import annotations

import base64
import csv
import functools
import html
import io
import json
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from . import host, infotext
from .core import printable, registry
from .remember import memory, saved_file

WATCHED = "imagereward_original"
COLUMNS = ("file", "saved as", "scorer", "score", "prompt", "note")


@dataclass
class Row:
    """One image of a run. `file` is what the host calls it, `saved` where it wrote the result, `note` why there is no
    score, or what else is to be told. `image` is the object that the host shows; `remember` makes the library's record
    of the saved file, `record` is that, waiting; `meaning` says where the score stands among the user's own pictures.
    """

    file: str
    scorer: str
    prompt: str
    image: Any
    score: float | None = None
    note: str = ""
    saved: str = ""
    scale: registry.Scale = registry.STANDARD
    remember: Callable[..., Any] | None = None
    record: Any = None
    meaning: str = ""

    @property
    def shown_name(self) -> str:
        """The name that the user knows the image by."""
        return PurePath(self.file or self.saved).name or "the image"


_rows: ContextVar[list[Row] | None] = ContextVar("imagereward_extras_rows", default=None)


def add(row: Row) -> None:
    """Note an image of the run under way; nothing where no table is made of it."""
    rows = _rows.get()
    if rows is not None:
        rows.append(row)


def image_saved(params: Any) -> None:
    """The host has written a result: note where, if it is one of the run under way. It is handed to the library at
    once, or at the end of the run in which the user is told of that.
    """
    for row in _rows.get() or ():
        if row.image is params.image:
            row.saved = params.filename
            saved = saved_file(params) if row.remember is not None else None
            if row.remember is not None and saved is not None:
                row.record, row.remember = row.remember(saved), None
                if memory.announced:
                    memory.hand_over([row])


def is_remembered(image: Any) -> bool:
    """Whether the file of this image, if one is written now, goes into the library."""
    return any(row.image is image and row.remember is not None for row in _rows.get() or ())


def watch_extras() -> None:
    """Have every run of the Extras tab end with a table of its scores (a callback of `on_before_ui`)."""
    postprocessing = host.module("postprocessing")
    original = getattr(postprocessing.run_postprocessing, WATCHED, postprocessing.run_postprocessing)
    postprocessing.run_postprocessing = with_table(original)


def with_table(run_postprocessing: Callable[..., Any]) -> Callable[..., Any]:
    """The host's function, which returns (images, HTML below them, log)."""

    @functools.wraps(run_postprocessing)
    def run(*args: Any, **kwargs: Any) -> Any:
        rows: list[Row] = []
        token = _rows.set(rows)
        try:
            images, below, *rest = run_postprocessing(*args, **kwargs)
        finally:
            _rows.reset(token)
        if not rows:
            return (images, below, *rest)
        notes = "".join(f"<p class='imagereward-note'>{html.escape(note)}</p>" for note in memory.settle(rows))
        return (images, (below or "") + table(rows, images) + notes, *rest)

    vars(run)[WATCHED] = run_postprocessing
    return run


# --- the table --------------------------------------------------------------------------------------


def table(rows: Sequence[Row], images: Sequence[Any]) -> str:
    """The rows as HTML, best first and unscored ones last; with the score of each of the gallery's `images` for the
    page's script.
    """
    scale = rows[0].scale
    places = {id(row.image): row.score for row in rows}
    scores = [places.get(id(image)) for image in images]
    meanings = {id(row.image): row.meaning for row in rows}
    told = {
        "scores": scores,
        "low": scale.low,
        "high": scale.high,
        "meanings": [meanings.get(id(image), "") for image in images],
    }
    data = html.escape(json.dumps(told), quote=True)
    body = "".join(_row(row) for row in _best_first(rows))
    return (
        f"<div class='imagereward-table' data-gallery='{data}'><p><span class='imagereward-summary'>"
        f"{html.escape(summary(rows))}</span> {_csv_link(rows)}</p>"
        "<div class='imagereward-scroll' tabindex='0' role='region' aria-label='Scores'><table>"
        f"<thead><tr>{_header('File', 'none')}{_header('Score', 'descending')}{_header('Prompt', 'none')}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></div>"
    )


def summary(rows: Sequence[Row]) -> str:
    """ "ImageReward-v1.0: scored 8 · not scored 1 · mean 0.41 · best 1.22 (cat.png)"."""
    scored = [(row.score, row.shown_name) for row in rows if row.score is not None]
    parts = [f"{rows[0].scorer}: scored {len(scored)}"]
    if len(scored) < len(rows):
        parts.append(f"not scored {len(rows) - len(scored)}")
    if scored:
        best, name = max(scored, key=lambda pair: pair[0])
        parts.append(f"mean {sum(score for score, _ in scored) / len(scored):.2f}")
        parts.append(f"best {best:.2f} ({name})")
    return " · ".join(parts)


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, best first; text in it drives no spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _best_first(rows):
        cells = (row.file, row.saved, row.scorer, _number(row), row.prompt, row.note)
        writer.writerow([cell if cell == _number(row) else printable.csv_cell(cell) for cell in cells])
    return buffer.getvalue()


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0)))


def _number(row: Row) -> str:
    return "" if row.score is None else infotext.format_score(row.score, int(host.option("decimals")))


def _header(text: str, sort: str) -> str:
    return f"<th scope='col' aria-sort='{sort}'><button type='button'>{text}</button></th>"


def _row(row: Row) -> str:
    meaning = f" title='{html.escape(row.meaning, quote=True)}'" if row.meaning else ""
    score = f"<td data-value='{row.score!r}'{meaning}>{_number(row)}</td>" if row.score is not None else "<td>–</td>"
    note = f"<em>{html.escape(row.note)}</em>" if row.note else ""
    words = html.escape(row.prompt) + ("<br>" if row.prompt and note else "") + note
    name = f"<td title='{html.escape(row.saved or row.file, quote=True)}'>{html.escape(row.shown_name)}</td>"
    return f"<tr>{name}{score}<td>{words}</td></tr>"


def _csv_link(rows: Sequence[Row]) -> str:
    """A link that carries the CSV itself: nothing is left on the server, and nobody else can ask for it."""
    content = base64.b64encode(("\ufeff" + as_csv(rows)).encode("utf-8", "backslashreplace")).decode()
    return f"<a download='imagereward-scores.csv' href='data:text/csv;charset=utf-8;base64,{content}'>Download CSV</a>"
