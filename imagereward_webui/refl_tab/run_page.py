"""The right half of the tab: the runs, and what the chosen one does.

`refresh` is called by a heartbeat in the page (javascript/imagereward_refl.js). It sends a component only if what it
shows has changed, by what the page says it has: `memory`, digests by component in a hidden field.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .. import host
from ..core import ImageRewardError
from ..core import runs as protocol
from . import api, pictures, view
from .summaries import setting

ID = "imagereward_refl_"
Command, State = protocol.Command, protocol.State
BUTTONS = {
    Command.PAUSE: "Pause",
    Command.RESUME: "Resume",
    Command.STOP: "Stop and save",
    Command.SAMPLE: "Sample now",
    Command.SAVE: "Save now",
    Command.STOP_NOW: "Stop now",
}
MAIN = (Command.PAUSE, Command.RESUME, Command.STOP)
QUIET = {"queue": False, "show_progress": "hidden"}  # a plain POST, never behind a generation
QUESTION = "`Delete the files of run ${id}? Its exported model stays.`"
CONFIRM = f"(id, memory) => [id && window.confirm({QUESTION}) ? id : '', memory]"
Update = Any


class RunView:
    """The widgets, and the functions behind them."""

    def __init__(self) -> None:
        self.boot = gr.HTML(elem_id=ID + "boot")
        self.memory = gr.Textbox(visible=False)
        self.tick = gr.Button("Refresh", elem_id=ID + "tick")
        self.runs = gr.Radio(choices=[], label="Runs", interactive=True, elem_id=ID + "runs")
        self.status = gr.HTML(elem_id=ID + "status")
        self.verdict = gr.HTML(elem_id=ID + "verdict")
        self.buttons: dict[Any, Any] = {}  # by Command
        with gr.Row():
            for command in MAIN:
                self._button(command, visible=False)
        with gr.Row(visible=False) as self.result_row:
            self.result = gr.Textbox(visible=False)
            self.use = gr.Button("Use in txt2img", size="sm", elem_id=ID + "use")
            self.plot = gr.Button("Prepare X/Y/Z plot", size="sm", elem_id=ID + "plot")
        self.dial = gr.HTML(elem_id=ID + "dial")
        self.said = gr.HTML(elem_id=ID + "run_said")
        self.gallery = gr.Gallery(
            label=pictures.title([]), columns=2, object_fit="contain", visible=False, elem_id=ID + "gallery"
        )
        self.wall = gr.HTML(elem_id=ID + "wall")
        self.curves = gr.HTML(elem_id=ID + "curves")
        with gr.Accordion("More", open=False):
            with gr.Row():
                for command in (command for command in BUTTONS if command not in MAIN):
                    self._button(command, visible=False)
                self.report = gr.Button("Report", size="sm", elem_id=ID + "report")
                self.clone = gr.Button("Clone its settings", size="sm", elem_id=ID + "clone")
                self.delete = gr.Button("Delete", size="sm", elem_id=ID + "delete")
            self.log = gr.HTML(elem_id=ID + "log")

    def _button(self, command: Any, **settings: Any) -> None:
        made = gr.Button(BUTTONS[command], size="sm", elem_id=f"{ID}{command.value}", **settings)
        self.buttons[command] = made

    # --- what is refreshed -----------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[Any]:
        """In the order of `refresh`."""
        shown = (
            self.runs,
            self.status,
            self.verdict,
            self.gallery,
            self.curves,
            self.log,
            self.result,
            self.result_row,
            self.wall,
            self.dial,
        )
        return [self.memory, *shown, *self.buttons.values()]

    def refresh(self, memory: str, chosen: str | None) -> list[Update]:
        """Updates of `outputs`: what changed since `memory` (empty: everything)."""
        seen = _object(memory)
        everything = api.runs().list()
        run = _new(everything, seen) or next((item for item in everything if item["id"] == chosen), None)
        run = run or next((item for item in everything if item["active"]), everything[0] if everything else None)
        seen["ids"] = " ".join(item["id"] for item in everything)
        live = any(item["active"] or item["state"] == State.QUEUED for item in everything)
        busy = api.installer.status()["installing"]
        changed = _Changed(seen)
        found = [
            changed("runs", [[view.label(item), item["id"]] for item in everything], _choices, run and run["id"]),
            changed("status", view.status(run, time.time(), live or busy), _same),
            *self._details(changed, run),
        ]
        for command in self.buttons:
            allowed = run is not None and command.value in run["commands"]
            found.append(changed(f"button {command.value}", allowed, lambda value, _: gr.update(visible=value)))
        return [json.dumps(seen), *found]

    def _details(self, changed: _Changed, run: Mapping[str, Any] | None) -> list[Update]:
        if run is None:
            shown: dict[str, Any] = {"events": [], "log": ""}
            folder, sheets = Path(), []
        else:
            shown = api.runs().show(run["id"])
            folder = api.runs().folder / run["id"]
            sheets = pictures.sheets(shown["events"])
        is_lora = run is not None and view.has_result(run) and setting(folder, "output") == "lora"
        name = Path(run["result"]).stem if run and is_lora else ""
        usable = f"{name}:{view.strength(shown['events'])}" if name else ""

        wall = pictures.wall(folder, shown["events"], setting(folder, "eval_seeds")) if run else None

        def drawn(_: Any, __: Any) -> Update:
            found = pictures.pairs(folder, shown["events"], int(setting(folder, "eval_seeds")))
            host.make_room_for_pictures()
            return gr.update(value=found, label=pictures.title(sheets), visible=bool(found))

        return [
            changed("verdict", view.verdict(shown["events"]), _same),
            changed("pictures", [run and run["id"], sheets], drawn),
            changed("curves", view.curves(shown["events"]), _same),
            changed("log", view.log(shown["log"]), _same),
            changed("result", usable, _same),
            changed("result row", bool(usable), lambda value, _: gr.update(visible=value)),
            changed("wall", view.wall(run, wall), _same),
            changed("dial", view.dial(shown["events"], name), _same),
        ]

    # --- what can be done ------------------------------------------------------------------------------------------

    def obey(self, command: Any) -> Callable[..., list[Update]]:
        """The function of a command's button."""

        def work(memory: str, chosen: str | None) -> list[Update]:
            try:
                api.runs().command(str(chosen), command.value)
                said = ""
            except ImageRewardError as error:
                said = view.note(str(error), "error")
            return [said, *self.refresh(memory, chosen)]

        return work

    def remove(self, chosen: str, memory: str) -> list[Update]:
        """Delete a run; `chosen` is empty where the user thought better of it."""
        said = ""
        if chosen:
            try:
                api.runs().delete(chosen)
                said = view.note(f"Run {chosen} is deleted.")
            except ImageRewardError as error:
                said = view.note(str(error), "error")
        return [said, *self.refresh(memory, chosen)]

    def connect(self) -> None:
        """The events of this half."""
        here = [self.memory, self.runs]
        # an update that names the run the user has just chosen must not be answered by the choice before it
        self.runs.input(self.refresh, here, self.outputs, **QUIET)
        for command, button in self.buttons.items():
            button.click(self.obey(command), here, [self.said, *self.outputs], **QUIET, **host.pressed_anew())
        self.delete.click(
            self.remove, [self.runs, self.memory], [self.said, *self.outputs], **QUIET, **host.page_script(CONFIRM)
        )
        for button, name in ((self.use, "use"), (self.plot, "plot")):
            button.click(None, [self.result], None, **_in_page(name))
        self.report.click(None, [self.runs], None, **_in_page("report"))


