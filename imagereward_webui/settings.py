"""Puts our section onto the host's settings page."""

from __future__ import annotations

from typing import Any

from . import host, scorer_list
from .options import OPTIONS, PREFIX, SECTION


def _scorers() -> dict[str, Any]:
    """Asked for by the host each time it shows the page: own models may have come."""
    return {"choices": scorer_list.choices()}


def add_options() -> None:
    """Register the section with the host (a callback of `on_ui_settings`)."""
    import gradio as gr

    shared = host.module("shared")
    # like the host's own folders: whoever may not change those from the page may not change these
    for owner in (shared, shared.opts):
        restricted = getattr(owner, "restricted_opts", None)
        if isinstance(restricted, set):
            restricted.add(f"{PREFIX}library_folders")
    for option in OPTIONS:
        component: Any = None
        args: Any = {}  # or a function that gives them when the page is drawn
        if option.choices:
            component, args = gr.Dropdown, {"choices": list(option.choices)}
        elif option.scorers:
            component, args = gr.Dropdown, _scorers
        elif option.span:
            low, high, step = option.span
            component, args = gr.Slider, {"minimum": low, "maximum": high, "step": step}
        elif option.colour:
            component = gr.ColorPicker
        row = shared.OptionInfo(
            option.default, option.label, component, args, section=SECTION, category_id="postprocessing"
        )
        if option.info:
            row.info(option.info)
        shared.opts.add_option(PREFIX + option.name, row)
