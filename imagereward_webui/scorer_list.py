"""The lists of scorers: what is on this machine first, then what must be fetched, with its size. Below each list a
line tells what choosing a scorer that is not here means, with a button that fetches it now
(javascript/imagereward_scorers.js).
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr

from . import host
from .core import module as core_module
from .core import registry, tastes
from .downloads import PREFIX, downloads
from .fields import BY_ATTR
from .guard import TOKEN
from .lifecycle import available


def to_fetch(name: str, folder: Path) -> int:
    """Bytes that this scorer still has to download, rounded; 0 for what is on this machine."""
    if name not in registry.names():
        return 0
    missing = core_module("weights").missing(registry.get(name), models_dir=folder)
    return sum(source.size or source.about for source in missing)


def size(number: int) -> str:
    """ "1.8 GB", "11 MB"."""
    return f"{number / 1e9:.1f} GB" if number >= 10**8 else f"{max(1, round(number / 1e6))} MB"


def sizes() -> dict[str, str]:
    """What each scorer still has to download, "" for what is on this machine: that first, then the rest."""
    folder = host.models_dir()
    wanted = {name: to_fetch(name, folder) for name in available(folder)}
    here = [name for name in wanted if not wanted[name]]
    return {**dict.fromkeys(here, ""), **{name: size(number) for name, number in wanted.items() if number}}


def choices() -> list[str]:
    """The names for a list. They are the values, too: gradio 3 has no others, and API clients and infotexts know them;
    the page's script writes the sizes beside them.
    """
    return list(sizes())


def preferred(wanted: str) -> tuple[str, str]:
    """(the scorer to begin with, why it is not the `wanted` one). While that is not here it falls to one that is: an
    own reward model before the others, never a taste, which its user chooses. Where none is, it stays.
    """
    folder = host.models_dir()
    missing = to_fetch(wanted, folder)
    names = available(folder)
    lacking = missing or wanted not in names
    here = [name for name in names if not to_fetch(name, folder) and not tastes.find(name)] if lacking else []
    if not here:
        return wanted, ""
    chosen = next((name for name in here if name not in registry.names()), here[0])
    why = f"{size(missing)} to download" if missing else "its file is gone"
    return chosen, f"{wanted} is not on this machine ({why}), so {chosen} scores."


def dropdown(label: str, elem_id: str, *, refresh_id: str = "", status_id: str, **more: Any) -> Any:
    """A list of scorers with what belongs to it; returns the list."""
    name, why = preferred(BY_ATTR["scorer"].default)
    with gr.Column():
        with gr.Row():
            chosen = gr.Dropdown(label=label, choices=choices(), value=name, elem_id=elem_id, **more)
            # or the host's ui-config.json would keep today's substitute for good
            chosen.do_not_save_to_config = bool(why)
            if refresh_id:
                refresh_button(chosen, refresh_id)
        status = gr.HTML(status_html(name, why), elem_id=status_id)
    chosen.change(fn=status_html, inputs=[chosen], outputs=[status])
    return chosen


def status_html(name: Any, why: str = "") -> str:
    """What is to be said of the chosen scorer, nothing of one that is here; and the sizes for the list."""
    known = html.escape(json.dumps(sizes()), quote=True)
    said = f"<div class='imagereward-sizes' data-sizes='{known}' hidden></div>"
    said += f"<p class='imagereward-note'>{html.escape(why)}</p>" if why else ""
    wanted = to_fetch(str(name), host.models_dir())
    if not wanted:
        return said
    licence = registry.get(str(name)).licence
    text = f"{name} is not on this machine: {size(wanted)} to download, by its first use or now. Licence: {licence}."
    return (
        f"{said}<div class='imagereward-fetch' data-scorer='{html.escape(str(name), quote=True)}'"
        f" data-prefix='{PREFIX}' data-token='{html.escape(TOKEN, quote=True)}'"
        f" data-running='{int(downloads.of(str(name)))}'>"
        f"<span class='imagereward-fetch-text' role='status'>{html.escape(text)}</span>"
        "<progress max='1' value='0' aria-label='Download' hidden></progress><small></small>"
        "<button type='button' data-do='start'>Download</button>"
        "<button type='button' data-do='interrupt' hidden>Interrupt</button></div>"
    )


def refresh_button(component: Any, elem_id: str) -> None:
    """The host's own refresh button, where it has one, so that a model put into the folder shows up."""
    make = getattr(host.module("ui_common"), "create_refresh_button", None)
    if make is not None:
        make(component, lambda: None, lambda: {"choices": choices()}, elem_id)
