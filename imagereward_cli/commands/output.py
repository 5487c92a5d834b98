"""Results as a table, JSON or CSV, in which no file's name or prompt can drive a terminal or a spreadsheet.

In tables, messages and CSV control characters become `?`; JSON keeps them, escaped. CSV puts `'` before text that a
spreadsheet would take for a formula.
"""

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

from imagereward_core.atomic import write_bytes
from imagereward_core.errors import ConfigError
from imagereward_core.printable import csv_cell, drives_terminal, harmless


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
    check_target(target)
    try:
        write_bytes(target, (text if text.endswith("\n") else text + "\n").encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}") from error


def check_target(target: str | None) -> None:
    """ConfigError if the output file cannot be written; asked before hours of scoring as well as at their end.

    A link is not followed: in a folder that others may write to, it would choose which of our files is overwritten.
    """
    if target is None:
        return
    path, folder = Path(target), Path(target).absolute().parent
    if path.is_symlink():
        raise ConfigError(f"{target} is a link to {os.readlink(path)}: name that file itself, or remove the link")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{target} is not a file: name a new file, or one to replace")
    if not folder.is_dir():
        raise ConfigError(f"cannot write {target}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {target}: the folder {folder} is read-only")


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
        return as_json({**summary, "images": records}, ascii_only)
    if form == "csv":
        buffer = io.StringIO()
        flat = [_flat(record) for record in records]
        writer = csv.DictWriter(buffer, fieldnames=list(flat[0]) if flat else ["file"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: csv_cell(value) for key, value in record.items()} for record in flat)
        return buffer.getvalue()
    return table(header, rows, width)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with a column for each value of an object in it, such as a panel's scorers."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found.update({str(name): one for name, one in value.items()} if isinstance(value, dict) else {key: value})
    return found


def as_json(data: Any, ascii_only: bool = False, indent: int = 2) -> str:
    """A value as JSON text in which characters that drive a terminal are escaped: nothing is lost."""
    text = json.dumps(data, ensure_ascii=ascii_only, indent=indent)
    return "".join(_escaped(char) if char != "\n" and drives_terminal(char) else char for char in text)


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1] if not char.isascii() else f"\\u{ord(char):04x}"


def _printable(text: str) -> str:
    return harmless(" ".join(text.split()))


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
