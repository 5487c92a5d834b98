"""Prompts out of a file that the page was given: JSON, JSONL, CSV, TSV or plain text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

COLUMNS = ("text", "prompt", "caption")
"""Fields that hold a prompt, in the order they are looked for."""


class PromptFileError(ValueError):
    """The file holds no prompts in a form that is known."""


def prompts_in(name: str, text: str) -> list[str]:
    """The prompts of a file by its name's ending; anything unknown is text with a prompt a line. PromptFileError names
    the place.
    """
    ending = name.lower().rpartition(".")[2]
    if ending == "json":
        return _texts(_json(name, text), name)
    lines = [line for line in text.splitlines() if line.strip()]
    if ending == "jsonl":
        return _texts((_json(f"{name}, line {number}", line) for number, line in enumerate(lines, 1)), name)
    if ending in ("csv", "tsv"):
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if ending == "tsv" else ","))
        return _texts(rows, name)
    return lines


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PromptFileError(f"{where}: this is not JSON ({error})") from error


def _texts(items: Any, name: str) -> list[str]:
    if isinstance(items, (str, dict)) or not isinstance(items, Iterable):
        raise PromptFileError(f"{name}: a list of prompts was expected, found {type(items).__name__}")
    found = []
    for number, item in enumerate(items, 1):
        value = item
        if isinstance(item, dict):
            value = next((item[column] for column in COLUMNS if item.get(column)), None)
        if not isinstance(value, str):
            fields = sorted(map(str, item)) if isinstance(item, dict) else type(item).__name__
            raise PromptFileError(f"{name}, entry {number}: no text under {', '.join(COLUMNS)}; found {fields}")
        found.append(" ".join(value.split()))
    return [text for text in found if text]
