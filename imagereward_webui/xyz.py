"""X/Y/Z plot: axes for the scorer and the limit. Cells that differ in nothing else share one picture, which is made
once and scored again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import host, plot_output, start
from . import session as sessions
from .core import module as core_module
from .core import naming, registry, tastes, with_settings
from .fields import SEPARATOR
from .infotext import ALL_KEYS, BROWSER_KEY, score_keys, settings
from .job import clear
from .lifecycle import available
from .results import Entry
from .start import AXES

SCRIPT_MODULE = "xyz_grid.py"
APPLIED = "_imagereward_applied"  # what the plot's other axes did to this cell
LABELS = ("[ImageReward] Scorer", "[ImageReward] Score limit")
WATCHED = "imagereward_original"


# --- the axes -------------------------------------------------------------------------------------


def set_axis(attr: str) -> Callable[[Any, Any, Any], None]:
    """The function an axis calls per cell: `p` is a shallow copy for the cell, so a new dict is assigned, never
    changed.
    """

    def apply(p: Any, value: Any, _values: Any) -> None:
        setattr(p, AXES, {**getattr(p, AXES, {}), attr: value})

    return apply


def _set_scorer(p: Any, value: str, values: Any) -> None:
    """One scorer, or several as a panel: `ImageReward-v1.0; PickScore`."""
    panel = value if SEPARATOR in value else ""
    set_axis("panel")(p, panel, values)
    if not panel:
        set_axis("scorer")(p, value, values)


def _names_in(value: str) -> list[str]:
    return [name.strip() for name in value.split(SEPARATOR) if name.strip()]


def _set_limit(p: Any, value: float, values: Any) -> None:
    set_axis("limit")(p, value, values)
    set_axis("filter_by")(p, "score", values)


def confirm_scorers(_p: Any, names: list[str]) -> None:
    """Checked by the host before the first cell; raises on a name that doesn't exist, and on weights that are not here:
    a plot that stops for gigabytes at its third cell is worse than one that does not start.
    """
    known = available(host.models_dir())
    names = list(dict.fromkeys(name for value in names for name in _names_in(value)))
    for name in names:
        if name not in known:
            raise RuntimeError(f"Unknown scorer: {name}; there are: {', '.join(known)}")
    if missing := [text for name in names if (text := missing_weights(name))]:
        raise RuntimeError(
            f"Weights are missing: {'; '.join(missing)}. Generate one image with each of these scorers, which downloads"
            " them, or run: python -m imagereward_core fetch NAME"
        )


def confirm_limit(p: Any, _limits: list[float]) -> None:
    """The same for the scorer that the accordion names."""
    confirm_scorers(p, list(start.request_of(p).scorers))


def missing_weights(name: str) -> str:
    """What this scorer still has to download, with its size, or "" if all is here."""
    if (taste := tastes.find(name)) is not None and (told := tastes.about(taste)) is not None:
        name = told.base.source
    if name not in registry.names():
        return ""
    missing = core_module("weights").missing(registry.get(name), models_dir=host.models_dir())
    wanted = [f"{source.local_name} ({source.about / 1e9:.1f} GB)" for source in missing]
    return f"{name} needs {' and '.join(wanted)}" if wanted else ""


def add_axes() -> None:
    """Add our axes to the X/Y/Z script, and have it use pictures again that differ in nothing but their score (its
    module is a fresh one after each Reload UI).
    """
    for data in host.module("scripts").scripts_data:
        module = data.module
        if getattr(data.script_class, "__module__", "") != SCRIPT_MODULE or not hasattr(module, "axis_options"):
            continue
        known = {option.label for option in module.axis_options}
        scorer = module.AxisOption(
            LABELS[0],
            str,
            _set_scorer,
            confirm=confirm_scorers,
            choices=lambda: available(host.models_dir()),
        )
        limit = module.AxisOption(LABELS[1], float, _set_limit, confirm=confirm_limit)
        module.axis_options += [axis for axis in (scorer, limit) if axis.label not in known]
        for axis in module.axis_options:
            if axis.label not in LABELS:
                _record(axis)
        if hasattr(module, "process_images"):
            _reuse_pictures(module)
        sessions.watch(data.script_class, on_job=plot_output.cell_done, tell=plot_output.csv_place)


def _record(axis: Any) -> None:
    """Have an axis of the plot leave a note of what it did on the cell's `p`."""
    original = getattr(axis.apply, WATCHED, axis.apply)

    @functools.wraps(original)
    def apply(p: Any, value: Any, values: Any) -> Any:
        setattr(p, APPLIED, (*getattr(p, APPLIED, ()), (axis.label, repr(value))))
        return original(p, value, values)

    vars(apply)[WATCHED] = original
    axis.apply = apply


