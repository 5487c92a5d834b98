"""What is told of a run: its settings, typed; its status, corrected; and what it can be told in turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import runs as protocol

Command, Name, State = protocol.Command, protocol.Name, protocol.State

KINDS = {  # what a summary needs of the settings
    "max_train_steps": int,
    "pretrained_model_name_or_path": str,
    "algorithm": str,
    "rewards": list,
    "device": str,
    "output_name": str,
    "export_dir": str,
}
ENDED_HINT = "It can be resumed: Resume continues from the last saved state."
LOST_HINT = "Nothing had been saved yet: Clone its settings and start again."


def ended_silently(code: int | None) -> str:
    """What is said of a process that left an active state behind. code: subprocess's, None if it was not our child."""
    how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit code {code})"
    return f"the training process ended unexpectedly{how}: see the log"


def described(
    run_id: str, settings: Mapping[str, Any], status: Any, resumable: bool, pending: str = ""
) -> dict[str, Any]:
    """A run's summary for the page. pending: a command that was sent and has not taken effect."""
    checkpoint = settings.get("pretrained_model_name_or_path", "")
    return {
        "id": run_id,
        "state": status.state.value,
        "active": status.state.active,
        "step": status.step,
        "max_steps": settings.get("max_train_steps", 0),
        "checkpoint": Path(checkpoint).name,
        "algorithm": settings.get("algorithm", "refl+"),
        "rewards": [Path(item).name for item in settings.get("rewards", [])],
        "device": settings.get("device", ""),
        "message": status.message,
        "hint": status.hint,
        "seconds_left": status.seconds_left,
        "done": status.done,
        "total": status.total,
        "since": status.since,
        "pending": pending,
        "result": status.result,
        "resumable": resumable,
        "commands": [command.value for command in commands_for(status.state, resumable)],
    }


def pending(status: Any, newest: tuple[int, str]) -> str:
    """The command that has not taken effect in a run yet, or "". newest: number and word of the last one that was sent.
    A pause or stop that was read takes effect after the sample in hand.
    """
    number, word = newest
    if not status.state.active or number <= status.control_start:
        return ""
    lasting = word in (Command.STOP, Command.STOP_NOW) or (word == Command.PAUSE and status.state is not State.PAUSED)
    return word if number > status.control_id or lasting else ""


def commands_for(state: Any, resumable: bool) -> list[Any]:
    """What a run in this state can be told."""
    if state.active:
        change = Command.RESUME if state is State.PAUSED else Command.PAUSE
        return [change, Command.SAMPLE, Command.SAVE, Command.STOP, Command.STOP_NOW]
    if state is State.QUEUED:
        return [Command.STOP]
    done = state in (State.FINISHED, State.CANCELLED)
    return [Command.RESUME] if resumable and not done else []


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of a run, with those that are used here of the right kind."""
    settings: dict[str, Any] = protocol.read_settings(path)
    for name, kind in KINDS.items():
        value = settings.get(name, kind())
        if not isinstance(value, kind) or isinstance(value, bool):
            raise protocol.RunDamaged(f"the settings of this run are damaged: {name} is {value!r}")
    if not all(isinstance(item, str) for item in settings.get("rewards", [])):
        raise protocol.RunDamaged(f"the settings of this run are damaged: rewards is {settings['rewards']!r}")
    return settings


def damaged(error: Any) -> Any:
    """The status of a run with a file that cannot be read."""
    return protocol.Status(State.DAMAGED, message=str(error), hint=error.hint)


def replaced(status: Any, **changes: Any) -> Any:
    """The same status but for some values."""
    return protocol.Status(**{**vars(status), **changes})


def last_step(path: Path) -> int:
    """The update of the newest saved state; 0 if there is none."""
    return protocol.resumable_step(path) or 0


DEFAULTS: dict[str, Any] = {"eval_seeds": 2, "output": "lora"}  # before the process has written what it decided


def setting(folder: Path, name: str) -> Any:
    """A setting of a run: its own if it is of the right kind."""
    default = DEFAULTS[name]
    try:
        found = protocol.read_settings(folder).get(name, default)
    except protocol.RunDamaged:
        return default
    return found if isinstance(found, type(default)) and found else default
