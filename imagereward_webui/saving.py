"""Save and Zip take what is seen: the page may show a gallery best first and without what lies below a threshold, and
the host's own functions know only the gallery as it was made.

The page leaves a note in the text that they are given beside the images (javascript/imagereward_order.js): for each
image seen, in the order seen, its place in the gallery and that of its infotext.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from . import host

SEEN = "imagereward_seen"
WATCHED = "imagereward_original"
NOTHING = "ImageReward: nothing was saved, since every image is hidden. Lower the threshold, or press Reset."


def what_is_seen(info: dict[str, Any], images: Sequence[Any]) -> list[tuple[int, int]] | None:
    """(place in the gallery, place of its infotext) of each image seen, in the order seen; None where the page shows
    the gallery as it was made.
    """
    note = info.get(SEEN)
    if not isinstance(note, str):
        return None
    pairs = [(int(place), int(text)) for place, _, text in (entry.partition(":") for entry in note.split())]
    return [(place, text) for place, text in pairs if place < len(images) and text < len(info.get("infotexts") or [])]


def taking_what_is_seen(save_files: Callable[..., Any]) -> Callable[..., Any]:
    """The host's `save_files(generation info, images, zip?, index of the chosen image or -1)`, given what is seen."""

    @functools.wraps(save_files)
    def save(text: str, images: Any, do_make_zip: bool, index: int) -> Any:
        info = json.loads(text) if text else {}
        seen = what_is_seen(info, images or [])
        if seen is None:
            return save_files(text, images, do_make_zip, index)
        first = info.get("index_of_first_image", 0)
        if host.saves_chosen_image(index, first) and index in (place for place, _ in seen):
            return save_files(text, images, do_make_zip, index)
        if not seen:
            return gr.update(value=None, visible=False), f"<p>{NOTHING}</p>"
        info["infotexts"] = [info["infotexts"][named] for _, named in seen]
        info["index_of_first_image"] = sum(place < first for place, _ in seen)
        return save_files(json.dumps(info), [images[place] for place, _ in seen], do_make_zip, -1)

    vars(save)[WATCHED] = save_files
    return save


def watch_saving() -> None:
    """Have the host's Save and Zip go through here (a callback of `on_before_ui`: buttons are connected after it)."""
    common = host.module("ui_common")
    save_files = getattr(common, "save_files", None)
    if save_files is not None:
        common.save_files = taking_what_is_seen(getattr(save_files, WATCHED, save_files))
