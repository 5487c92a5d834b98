"""ComfyUI and what runs on it: the graph that made the image, as PNG's `prompt`, in EXIF fields behind `prompt:`, or in
the UserComment; there Civitai's generator adds the prompt in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..formats import places
from .comfy_graph import Unreadable, is_graph, positive_prompt
from .reading import Reading, Texts, json_object, string_at

PROGRAM, CIVITAI = "ComfyUI", "Civitai"
LABEL = re.compile(r"\s*prompt:\s*", re.IGNORECASE)
EXIF_FIELDS = (places.MAKE, places.MODEL, places.DESCRIPTION, places.USER_COMMENT)


def read(texts: Texts) -> Reading | None:
    for data in texts.objects(places.INFOTEXT):
        if "extraMetadata" in data or "resource-stack" in data:
            prompt = string_at(json_object(data.get("extraMetadata")), "prompt")
            return Reading(CIVITAI, prompt) if prompt is not None else _follow(CIVITAI, data)
    for graph in _graphs(texts):
        return _follow(PROGRAM, graph)
    if "workflow" in texts and texts.is_json("workflow") or texts.is_json("prompt"):
        return Reading(PROGRAM, why="the graph that made it is missing or damaged")
    return None


def _graphs(texts: Texts) -> Iterator[dict[str, Any]]:
    for data in [texts.object("prompt"), *texts.objects(places.INFOTEXT)]:
        inner = json_object(data.get("prompt"))
        for graph in (data, inner or {}):
            if is_graph(graph):
                yield graph
    for field in EXIF_FIELDS:
        label = LABEL.match(texts[field])
        labelled = json_object(texts[field][label.end() :]) if label else None
        if labelled is not None and is_graph(labelled):
            yield labelled


def _follow(program: str, graph: dict[str, Any]) -> Reading:
    try:
        return Reading(program, positive_prompt(graph))
    except Unreadable as error:
        return Reading(program, why=str(error))
