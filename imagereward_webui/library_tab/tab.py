"""The tab itself. Its page builds itself from our routes (javascript/imagereward_library.js), so that it is the same on
gradio 3 and 4.
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from ..guard import TOKEN
from .api import PREFIX

TITLE, ELEM_ID = "ImageReward library", "imagereward_library"


def tabs() -> list[tuple[Any, str, str]]:
    """The host's `on_ui_tabs` callback."""
    with gr.Blocks(analytics_enabled=False) as tab:
        gr.HTML(root_html(), elem_id="imagereward-library-root")
    return [(tab, TITLE, ELEM_ID)]


def root_html() -> str:
    """The element that the script fills, and what those see whose browser runs none."""
    return (
        f'<div id="imagereward-library" data-token="{html.escape(TOKEN, quote=True)}"'
        f' data-prefix="{html.escape(PREFIX, quote=True)}">The library needs JavaScript: reload the page.</div>'
    )
