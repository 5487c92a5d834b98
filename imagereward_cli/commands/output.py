"""Results as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagereward_core.errors import ConfigError


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Aligned columns under a header; the last column is cut to the terminal's width. Columns of numbers are
    right-aligned.

    Control characters are shown as `?`: what a file is called must not be able to drive the terminal.
    """
    cells = [[_printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells)]
    right = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(header))]
    limit = width or shutil.get_terminal_size((160, 24)).columns
    room = max(limit - sum(widths[:-1]) - 2 * (len(widths) - 1), 10)
    lines = []
    for row in cells:
        padded = []
        for index, cell in enumerate(row[:-1]):
            blank = " " * (widths[index] - _width(cell))
            padded.append(blank + cell if right[index] else cell + blank)
        lines.append("  ".join([*padded, _cut(row[-1], room)]).rstrip())
    return "\n".join(lines)


def emit(
    form: str,
    target: str | None,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    records: Sequence[dict[str, Any]],
    summary: dict[str, Any],
) -> None:
    """Print or save a result. `rows` are the table's; `records` the complete ones, of JSON together with `summary`."""
    if target is None:
        encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
        text = _text(form, header, rows, records, summary, ascii_only=encoding not in ("utf8", "utf16"), width=None)
        print(text, end="" if text.endswith("\n") else "\n")
        return
    text = _text(form, header, rows, records, summary, ascii_only=False, width=10_000)
    temporary = Path(f"{target}.tmp")
    try:
        temporary.write_text(
            text if text.endswith("\n") else text + "\n", encoding="utf-8", errors="backslashreplace", newline=""
        )
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}") from error


def form_of(form: str | None, target: str | None) -> str:
    """The form asked for, else what the output file's name says, else a table."""
    suffix = Path(target or "").suffix.lower()
    return form or {".json": "json", ".csv": "csv"}.get(suffix, "table")


def _text(
    form: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    records: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    *,
    ascii_only: bool,
    width: int | None,
) -> str:
    if form == "json":
        return json.dumps({**summary, "images": records}, ensure_ascii=ascii_only, indent=2)
    if form == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(records[0]) if records else ["file"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return buffer.getvalue()
    return table(header, rows, width)


def _printable(text: str) -> str:
    return "".join(
        "?" if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") else char for char in " ".join(text.split())
    )


def _width(text: str) -> int:
    """Columns on a terminal: East Asian characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut(text: str, room: int) -> str:
    if _width(text) <= room:
        return text
    while _width(text) > room - 3:
        text = text[: min(len(text) - 1, room)]
    return text + "..."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
