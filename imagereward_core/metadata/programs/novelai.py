"""NovelAI: PNG texts Software, Description (the prompt) and Comment (JSON); in WebP one JSON object with all."""

from __future__ import annotations

from typing import Any

from ..formats import places
from .reading import Reading, Texts, json_object, string_at

PROGRAM = "NovelAI"


def read(texts: Texts) -> Reading | None:
    for data in texts.objects(places.INFOTEXT):
        if PROGRAM in str(data.get("Software", "")):
            return _read(string_at(data, "Description"), json_object(data.get("Comment")))
    if PROGRAM in texts["Software"]:
        return _read(texts["Description"] or None, texts.object("Comment"))
    return None


def _read(description: str | None, comment: dict[str, Any] | None) -> Reading:
    if description is not None and description.strip():
        return Reading(PROGRAM, description)
    caption = (comment or {}).get("v4_prompt")
    prompt = string_at(comment, "prompt")
    if prompt is None and isinstance(caption, dict):
        prompt = string_at(caption.get("caption"), "base_caption")
    return Reading(PROGRAM, prompt if prompt is not None else description, "neither text of it holds a prompt")
