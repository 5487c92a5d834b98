"""A new run that goes on from a saved state of another one, which stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic import replacing_folder
from .errors import RunError, RunUnwritable
from .protocol import EventKind, Name
from .reading import read_events, read_object, read_settings, saved_states, settled
from .results import derived_name
from .writing import finite, write_settings

KEPT = (EventKind.STEP, EventKind.EVALUATION, EventKind.SAMPLES)  # events that the branch has in common with the run


def branch_name(settings: Mapping[str, Any], step: int) -> str:
    """What the result of a branch at this update is called, if that is free."""
    source = Path(str(settings.get("pretrained_model_name_or_path") or "model"))
    return f"{settings.get('output_name') or derived_name(source.stem)}-from-{step}"


def branch(
    source: str | os.PathLike[str],
    step: int,
    target: str | os.PathLike[str],
    changes: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make `target`, the folder of a run that goes on from update `step` of the run in `source`; returns its settings,
    which are that run's but for `changes`. Curves and pictures up to there come along. files: what else stands in the
    folder from its beginning, by name. Nothing in `source` is written.

    Raises RunError where there is no such saved state or `target` exists, RunDamaged, RunUnwritable.
    """
    source, target = Path(source), Path(target)
    states = {path.name: path for path in saved_states(source)}
    name = f"step-{step:06d}"
    if name not in states:
        there = ", ".join(str(int(name[5:])) for name in states) or "none"
        raise RunError(f"update {step} has no saved state that is still kept; there are: {there}")
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise RunError(f"{target} exists already: a branch needs a folder of its own")
    settings = {**read_settings(source), **changes}
    settings |= {"output_dir": str(target), "resume_from_checkpoint": "latest"}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(target) as fresh:
            for state in {name, _best(states[name])} & states.keys():
                shutil.copytree(states[state], fresh / Name.CHECKPOINTS / state)
            _copy_past(source, step, fresh)
            for file, content in (files or {}).items():
                (fresh / file).write_text(content, encoding="utf-8")
            write_settings(fresh, settings, Name.ASKED)
            write_settings(fresh, settings)
    except OSError as error:
        raise RunUnwritable(f"the run folder {target} cannot be written: {error}") from error
    return settings


def _best(state: Path) -> str:
    """The state that a run in this state would export."""
    info = (read_object(state / Name.STATE, finite=False) or {}).get("info")
    best = info.get("best") if isinstance(info, dict) else None
    if isinstance(best, list) and best and isinstance(best[0], int):
        return f"step-{best[0]:06d}"
    return state.name


def _copy_past(source: Path, step: int, target: Path) -> None:
    """Events and contact sheets up to that update."""
    (target / Name.SAMPLES).mkdir(parents=True)
    lines = []
    for event in settled(read_events(source / Name.EVENTS, ended=True)):
        number = event.get("step", 0)
        if event["type"] not in KEPT or not isinstance(number, (int, float)) or number > step:
            continue
        lines.append(json.dumps(finite(event), allow_nan=False))
        picture = source / Name.SAMPLES / Path(str(event.get("path"))).name
        if event["type"] == EventKind.SAMPLES and picture.is_file():
            shutil.copy(picture, target / Name.SAMPLES / picture.name)
    (target / Name.EVENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
