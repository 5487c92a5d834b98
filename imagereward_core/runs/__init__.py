"""Training runs: the one description of a run's folder, for the process that trains, the tab, the page and scripts.

config.json     the settings as they are used; replaced whole once the model is known (what was None is then decided)
asked.json      the settings as they were asked for, written once
status.json     the present state, replaced whole, with a heartbeat every two seconds
events.jsonl    one JSON object a line, appended: steps, evaluations, samples, checkpoints, state changes, errors
control.json    written by whoever controls the run: {"id": 3, "command": "pause"}; the highest id wins
run.lock        locked by the operating system while a process trains here, so that a killed run leaves no stale lock
queued          exists while a run waits for its turn
keep_going      "1" if the run outlives the WebUI
log.txt         what the training process printed
samples/ checkpoints/ report.html

Files, not pipes or signals: they survive a page reload and a restart of the WebUI, and work the same on Windows.
Needs neither torch nor a training library. What comes from a file is typed before it is used: a file that is torn or
holds something else is a RunDamaged with its name, never an empty answer.
"""

from __future__ import annotations

from .branching import branch, branch_name
from .errors import RunBusy, RunDamaged, RunError, RunUnwritable
from .protocol import COMMANDS, HEARTBEAT, STALE, Command, EventKind, Name, State, schema
from .reading import (
    Status,
    parse_json,
    read_command,
    read_events,
    read_object,
    read_settings,
    read_status,
    resumable_step,
    saved_states,
    settled,
    tail,
)
from .results import (
    bytes_free,
    check_name,
    check_space,
    check_writable,
    derived_name,
    free_name,
    taken_names,
)
from .writing import RunFolder, send, write_settings, write_status

__all__ = [
    "COMMANDS",
    "HEARTBEAT",
    "STALE",
    "Command",
    "EventKind",
    "Name",
    "RunBusy",
    "RunDamaged",
    "RunError",
    "RunFolder",
    "RunUnwritable",
    "State",
    "Status",
    "branch",
    "branch_name",
    "bytes_free",
    "check_name",
    "check_space",
    "check_writable",
    "derived_name",
    "free_name",
    "parse_json",
    "read_command",
    "read_events",
    "read_object",
    "read_settings",
    "read_status",
    "resumable_step",
    "saved_states",
    "schema",
    "send",
    "settled",
    "tail",
    "taken_names",
    "write_settings",
    "write_status",
]
