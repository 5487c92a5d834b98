"""What the tab shows of a run, as HTML made of text alone: names and messages come from files, and are escaped."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ..core import drawing, measures
from ..core import runs as protocol

Run = Mapping[str, Any]
State, Command, EventKind = protocol.State, protocol.Command, protocol.EventKind
FAILED = (State.FAILED, State.DIED, State.DAMAGED)
PHASES = {
    State.QUEUED: "waiting for its turn",
    State.STARTING: "starting the training process",
    State.PREPARING: "preparing",
    State.EVALUATING: "drawing held-out pictures",
    State.EXPORTING: "writing the result",
    State.PAUSED: "paused",
    State.FINISHED: "finished",
    State.STOPPED: "stopped",
    State.STOP_RULE: "ended by the stop rule",
    State.FAILED: "failed",
    State.DIED: "ended unexpectedly",
    State.CANCELLED: "cancelled",
    State.DAMAGED: "damaged",
}
PENDING = {
    Command.PAUSE: "Pausing: the sample in hand is finished first, then the GPU is free.",
    Command.RESUME: "Resuming …",
    Command.SAMPLE: "Samples are drawn after the one in hand.",
    Command.SAVE: "Saving after the sample in hand.",
    Command.STOP: "Stopping: the last complete update and the best result so far are written.",
    Command.STOP_NOW: "Stopping at once …",
}


def text(value: Any) -> str:
    """Escaped for HTML, whatever it is."""
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def note(message: str, kind: str = "") -> str:
    """A line for the user; kind: "", "error", "warning" or "good"."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="imagereward-refl-note {kind}" role="{role}">{text(message)}</p>' if message else ""


def duration(seconds: float) -> str:
    """For people, rounded up: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(math.ceil(seconds), 1)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def phase(run: Run, now: float) -> str:
    """What a run is doing, with its count, and how long the rest will take as far as that is known."""
    state = State(run["state"])
    update = f"update {run['step']} of {run['max_steps']}"
    words = PHASES.get(state, update)
    if state is State.TRAINING:
        current = min(run["step"] + 1, run["max_steps"])
        words = f"update {current} of {run['max_steps']}"
        words += f", sample {min(run['done'] + 1, run['total'])} of {run['total']}" if run["total"] else ""
    elif run["total"]:
        words += f", {run['done']} of {run['total']}"
    if state is not State.TRAINING and (run["step"] or state.ended or state is State.PAUSED):
        words += f", {update}" if state.ended or state is State.PAUSED else f" after {update}"
    return words + _left(run, state, now)


def _left(run: Run, state: Any, now: float) -> str:
    if not state.active or state is State.PAUSED:
        return ""
    seconds = run["seconds_left"]
    if seconds:
        return f", about {duration(seconds)} left"
    if run["done"] and run["total"] and run["since"]:
        left = (now - run["since"]) / run["done"] * (run["total"] - run["done"])
        return f", about {duration(left)} left of this step" if left > 0 else ""
    return ", the time is known after the first update"


def share(run: Run) -> float:
    """How much of the run is done, 0 to 1."""
    if not run["max_steps"]:
        return 0.0
    part = run["done"] / run["total"] if run["total"] and run["state"] == State.TRAINING else 0.0
    return float(min((run["step"] + part) / run["max_steps"], 1.0))


def status(run: Run | None, now: float, live: bool) -> str:
    """The head of the running view. live: whether the page is to look again soon."""
    mark = f'<i data-live="{int(live)}"></i>'
    if run is None:
        return f"{mark}<p>No runs yet. What a run does, and what came of it, will stand here.</p>"
    state = State(run["state"])
    kind = "error" if state in FAILED else "warning" if state is State.STOP_RULE else ""
    lines = " ".join(f"{part.rstrip('.')}." for part in (run["message"], run["hint"]) if part)
    head = f"<b>{text(run['checkpoint'])}</b>: {text(phase(run, now))}"
    bar = (
        f'<div class="imagereward-refl-bar" role="progressbar" aria-valuenow="{100 * share(run):.0f}"'
        f' aria-valuemin="0" aria-valuemax="100"><div style="width:{100 * share(run):.1f}%"></div></div>'
    )
    heard = PENDING.get(run["pending"], "")  # in place of the process's own word, which says the same
    said = note(heard, "warning") or note(lines[:1].upper() + lines[1:], kind)
    path = Path(run["result"])
    place = text(f"{path.parent.name}/{path.name}")
    wrote = f'<p>Wrote <code title="{text(path)}">{place}</code></p>' if has_result(run) else ""
    return f'{mark}<div class="imagereward-refl-status {kind}"><p role="status">{head}</p>{bar}</div>{said}{wrote}'


def has_result(run: Run) -> bool:
    """Whether there is something to use: the stop rule pauses with the best so far written."""
    return bool(run["result"]) and (State(run["state"]).ended or run["state"] == State.PAUSED)


def strength(events: Sequence[Mapping[str, Any]]) -> str:
    """At which strength the LoRA is to be used, by what was measured at the end of the run: "1.25"; "1" where nothing
    was, or no strength was better than the base model.
    """
    use = _dialled(events).get("use")
    return f"{use:g}" if _finite(use) and 0 < use < 10 else "1"


def _dialled(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The newest measurement of strengths."""
    return next((event for event in reversed(events) if event["type"] == EventKind.DIAL), {})


