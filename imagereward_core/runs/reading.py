"""Readers of a run's files. Each types what it read; a damaged line of the event log never hides the others."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import RunDamaged
from .protocol import EventKind, Name, State

MAX_BYTES = 64 << 20  # of a JSON file; the largest settings, 20,000 prompts, are a tenth of that
SHOWN = 80  # characters of a damaged line that are shown
# What an event must hold to be of use, besides "type".
NUMBERS: dict[str, tuple[str, ...]] = {
    EventKind.STEP: ("step",),
    EventKind.EVALUATION: ("step",),
    EventKind.RESUMED: ("step",),
}


def parse_json(text: str) -> Any:
    """JSON as its standard has it. ValueError for NaN, infinity (1e999 too) and nesting beyond all use."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond all numbers")
    return value


def read_object(path: Path, *, finite: bool = True) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file. RunDamaged if it holds anything else.

    finite=False: NaN and infinity are taken as Python writes them, for files that only Python reads.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RunDamaged(f"{path.name} is damaged: it is larger than {MAX_BYTES >> 20} MB")
        text = path.read_text(encoding="utf-8")
        data = parse_json(text) if finite else json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunDamaged(f"{path.name} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RunDamaged(f"{path.name} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise RunDamaged(f"{path.name} is damaged: an object was expected, found {type(data).__name__}")
    return data


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of the run in this folder. RunDamaged if they are torn or gone."""
    path = Path(folder) / Name.CONFIG
    try:
        data = read_object(path)
    except RunDamaged as error:
        raise RunDamaged(f"the settings of this run are damaged: {error}{_other_copy(path)}") from error
    if data is None:
        raise RunDamaged(f"the settings of this run are damaged: {path} is missing{_other_copy(path)}")
    return data


def _other_copy(path: Path) -> str:
    copy = path.with_name(Name.ASKED)
    try:
        return f"; {copy.name} beside it is whole, copy it over {path.name}" if read_object(copy) else ""
    except RunDamaged:
        return ""


@dataclass(frozen=True)
class Status:
    """status.json. Times are seconds since the epoch; `seconds_left` is None while the pace is unknown.

    done, total: how far the present state's own work is (pictures, or samples of an update), 0 of 0 where it has no
    parts; since: when the state began. control_id: the newest command that was taken; control_start: the newest that
    was for an earlier process.
    """

    state: State
    step: int = 0
    heartbeat: float = 0.0
    message: str = ""
    hint: str = ""
    result: str = ""
    seconds_left: float | None = None
    done: int = 0
    total: int = 0
    since: float = 0.0
    control_id: int = 0
    control_start: int = 0


def read_status(folder: str | os.PathLike[str]) -> Status | None:
    """The status of a run; None if none was written yet. RunDamaged names the value that is wrong."""
    data = read_object(Path(folder) / Name.STATUS)
    if data is None:
        return None
    try:
        state = State(data.get("state", State.STARTING))
    except ValueError:
        raise RunDamaged(f"{Name.STATUS} is damaged: there is no state {data['state']!r}") from None
    number, text = (int, float), (str,)
    return Status(
        state=state,
        step=_typed(data, "step", (int,), 0),
        heartbeat=_typed(data, "heartbeat", number, 0.0),
        message=_typed(data, "message", text, ""),
        hint=_typed(data, "hint", text, ""),
        result=_typed(data, "result", text, ""),
        seconds_left=_typed(data, "seconds_left", (*number, type(None)), None),
        done=_typed(data, "done", (int,), 0),
        total=_typed(data, "total", (int,), 0),
        since=_typed(data, "since", number, 0.0),
        control_id=_typed(data, "control_id", (int,), 0),
        control_start=_typed(data, "control_start", (int,), 0),
    )


def _typed(data: dict[str, Any], name: str, kinds: tuple[type, ...], default: Any) -> Any:
    value = data.get(name, default)
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = "text" if str in kinds else "a number"
        raise RunDamaged(f"{Name.STATUS} is damaged: {name} must be {wanted}, found {value!r}")
    return value


def read_command(folder: str | os.PathLike[str]) -> tuple[int, str]:
    """(number, command) of the newest command; (0, "") if there is none or its file is damaged."""
    try:
        data = read_object(Path(folder) / Name.CONTROL) or {}
    except RunDamaged:
        return 0, ""
    number, command = data.get("id"), data.get("command")
    if not isinstance(number, int) or isinstance(number, bool):
        return 0, ""
    return number, command if isinstance(command, str) else ""


def read_events(path: Path, after: int = 0, *, ended: bool = False) -> list[dict[str, Any]]:
    """Events of a run from line `after` on, one for each line.

    A line that is torn, is no object or lacks what its kind needs becomes {"type": "damaged", "line", "text"}. The last
    one may be in the writing: it is left out until it is whole, unless the run has ended. [] if there is no log.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return []
    *lines, rest = data.split(b"\n")
    events = [_event(line, number) for number, line in enumerate(lines[after:], after + 1)]
    if rest.strip() and len(lines) >= after:
        last = _event(rest, len(lines) + 1)
        if ended or last["type"] != EventKind.DAMAGED:
            events.append(last)
    return events


def _event(line: bytes, number: int) -> dict[str, Any]:
    try:
        event = parse_json(line.decode("utf-8"))
        if isinstance(event, dict) and isinstance(event.get("type"), str) and _complete(event):
            return event
    except ValueError:
        pass
    text = line.decode("utf-8", errors="replace")[:SHOWN]
    return {"type": EventKind.DAMAGED.value, "line": number, "text": text}


def _complete(event: dict[str, Any]) -> bool:
    numbers = (event.get(name) for name in NUMBERS.get(event["type"], ()))
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)


def settled(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a killed process had done after its last saved state: the resumed process did it again."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == EventKind.RESUMED:
            kept = [old for old in kept if _step(old) <= event["step"]]
        kept.append(event)
    return kept


def _step(event: dict[str, Any]) -> float:
    step = event.get("step", 0)
    return step if isinstance(step, (int, float)) else 0


def saved_states(folder: str | os.PathLike[str]) -> list[Path]:
    """Folders of a run's saved states, oldest first; whether they are sound shows when they are loaded."""
    states = Path(folder) / Name.CHECKPOINTS
    return sorted(path for path in states.glob("step-*") if (path / Name.STATE).is_file())


def resumable_step(folder: str | os.PathLike[str]) -> int | None:
    """The update from which the run in this folder can go on, or None."""
    for path in reversed(saved_states(folder)):
        try:
            step = (read_object(path / Name.STATE, finite=False) or {}).get("step")
        except RunDamaged:
            continue
        if isinstance(step, int):
            return step
    return None


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a text file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
