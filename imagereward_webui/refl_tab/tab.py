"""The tab "ReFL". The page builds and updates itself from our routes (javascript/imagereward_refl.js), so that it is
the same on gradio 3 and 4, and so that a page reload, Reload UI or a restart of the WebUI only means asking again.
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from .api import PREFIX, TOKEN

TITLE, ELEM_ID = "ReFL", "imagereward_refl"


def tabs() -> list[tuple[Any, str, str]]:
    """The host's `on_ui_tabs` callback."""
    with gr.Blocks(analytics_enabled=False) as tab:
        gr.HTML(root_html(), elem_id="imagereward-refl-root")
    return [(tab, TITLE, ELEM_ID)]


def root_html() -> str:
    """The element that the script fills, and what those see whose browser runs none."""
    return (
        f'<div id="imagereward-refl" data-token="{html.escape(TOKEN, quote=True)}"'
        f' data-prefix="{html.escape(PREFIX, quote=True)}">Reward fine-tuning needs JavaScript: reload the page.</div>'
    )