def verdict(events: Sequence[Mapping[str, Any]]) -> str:
    """The newest evaluation in words, and how much of the log is damaged."""
    found = measures.verdict(measures.of_run(events)[1])
    torn = sum(event["type"] == EventKind.DAMAGED for event in events)
    lines = f"{torn} line{'s' if torn > 1 else ''} of this run's log cannot be read and {'are' if torn > 1 else 'is'}"
    damage = note(f"{lines} left out.", "warning") if torn else ""
    kind = {True: "good", False: "error", None: ""}
    return (note(found.text, kind[found.sound]) if found else "") + damage


def dial(events: Sequence[Mapping[str, Any]], name: str) -> str:
    """What the LoRA of this name does at each strength, with a button for each that puts it into the prompt; "" where
    it was not measured.
    """
    told = _dialled(events)
    marks = [mark for mark in told.get("marks") or () if isinstance(mark, Mapping) and _finite(mark.get("strength"))]
    if not marks:
        return ""
    use = told.get("use") if _finite(told.get("use")) else None
    drawn = drawing.figures(measures.by_strength(marks, use))
    advice = measures.dial_verdict(marks, use)
    buttons = "".join(_strength(mark, use) for mark in marks if mark["strength"] > 0) if name else ""
    return (
        f'<section class="imagereward-refl-dial" data-lora="{text(name)}">'
        f"<h4>Alignment dial</h4>{note(advice.text, 'good' if advice.sound else 'warning')}"
        f'<div class="imagereward-refl-strengths">{buttons}</div>'
        f'<div class="imagereward-refl-curves">{drawn}</div></section>'
    )


def _strength(mark: Mapping[str, Any], use: float | None) -> str:
    """The button of one strength, and why not to press it."""
    value, why = mark["strength"], str(mark.get("verdict") or "")
    kind = " recommended" if value == use else " refused" if why else ""
    reward = f"reward {mark['reward']:.2f}" if _finite(mark.get("reward")) else ""
    title = "; ".join(filter(None, ["puts it into txt2img's prompt", reward, why]))
    word = f"Use at {value:g}" if value == use else f"{value:g}"
    kind = f' class="{kind.strip()}"' if kind else ""
    return f'<button type="button" data-strength="{value:g}"{kind} title="{text(title)}">{word}</button>'


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def curves(events: Sequence[Mapping[str, Any]]) -> str:
    """Every measure over the updates; bands are standard errors of the change."""
    drawn = drawing.figures(measures.curves(*measures.of_run(events)))
    return f'<div class="imagereward-refl-curves">{drawn}</div>' if drawn else ""


