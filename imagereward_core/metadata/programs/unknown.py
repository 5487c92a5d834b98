"""JSON that no other reader knows: it is named, as far as it names itself, and never taken for words."""

from __future__ import annotations

from ..formats import places
from .reading import Reading, Texts, string_at

NAMES = ("software", "Software", "generator", "app", "application", "program", "version")


def read(texts: Texts) -> Reading | None:
    for place in places.INFOTEXT:
        if texts.is_json(place):
            data = texts.object(place)
            program = string_at(data, *NAMES) or "an unknown program"
            why = "it is JSON without a prompt" if data else "it is damaged JSON"
            return Reading(program[:80], why=why)
    return None
