"""Turn a WebUI prompt into the plain sentence that it asks for.

A reward model was trained on sentences: `<lora:x:1>`, attention weights, BREAK, AND and prompt-editing brackets
are instructions for the sampler, and would be read as words. Text without any of these passes unchanged.
"""

from __future__ import annotations

import re

_NETWORK = re.compile(r"<(?:lora|lyco|hypernet|ti|lycoris|loha|lokr)(?::[^<>]*)?>", re.IGNORECASE)
_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*$")
_KEYWORD = re.compile(r"\s*\bBREAK\b\s*|\s*\bAND\b(?:\s+|$)")
_AND_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*(?=\bAND\b|$)")


def plain_prompt(text: str) -> str:
    """The prompt as plain text.

    `(red:1.2) hat` → `red hat`; `[cat:dog:0.5]` → `dog` (what the picture ends as); `[cat|dog]` → `cat`;
    `\\(` → `(`. Unbalanced brackets are dropped like the host drops them.
    """
    stripped = _NETWORK.sub("", text)
    if " AND " in f" {stripped} ":
        stripped = _AND_WEIGHT.sub(" ", stripped)
    has_keyword = bool(_KEYWORD.search(stripped))
    if has_keyword:
        stripped = _KEYWORD.sub(" ", stripped)
    if not has_keyword and stripped == text and not any(c in text for c in "()[]\\"):
        return text
    plain, _ = _read(stripped, 0, "")
    plain = re.sub(r"\s+", " ", plain)
    plain = re.sub(r"(?:\s*,)+(?=\s*,)|\s+(?=,)", "", plain)
    return plain.strip(" ,")


def _read(text: str, at: int, closing: str) -> tuple[str, int]:
    """Read up to the bracket that closes this level; returns its plain text and the position after it."""
    parts = [""]  # of one [..] level
    splits: list[str] = []  # the separators between them
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text) and text[at + 1] in "()[]\\:|":
            parts[-1] += text[at + 1]
            at += 2
        elif char in "([":
            inner, at = _read(text, at + 1, ")" if char == "(" else "]")
            parts[-1] += inner
        elif char in ")]":
            at += 1
            if char == closing:
                return _close(parts, splits, closing), at
        elif closing == "]" and char in ":|":
            splits.append(char)
            parts.append("")
            at += 1
        else:
            parts[-1] += char
            at += 1
    return _close(parts, splits, closing), at


def _close(parts: list[str], splits: list[str], closing: str) -> str:
    """The text a finished bracket stands for."""
    if closing == ")":
        return _WEIGHT.sub("", parts[0])
    if not splits:
        return parts[0]
    if "|" in splits:
        return parts[0]
    if len(parts) > 2:
        return parts[-2]  # [from:to:when] ends as `to`, and [from::when] as nothing
    head, tail = parts
    return head if _WEIGHT.match(":" + tail) else head + ":" + tail  # [to:when]; else only a colon in brackets
