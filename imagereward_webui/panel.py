"""The widgets. `ui()` of a script is called many times (once per tab, twice per script by the API, again on each Reload
UI), so everything here only builds components and has no other effect.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from . import host, infotext, session
from .core import ImageRewardError, logger
from .core import module as core_module
from .fields import FIELDS, Field
from .judges import stored_name
from .lifecycle import available, holder
from .request import DROPDOWN_FILTER_LABEL, DROPDOWN_LIMIT_LABEL

ElemId = Callable[[str], str]
NO_HOOK = (
    "ImageReward cannot score what this WebUI generates: it does not hand scripts the final picture. Score finished"
    " images in the Extras tab, or with the command line."
)


def accordion(elem_id: ElemId) -> tuple[list[Any], list[Any], list[str]]:
    """The accordion's inputs in table order, its infotext fields, and the names that "Send to" buttons copy."""
    with input_accordion("ImageReward", elem_id("enable")) as enabled:
        for problem in PROBLEMS:
            gr.HTML(f"<p class='imagereward-problem'>{html.escape(problem)}</p>")
        widgets = {"enabled": enabled}
        for row in sorted({field.row for field in FIELDS[1:]}):
            with gr.Row():
                for field in (field for field in FIELDS[1:] if field.row == row):
                    widgets[field.attr] = _widget(field, elem_id)
                    if field.kind in ("name", "names"):
                        _refresh(widgets[field.attr], elem_id(f"{field.attr}_refresh"))
        own_scores_button(elem_id, widgets["panel"], widgets["panel_constants"])
        unload_button(elem_id)
    inputs = [widgets[field.attr] for field in FIELDS]
    fields = [(widgets[field.attr], _paste(field)) for field in FIELDS]
    return inputs, fields, [infotext.paste_name(field) for field in FIELDS]


PROBLEMS: list[str] = []  # what stands in the way on this host, one sentence each


def find_problems() -> None:
    """Look for what stands in the way, for accordion and console (a callback of `on_before_ui`)."""
    PROBLEMS[:] = [
        f"{path} is another script with the title of ours, and the API reaches that one: remove the file, or disable"
        " its extension."
        for path in session.rival_scripts()
    ]
    if not host.scores_generations():
        PROBLEMS.append(NO_HOOK)
    for problem in PROBLEMS:
        logger.warning("%s", problem)


def dropdown(elem_id: ElemId) -> tuple[list[Any], list[Any]]:
    """The dropdown script's two inputs, and its infotext fields."""
    filter_low = gr.Checkbox(label=DROPDOWN_FILTER_LABEL, value=False, elem_id=elem_id("filter_low"))
    limit = gr.Number(label=DROPDOWN_LIMIT_LABEL, value=0, elem_id=elem_id("lower_limit"))
    unload_button(elem_id)
    fields = [
        (filter_low, lambda params: infotext.paste_dropdown(params)[0]),
        (limit, lambda params: infotext.paste_dropdown(params)[1]),
    ]
    return [filter_low, limit], fields


def own_scores_button(elem_id: ElemId, panel: Any, constants: Any) -> None:
    """The button that takes the panel's constants from the user's own scores, and the line that says what it did."""
    with gr.Row():
        button = gr.Button("Standardise the panel by my own scores", size="sm", elem_id=elem_id("own_scores"))
        status = gr.HTML("", elem_id=elem_id("own_scores_status"), elem_classes=["imagereward-status"])
    button.click(fn=own_scores, inputs=[panel, constants], outputs=[constants, status])


def own_scores(names: list[str] | None, constants: str) -> tuple[str, str]:
    """(constants of the library's scores of these scorers, or the ones there were; what to say about it)."""
    if not names:
        return constants, "Choose the panel's scorers first."
    folder = host.models_dir()
    try:
        found = core_module("panel").from_library({name: stored_name(name, folder) for name in names})
    except ImageRewardError as error:
        return constants, html.escape(str(error))
    return core_module("panel").to_text(found), html.escape(f"Taken from your own scores of {', '.join(found)}.")


def unload_button(elem_id: ElemId) -> None:
    """The button that frees the scorer's memory, and the line that says what it did."""
    with gr.Row():
        button = gr.Button("Unload Model From Memory", size="sm", elem_id=elem_id("unload_model"))
        status = gr.HTML("", elem_id=elem_id("status"), elem_classes=["imagereward-status"])
    button.click(fn=unload, inputs=[], outputs=[status])


def unload() -> str:
    """Unload when the running job has ended; returns the status line."""
    with host.generation_lock():
        freed = holder.unload()
    return f"Unloaded: {freed:.0f} MB freed." if freed else "No scorer is loaded."


def _paste(field: Field) -> infotext.PasteKey:
    def read(params: Mapping[str, Any]) -> Any:
        return infotext.paste_value(field, params, host.option("key"))

    return infotext.PasteKey(infotext.paste_name(field), read)


def _widget(field: Field, elem_id: ElemId) -> Any:
    common = {"label": field.label, "value": field.shown(field.default), "elem_id": elem_id(field.attr)}
    if field.help:
        common["tooltip"] = field.help  # a keyword that the hosts add to every component
    if field.kind == "bool":
        return gr.Checkbox(**common)
    if field.kind == "int":
        return gr.Number(precision=0, **common)
    if field.kind == "float":
        return gr.Number(**common)
    if field.kind == "choice":
        return gr.Dropdown(choices=list(field.choices), **common)
    if field.kind == "names":
        return gr.Dropdown(choices=available(host.models_dir()), multiselect=True, **common)
    if field.kind == "constants":
        return gr.Textbox(lines=1, **common)
    return gr.Dropdown(choices=available(host.models_dir()), **common)


def input_accordion(label: str, elem_id: str) -> Any:
    """A folded accordion that is off while folded, as a context manager giving its checkbox."""
    host_accordion = getattr(host.module("ui_components"), "InputAccordion", None)
    if host_accordion is not None:
        return host_accordion(False, label=label, elem_id=elem_id)
    return _PlainAccordion(label, elem_id)


class _PlainAccordion:
    """A folded accordion with an enable box, for hosts without InputAccordion."""

    def __init__(self, label: str, elem_id: str):
        self._label, self._elem_id = label, elem_id

    def __enter__(self) -> Any:
        self._accordion = gr.Accordion(label=self._label, open=False)
        self._accordion.__enter__()
        return gr.Checkbox(label=FIELDS[0].label, value=False, elem_id=self._elem_id)

    def __exit__(self, *error: Any) -> None:
        self._accordion.__exit__(*error)


def _refresh(component: Any, elem_id: str) -> None:
    """The host's own refresh button, where it has one, so that a model put into the folder shows up."""
    make = getattr(host.module("ui_common"), "create_refresh_button", None)
    if make is not None:
        make(component, lambda: None, lambda: {"choices": available(host.models_dir())}, elem_id)
