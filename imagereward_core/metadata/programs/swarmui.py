"""SwarmUI: a JSON object with `sui_image_params`, in PNG's `parameters` or the UserComment."""

from __future__ import annotations

from ..formats import places
from .reading import Reading, Texts, string_at


def read(texts: Texts) -> Reading | None:
    for data in texts.objects(places.INFOTEXT):
        if "sui_image_params" in data:
            prompt = string_at(data["sui_image_params"], "prompt")
            return Reading("SwarmUI", prompt, "its settings hold no prompt")
    return None
