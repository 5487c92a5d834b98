"""The tab itself. Its page builds itself from our routes (javascript/imagereward_library.js), so that it is the same on
gradio 3 and 4. Only what fills txt2img is made of the host's own components, hidden.
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from .. import host
from ..guard import TOKEN
from .access import PREFIX

TITLE, ELEM_ID = "ImageReward library", "imagereward_library"


def tabs() -> list[tuple[Any, str, str]]:
    """The host's `on_ui_tabs` callback."""
    with gr.Blocks(analytics_enabled=False) as tab:
        gr.HTML(root_html(), elem_id="imagereward-library-root")
        text = gr.Textbox(label="ImageReward library infotext", elem_id="imagereward_library_infotext", visible=False)
        button = gr.Button("Send to txt2img", elem_id="imagereward_library_to_txt2img", visible=False)
        text.do_not_save_to_config = True
        host.paste_into_txt2img(button, text)
    return [(tab, TITLE, ELEM_ID)]


def root_html() -> str:
    """The element that the script fills, and what those see whose browser runs none."""
    return (
        f'<div id="imagereward-library" data-token="{html.escape(TOKEN, quote=True)}"'
        f' data-prefix="{html.escape(PREFIX, quote=True)}">The library needs JavaScript: reload the page.</div>'
    )