def _in_page(name: str) -> dict[str, str]:
    """The argument of an event that only calls a function of our page script with the one input. It has no outputs, so
    none may come back.
    """
    return host.page_script(f"(value) => {{ window.imagerewardRefl.{name}(value); return []; }}")


def looked(memory: str) -> tuple[bool, str]:
    """(whether the heartbeat has been here before on this page, the memory that says so)."""
    seen = _object(memory)
    before = "looked" in seen
    return before, json.dumps({**seen, "looked": ""})


def _new(everything: Sequence[Mapping[str, Any]], seen: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The newest run that the page has not listed yet: it was started just now, and whatever the page asked before it
    knew of it must not turn it back to an older one.
    """
    known = seen.get("ids")
    if known is None:
        return None
    return next((item for item in everything if item["id"] not in known.split()), None)


class _Changed:
    """Makes an update where a value is not the one that the page has seen, and notes it in `seen`."""

    def __init__(self, seen: dict[str, str]):
        self._seen = seen

    def __call__(self, name: str, value: Any, make: Callable[[Any, Any], Update], more: Any = None) -> Update:
        digest = hashlib.sha256(json.dumps([value, more]).encode()).hexdigest()[:12]
        if self._seen.get(name) == digest:
            return gr.update()
        self._seen[name] = digest
        return make(value, more)


def _same(value: Any, _: Any) -> Update:
    return gr.update(value=value)


def _choices(value: Any, chosen: Any) -> Update:
    return gr.update(choices=[tuple(pair) for pair in value], value=chosen)


def _object(memory: str) -> dict[str, str]:
    try:
        found = json.loads(memory or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
