"""Infotext: AUTOMATIC1111, Forge, reForge, SD.Next, Fooocus' scheme "a1111" and whoever else writes it."""

from __future__ import annotations

from ..formats import places
from ..own_words import own_words
from .reading import Reading, Texts

EXTRAS = "the Extras tab of a web UI"
CAMERA = ("Screenshot",)  # what phones write into the UserComment
NO_TEXT = 0.1  # share of characters that could not be decoded above which a text is none


def read(texts: Texts) -> Reading | None:
    """The prompt of the first infotext that has one."""
    found = None
    for place in places.INFOTEXT:
        if place not in texts or texts.is_json(place):
            continue
        reading = _read(texts[place], place)
        if reading is not None and reading.prompt:
            return reading
        found = found or reading
    return found


def _read(text: str, place: str) -> Reading | None:
    if text.count("\ufffd") > NO_TEXT * len(text):
        return Reading("an unknown program", why="its bytes are no text in any encoding that is known")
    if text.lstrip().startswith(("<?xml", "<x:xmpmeta")):
        return Reading("an unknown program", why="it is XML")
    words = own_words(text)
    if not words.settings and (place == places.COMMENT or text.strip() in CAMERA):
        return None  # such comments are mostly the name of a camera or an editor
    if words.prompt:
        return Reading(_program(words.settings), words.prompt, borrowed=words.borrowed)
    if words.extras:
        return Reading(EXTRAS, why="it tells how the image was processed, not what it was made from")
    return Reading(_program(words.settings), "") if words.settings else None


def _program(settings: str) -> str:
    """Who wrote a settings line, "" for a prompt without settings."""
    if not settings:
        return ""
    for name, mark in (("Fooocus", "Version: Fooocus"), ("ComfyUI", "Version: ComfyUI"), ("SD.Next", "App: SD.Next")):
        if mark in settings:
            return name
    return "Forge" if "Version: f" in settings or "Version: neo" in settings else "AUTOMATIC1111"
