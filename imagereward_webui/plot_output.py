"""What a plot leaves behind: the score on each picture of its grid, and a CSV of the scores beside it."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from . import host
from .core import logger, printable, replace
from .fields import as_text
from .files import unused_path
from .request import ScoreRequest

LABEL = "imagereward_label"  # an attribute of a picture in a finished cell
_waiting: list[Path] = []  # the CSV of the running job, until its grid is saved: the host runs one job at a time
_placed: list[Path] = []  # where it came to lie
COLUMNS = (
    "cell",
    "file",
    "scorer",
    "score",
    "passes",
    "seed",
    "steps",
    "sampler",
    "cfg_scale",
    "width",
    "height",
    "prompt",
    "negative_prompt",
    "model",
    "disagreement",
    "by_scorer",
)


# --- scores on the pictures -------------------------------------------------------------------------


def cell_done(p: Any, request: ScoreRequest, entries: list[Any], processed: Any) -> None:
    """A cell of the plot was scored: note it in the CSV, and what is to be drawn on its pictures. A cell of several
    images shows their grid.
    """
    write_rows(p, request, entries)
    scores = [entry.score for entry in entries if entry.score is not None]
    for entry in entries:
        if entry.score is not None:
            setattr(entry.image, LABEL, f"{entry.score:.2f}")
    if processed.index_of_first_image == 1 and scores:
        text = f"mean {sum(scores) / len(scores):.2f}, best {max(scores):.2f}"
        setattr(processed.images[0], LABEL, text)


def draw_scores(params: Any) -> None:
    """Write its score on each picture that the plot joins to a grid (a callback of `on_image_grid`). The pictures
    themselves stay as they are.
    """
    labels = [getattr(image, LABEL, "") for image in params.imgs]
    if any(labels):
        params.imgs = [_labelled(image, label) if label else image for image, label in zip(params.imgs, labels)]


def _labelled(image: Any, label: str) -> Any:
    from PIL import ImageDraw

    drawn = image.convert("RGB")
    size = max(10, min(drawn.width // 12, 48))
    font = host.font(size)
    pen = ImageDraw.Draw(drawn)
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    margin = size // 4
    x, y = margin, drawn.height - (bottom - top) - 3 * margin
    pen.rectangle((x, y, x + right - left + 2 * margin, y + bottom - top + 2 * margin), fill="black")
    pen.text((x + margin - left, y + margin - top), label, fill="white", font=font)
    return drawn


# --- the CSV ----------------------------------------------------------------------------------------


def write_rows(p: Any, request: ScoreRequest, entries: list[Any]) -> Path | None:
    """Append this cell's images to `xyz-scores-<time>.csv` in the grids' folder, to be renamed after the grid when that
    is saved; None if grids are not saved.
    """
    shared = host.module("shared")
    if not shared.opts.grid_save:
        return None
    folder = Path(p.outpath_grids)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"xyz-scores-{shared.state.job_timestamp}.csv"
    cell = 1
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            cell = 1 + max((int(row["cell"]) for row in csv.DictReader(file)), default=0)
    new = cell == 1
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerows(_row(p, request, entry, cell) for entry in entries)
    _waiting[:] = [path]
    return path


def _row(p: Any, request: ScoreRequest, entry: Any, cell: int) -> list[Any]:
    scored = entry.score is not None
    return [
        cell,
        printable.csv_cell(os.path.basename(entry.path or "")),
        printable.csv_cell(as_text(request.scorers)),
        f"{entry.score:.4f}" if scored else "",
        request.passes(entry.score) if scored else "",
        entry.seed,
        p.steps,
        p.sampler_name,
        p.cfg_scale,
        p.width,
        p.height,
        printable.csv_cell(entry.prompt),
        printable.csv_cell(entry.negative_prompt),
        printable.csv_cell(getattr(p, "sd_model_name", "")),
        "" if entry.disagreement is None else f"{entry.disagreement:.4f}",
        as_text([f"{name} {value:.4f}" for name, value in entry.by_scorer.items()]),
    ]


def grid_saved(params: Any) -> None:
    """Put the CSV beside the grid that the host has just saved, under the grid's name (the first grid is the whole
    one).
    """
    # the X/Y/Z script saves its grids, and nothing else, with the result in the place of the job
    if not _waiting or not hasattr(params.p, "index_of_first_image"):
        return
    path = _waiting.pop()
    if host.module("shared").state.job_timestamp not in path.name:
        return  # left by a job that was interrupted before its grid
    target = unused_path(Path(params.filename).with_suffix(".csv"))
    try:
        replace(path, target)
        _placed[:] = [target]
    except OSError as error:
        logger.warning("%s stays where it is: %s", path, error)
        _placed[:] = [path]


def csv_place() -> str:
    """Where this plot's scores are, in a sentence; "" where none were written."""
    places = [*_placed, *_waiting]
    _placed.clear()
    _waiting.clear()
    return f"scores of all cells: {places[0]}" if places else ""
