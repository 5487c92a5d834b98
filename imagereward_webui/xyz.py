"""X/Y/Z plot: axes for the scorer and the limit, and a CSV of the scores beside the grid."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import host
from .core import logger
from .files import unused_path
from .lifecycle import available
from .request import ScoreRequest

SCRIPT_TITLE = "X/Y/Z plot"
AXES_ATTRIBUTE = "imagereward_axes"
_waiting: list[Path] = []  # the CSV of the running job, until its grid is saved: the host runs one job at a time
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
)


def set_axis(attr: str) -> Callable[[Any, Any, Any], None]:
    """The function an axis calls per cell: `p` is a shallow copy for the cell, so a new dict is assigned, never
    changed.
    """

    def apply(p: Any, value: Any, _values: Any) -> None:
        setattr(p, AXES_ATTRIBUTE, {**getattr(p, AXES_ATTRIBUTE, {}), attr: value})

    return apply


def confirm_scorers(_p: Any, names: list[str]) -> None:
    """Checked by the host before the first cell; raises on a name that doesn't exist."""
    known = available(host.models_dir())
    for name in names:
        if name not in known:
            raise RuntimeError(f"Unknown scorer: {name}; there are: {', '.join(known)}")


def add_axes() -> None:
    """Add our axes to the X/Y/Z script (its module is a fresh one after each Reload UI)."""
    for data in host.module("scripts").scripts_data:
        module = data.module
        if getattr(data.script_class, "__module__", "") != "xyz_grid.py" or not hasattr(module, "axis_options"):
            continue
        labels = {option.label for option in module.axis_options}
        for axis in (
            module.AxisOption(
                "[ImageReward] Scorer",
                str,
                set_axis("scorer"),
                confirm=confirm_scorers,
                choices=lambda: available(host.models_dir()),
            ),
            module.AxisOption("[ImageReward] Score limit", float, _set_limit),
        ):
            if axis.label not in labels:
                module.axis_options.append(axis)


def _set_limit(p: Any, value: float, values: Any) -> None:
    set_axis("limit")(p, value, values)
    set_axis("filter_by")(p, "score", values)


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
        for entry in entries:
            scored = entry.score is not None
            writer.writerow(
                [
                    cell,
                    os.path.basename(entry.path or ""),
                    request.scorer,
                    f"{entry.score:.4f}" if scored else "",
                    request.passes(entry.score) if scored else "",
                    entry.seed,
                    p.steps,
                    p.sampler_name,
                    p.cfg_scale,
                    p.width,
                    p.height,
                    entry.prompt,
                    entry.negative_prompt,
                    getattr(p, "sd_model_name", ""),
                ]
            )
    _waiting[:] = [path]
    return path


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
    try:
        os.replace(path, unused_path(Path(params.filename).with_suffix(".csv")))
    except OSError as error:
        logger.warning("%s stays where it is: %s", path, error)
