"""Text from files on its way to a terminal, a log or a spreadsheet: what an image is called must drive none of them."""

from __future__ import annotations

import unicodedata
from typing import Any

FORMULA = ("=", "+", "-", "@")  # what spreadsheets take for the beginning of one


def drives_terminal(char: str) -> bool:
    """Whether this character moves the cursor, sets colours or turns the direction of writing instead of being seen."""
    return not (char.isascii() and char.isprintable()) and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")


def harmless(text: str, keep: str = "") -> str:
    """The text with `?` for every character that drives a terminal, but for those to keep (line breaks, say)."""
    return "".join("?" if drives_terminal(char) and char not in keep else char for char in text)


def csv_cell(value: Any) -> Any:
    """A CSV cell: numbers as they are; text harmless to terminals and not a formula."""
    if not isinstance(value, str):
        return value
    text = harmless(value, keep="\n\t")
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