# --- one picture, many scores -----------------------------------------------------------------------


@dataclass
class Kept:
    """A finished cell: the host's result, what generating left on its `p`, and its images as they were scored."""

    processed: Any
    made: dict[str, Any]
    entries: list[Entry]


def picture_of(p: Any) -> tuple[str, ...] | None:
    """What tells one picture of a plot from another: what its axes did to the cell, and the seed. None where an axis is
    at work whose doings we did not see.
    """
    state = host.module("shared").state
    applied = getattr(p, APPLIED, ())
    seen = {label for label, _ in applied} | {*LABELS, "Nothing"}
    axes = [getattr(getattr(state, f"xyz_plot_{letter}", None), "axis", None) for letter in "xyz"]
    if any(axis is None or axis.label not in seen for axis in axes):
        return None
    return (*map(repr, applied), repr(p.seed), repr(p.subseed))


def _reuse_pictures(module: Any) -> None:
    original = getattr(module.process_images, WATCHED, module.process_images)

    @functools.wraps(original)
    def process_images(p: Any) -> Any:
        session = sessions.of(p)
        picture = picture_of(p) if session is not None and getattr(p, AXES, None) else None
        if session is None or picture is None:
            return original(p)
        kept = session.memory.get(picture)
        if kept is not None:
            return score_again(p, session, kept)
        before = dict(vars(p))
        processed = original(p)
        if session.last and not host.interrupted():
            made = {name: value for name, value in vars(p).items() if before.get(name) is not value}
            session.memory[picture] = Kept(processed, made, session.last)
        return processed

    vars(process_images)[WATCHED] = original
    module.process_images = process_images


def score_again(p: Any, session: sessions.Session, kept: Kept) -> Any:
    """The result of a cell whose picture is there already: the same pictures with this cell's scores. They are not
    saved again.
    """
    for name, value in kept.made.items():
        setattr(p, name, value)
    job = start.start_job(p, start.request_of(p), session)
    clear(p)
    job.announce(p)
    copies = {id(image): image.copy() for image in kept.processed.images}
    processed = copy.copy(kept.processed)
    processed.images = [copies[id(image)] for image in kept.processed.images]
    processed.infotexts = list(kept.processed.infotexts)
    first = processed.index_of_first_image
    ours = [
        *ALL_KEYS,
        BROWSER_KEY,
        naming.DISAGREEMENT_KEY,
        *(f"{key}{end}" for key in score_keys(host.option("key")) for end in ("", " model")),
        *job.text.keys,
    ]
    plain = {**dict.fromkeys(ours), **settings(job.request, filtered=False)}
    for k, entry in enumerate(entry.unscored() for entry in kept.entries):
        entry.image = copies.get(id(entry.image), entry.image)
        job.score_entry(entry)
        job.remember(p, entry)
        written = job.text.values(entry)
        text = with_settings(processed.infotexts[first + k], {**plain, **written})
        processed.infotexts[first + k] = text
        if "parameters" in entry.image.info:
            entry.image.info["parameters"] = text
    processed.info = processed.infotexts[0]
    job.finish(p, processed)
    return processed
