"""Names: states of a run, commands to it, kinds of its events, files of its folder."""

from __future__ import annotations

from enum import Enum
from typing import Any

HEARTBEAT = 2.0  # seconds between two writes of status.json
STALE = 20.0  # seconds without one after which a process counts as dead


class _Word(str, Enum):
    """A member is its word, in JSON and in text alike."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)


class State(_Word):
    """What a run is doing, or how it ended."""

    QUEUED = "queued"
    STARTING = "starting"
    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    STOP_RULE = "stop_rule"
    FAILED = "failed"
    DIED = "died"
    CANCELLED = "cancelled"
    DAMAGED = "damaged"

    @property
    def active(self) -> bool:
        """Whether a process is at work."""
        return self in _ACTIVE

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self not in _ACTIVE and self is not State.QUEUED


_ACTIVE = frozenset({State.STARTING, State.PREPARING, State.TRAINING, State.EVALUATING, State.EXPORTING, State.PAUSED})


class Command(_Word):
    """What a run can be told."""

    PAUSE = "pause"
    RESUME = "resume"
    SAMPLE = "sample"
    SAVE = "save"
    STOP = "stop"
    STOP_NOW = "stop_now"


HEARD: dict[Command, str] = {
    Command.PAUSE: "Pausing as soon as the present step is done.",
    Command.RESUME: "Going on.",
    Command.SAMPLE: "Drawing pictures as soon as the present step is done.",
    Command.SAVE: "Saving as soon as the present step is done.",
    Command.STOP: "Saving and stopping as soon as the present step is done.",
    Command.STOP_NOW: "Stopping.",
}
"""What the status says from the moment a command is heard until it is obeyed."""

COMMANDS = tuple(command.value for command in Command)


class EventKind(_Word):
    """Kinds of lines in events.jsonl. `damaged` is never written: it stands for a line that cannot be read."""

    STATE = "state"
    STEP = "step"
    EVALUATION = "evaluation"
    SAMPLES = "samples"
    CHECKPOINT = "checkpoint"
    RESUMED = "resumed"
    STOP_RULE = "stop_rule"
    EXPORTED = "exported"
    DIAL = "dial"
    ERROR = "error"
    DAMAGED = "damaged"


class Name:
    """Files of a run's folder."""

    CONFIG = "config.json"
    ASKED = "asked.json"
    STATUS = "status.json"
    EVENTS = "events.jsonl"
    CONTROL = "control.json"
    LOCK = "run.lock"
    QUEUED = "queued"
    KEEP_GOING = "keep_going"
    LOG = "log.txt"
    REPORT = "report.html"
    SAMPLES = "samples"
    CHECKPOINTS = "checkpoints"
    STATE = "state.json"  # in each folder of checkpoints/


def schema() -> dict[str, Any]:
    """The names a page needs: it copies none."""
    return {
        "states": [state.value for state in State],
        "active": [state.value for state in State if state.active],
        "ended": [state.value for state in State if state.ended],
        "failed": [State.FAILED.value, State.DIED.value, State.DAMAGED.value],
        "commands": list(COMMANDS),
        "events": {kind.name.lower(): kind.value for kind in EventKind},
        "paused": State.PAUSED.value,
    }
