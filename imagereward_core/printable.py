"""Text from files on its way to a terminal or a log: what an image is called must be able to drive neither."""

from __future__ import annotations

import unicodedata


def drives_terminal(char: str) -> bool:
    """Whether this character moves the cursor, sets colours or turns the direction of writing instead of being seen."""
    return not (char.isascii() and char.isprintable()) and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")


def harmless(text: str, keep: str = "") -> str:
    """The text with `?` for every character that drives a terminal, but for those to keep (line breaks, say)."""
    return "".join("?" if drives_terminal(char) and char not in keep else char for char in text)