def wall(run: Run | None, found: Mapping[str, Any] | None) -> str:
    """The wall's data, of which the page's script makes a row a prompt, a column an evaluation; "" without pictures."""
    if run is None or found is None:
        return ""
    told = {**found, "run": run["id"], "updates": run["max_steps"], "ended": State(run["state"]).ended}
    return f'<div class="imagereward-refl-wall" data-wall="{text(json.dumps(told))}"></div>'


def label(run: Run) -> str:
    """A run in the list."""
    word = PHASES.get(State(run["state"]), "training")
    return f"{run['id']} · {word} · {run['step']} of {run['max_steps']}"


def log(lines: str) -> str:
    """The end of the log."""
    return f'<pre class="imagereward-refl-log">{text(lines)}</pre>'


def libraries(found: Mapping[str, Any]) -> str:
    """What is missing before a run can start; "" where nothing is."""
    if not found["missing"]:
        return ""
    if found["installing"]:
        return note("Installing the training libraries …")
    needed = ", ".join(found["missing"])
    told = note(
        f"Training needs libraries that this WebUI lacks: {needed}. They go into a folder of their own.", "warning"
    )
    return told + (f'<pre class="imagereward-refl-log">{text(found["error"])}</pre>' if found["error"] else "")


def estimate(found: Mapping[str, Any]) -> str:
    """The memory of a run: a sentence, and a table of batch and resolution."""
    seconds, fits = found.get("seconds"), found.get("fits")
    sentence = f"{found['text'][:1].upper()}{found['text'][1:]}."
    sentence += f" It does not fit: choose a smaller batch or resolution{_other_base(found)}." if fits is False else ""
    sentence += f" About {duration(seconds)} for all updates, by an earlier run like this." if seconds else ""
    told = note(sentence, "error" if fits is False else "") + _by_base(found.get("bases", ()))
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for cell in found.get("table", ()):
        rows.setdefault(int(cell["resolution"]), []).append(cell)
    if not rows:
        return told
    sizes = [int(cell["batch"]) for cell in next(iter(rows.values()))]
    head = "".join(f"<th>{size} at once</th>" for size in sizes)
    body = "".join(f"<tr><th>{pixels} px</th>{''.join(map(_cell, cells))}</tr>" for pixels, cells in rows.items())
    caption = "<caption>GB that a run needs, by resolution and samples at once</caption>"
    return f'{told}<table class="imagereward-refl-table">{caption}<tr><td></td>{head}</tr>{body}</table>'


def _other_base(found: Mapping[str, Any]) -> str:
    """That another base would fit into what is free, where one would."""
    room = (found.get("free") or 0) / 2**30
    fitting = [cell["base"] for cell in found.get("bases", ()) if cell["gb"] <= room]
    return f", or keep the base model in {fitting[0]}, which fits" if fitting else ""


def _by_base(cells: Sequence[Mapping[str, Any]]) -> str:
    """Which card a run fits, by what its base is kept in."""
    told = [f"{cell['base']} {cell['gb']:.1f} GB ({_card(cell['card'])})" for cell in cells]
    return note(f"By what the base model is kept in: {', '.join(told)}.") if told else ""


def _card(size: int | None) -> str:
    return f"a card of {size} GB" if size else "more than a card of 24 GB"


def _cell(cell: Mapping[str, Any]) -> str:
    mark = {True: "fits", False: "too large", None: ""}[cell.get("fits")]
    chosen = " chosen" if cell.get("chosen") else ""
    shown = f"{cell['gb']:.1f}" + (f" <small>{mark}</small>" if mark else "")
    return f'<td class="{mark.replace(" ", "-")}{chosen}">{shown}</td>'
