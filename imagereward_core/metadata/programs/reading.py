"""What the readers of single programs' metadata work on, and what they answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..limits import LARGEST_JSON

JSON_START = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]])")  # no prompt starts so, dynamic ones ({a|b}) do not


@dataclass(frozen=True)
class Reading:
    """`program` wrote metadata into the image. `prompt` is the one it was made from: "" if the program was given none,
    None if it cannot be read, for the reason in `why`. `borrowed`: it came into the image with a score, and may be that
    of the text file beside the image.
    """

    program: str
    prompt: str | None = None
    why: str = ""
    borrowed: bool = False


class Texts:
    """The texts of an image by their places (`formats.places`), and the JSON objects that some of them are."""

    def __init__(self, texts: Mapping[str, str]):
        self._texts = {place: text for place, text in texts.items() if text.strip()}
        self._objects: dict[str, dict[str, Any] | None] = {}

    def __getitem__(self, place: str) -> str:
        """The text at that place, "" if there is none."""
        return self._texts.get(place, "")

    def __contains__(self, place: str) -> bool:
        return place in self._texts

    def is_json(self, place: str) -> bool:
        """Whether the text is JSON, or begins as JSON does: such text is never words, whole or cut off."""
        return JSON_START.match(self[place]) is not None

    def object(self, place: str) -> dict[str, Any]:
        """The JSON object at that place, empty if there is none."""
        if place not in self._objects:
            self._objects[place] = json_object(self[place])
        return self._objects[place] or {}

    def objects(self, places: Iterable[str]) -> list[dict[str, Any]]:
        """The JSON objects at these places, without the empty ones."""
        return [found for place in places if (found := self.object(place))]


def json_object(text: Any) -> dict[str, Any] | None:
    """A JSON object from its text, or itself; None for anything else: damaged, too deep, too large, no object."""
    if isinstance(text, dict):
        return text
    if not isinstance(text, str) or len(text) > LARGEST_JSON or not text.lstrip().startswith("{"):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def string_at(data: Any, *names: str) -> str | None:
    """The text under the first of these names that has one, None if none has."""
    if isinstance(data, dict):
        for name in names:
            if isinstance(data.get(name), str):
                return str(data[name])
    return None
