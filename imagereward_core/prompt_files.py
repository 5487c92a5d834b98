"""The one reader of files that hold prompts, or records with prompts: text, JSON, JSONL, CSV and TSV.

The command lines, the ReFL tab and `imagereward dataset build` all read through it, so that one file means the same
everywhere. Whatever cannot be told for certain is refused with what was found: a wrong guess trains on ids or headers.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .errors import DataError
from .log import logger
from .printable import harmless

COLUMNS = ("text", "prompt", "caption")
"""Fields that hold a prompt, in the order they are looked for; case and surrounding blanks do not matter."""

DELIMITERS = ",;\t|"
ONE_COLUMN = "\x1f"  # occurs in no text: where the header has one column, commas belong to the prompt
LINE = re.compile(r"\r\n|\n|\r")  # str.splitlines would also break at U+2028 and U+0085, which JSON strings may hold
BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
FOREIGN = re.compile(rb"[\x80-\xff]{4}")  # Western text has no four such bytes in a row; other code pages' words do
SURROGATE = re.compile("[\ud800-\udfff]")
STRUCTURED = ("json", "jsonl", "csv", "tsv")
SHOWN = 3


class UnknownColumns(DataError):
    """No field of the file is known to hold prompts."""


@dataclass(frozen=True)
class Entry:
    """One entry of a file: a string, or what its line or row holds. `line` is where it begins, None in a JSON list."""

    value: Any
    line: int | None = None


def read_prompts(path: str | os.PathLike[str], column: str = "") -> list[str]:
    """The prompts of a file in their order, blank ones left out; white space within a prompt is one blank.

    column: the field that holds them; by default the first of `COLUMNS` that there is. Raises DataError for a file that
    cannot be read or holds no known column (UnknownColumns), naming the place.
    """
    return [" ".join(prompt.split()) for prompt in prompts_in(os.fspath(path), read_file(path), column)]


def prompts_in(name: str, content: bytes | str, column: str = "") -> list[str]:
    """The prompts in a file's content, the form told by the name's ending; see `read_prompts`. Text lines stay as they
    are written.
    """
    found = entries(name, content, (column,) if column else COLUMNS, expected=": a list of prompts was expected")
    prompts = prompts_of((entry.value for entry in found), name, column)
    return [" ".join(prompt.split()) for prompt in prompts] if _ending(name) in STRUCTURED else prompts


def prompts_of(values: Iterable[Any], name: str, column: str = "") -> list[str]:
    """The prompts among strings and records as they are written, blank ones left out; see `read_prompts`."""
    columns = (column,) if column else COLUMNS
    found = []
    for number, value in enumerate(values, start=1):
        where = f"{name}, entry {number}"
        prompt = _prompt(value, columns, where)
        if SURROGATE.search(prompt):
            raise DataError(f"{where}: the prompt holds half a character (a lone surrogate), which no file can keep")
        if prompt.strip():
            found.append(prompt)
    return found


def describe(prompts: Sequence[str]) -> str:
    """How many prompts there are, and the first of them: what a log and a report say before training."""
    shortened = [text if len(text) <= 80 else text[:79] + "…" for text in prompts[:SHOWN]]
    quoted = [harmless(json.dumps(text, ensure_ascii=False)) for text in shortened]
    more = ", …" if len(prompts) > SHOWN else ""
    return f"{len(prompts)} prompt{'' if len(prompts) == 1 else 's'}: {', '.join(quoted)}{more}"


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file. DataError for anything else: reading a pipe would wait for ever."""
    if not Path(path).is_file():
        raise DataError(f"no such file: {os.fspath(path)}" if not Path(path).exists() else f"{path} is not a file")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error


def entries(name: str, content: bytes | str, known: Collection[str], *, expected: str = "") -> Iterator[Entry]:
    """The entries of a file by its name's ending; anything unknown is text with an entry a line.

    known: names of columns, any of which tells a table's delimiter. Headers of these names are given in this spelling.
    expected: what the message about a JSON value of the wrong kind says was expected. Raises DataError.
    """
    text = decoded(name, content)
    ending = _ending(name)
    if ending == "json":
        data = parsed(name, text)
        if not isinstance(data, list):
            raise DataError(f"{name} must hold a JSON list{expected}, found {type(data).__name__}")
        yield from map(Entry, data)
    elif ending == "jsonl":
        for number, line in enumerate(LINE.split(text), start=1):
            if line.strip():
                yield Entry(parsed(f"{name}, line {number}", line), number)
    elif ending in ("csv", "tsv"):
        yield from _table(name, text, known)
    else:
        for number, line in enumerate(LINE.split(text), start=1):
            if line.strip():
                yield Entry(line, number)


def _ending(name: str) -> str:
    return name.lower().rpartition(".")[2]


def decoded(name: str, content: bytes | str) -> str:
    """The text of a file: by its byte order mark, else UTF-8, else Windows-1252, the legacy of Western spreadsheets.

    Windows-1252 gives any bytes some meaning, so it is taken only where no four bytes outside ASCII follow each other:
    text in another legacy encoding (Chinese, Cyrillic, Greek, …) is refused. DataError says how to save it.
    """
    text = content if isinstance(content, str) else _from_bytes(name, content)
    if "\0" in text or (isinstance(content, str) and "\ufffd" in text):
        raise DataError(f"{name} is not text in a known encoding: save it as UTF-8")
    return text.removeprefix("\ufeff")


def _from_bytes(name: str, data: bytes) -> str:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(f"{name} begins as {encoding.upper()} but is not: {error}; save it as UTF-8") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if FOREIGN.search(data):
            raise DataError(f"{name} is neither UTF-8 nor Western text: {error}; save it as UTF-8") from error
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is neither UTF-8 nor Windows-1252: {error}; save it as UTF-8") from error
    logger.warning("%s is not UTF-8 and is read as Windows-1252; save it as UTF-8 if letters are wrong", name)
    return text


def parsed(where: str, text: str) -> Any:
    """The value of a JSON text. DataError naming the place, also for what nests too deeply to be read."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: this is not JSON (not valid JSON at line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{where}: this is not JSON that can be read ({error})") from error
    except RecursionError as error:
        raise DataError(f"{where}: this is not JSON that can be read (nested too deeply)") from error


def _table(name: str, text: str, known: Collection[str]) -> Iterator[Entry]:
    """Rows as dicts under the header; a table of one column without a header gives strings."""
    told = re.match(r"sep=(.)(?:\r\n|\n|\r)", text)  # the line by which spreadsheets tell the delimiter to each other
    offset = 0
    if told:
        text, offset = text[told.end() :], 1
    delimiter, header = _layout(name, text, known, told[1] if told else "")
    if not header:
        return
    spelling = {_normal(column): column for column in known}
    rows = _rows(name, text, delimiter, offset)
    if len(header) == 1 and _normal(header[0]) not in spelling:
        yield from _without_header(name, [Entry(delimiter.join(row), line) for line, row in rows], known)
        return
    fields = [spelling.get(_normal(field), field.strip()) for field in header]
    next(rows)
    for line, row in rows:
        if any(cell.strip() for cell in row[len(fields) :]):
            raise DataError(
                f"{name}, line {line}: {len(row)} fields under a header of {len(fields)}; put a text that holds"
                f" {delimiter!r} in double quotes"
            )
        yield Entry(dict(zip_longest(fields, row[: len(fields)], fillvalue="")), line)


def _layout(name: str, text: str, known: Collection[str], told: str) -> tuple[str, list[str]]:
    """(delimiter, header). Of several readings of the header the one with a known column counts; two are refused."""
    readings: dict[str, list[str]] = {}
    for mark in told or DELIMITERS:
        with suppress(DataError):  # quotes that make no sense with this delimiter may do so with the next
            readings[mark] = _header(name, text, mark)
    wide = {mark: header for mark, header in readings.items() if len(header) > 1}
    if not wide:
        return ONE_COLUMN, _header(name, text, ONE_COLUMN)
    names = {_normal(column) for column in known}
    fitting = {mark: header for mark, header in wide.items() if any(_normal(field) in names for field in header)}
    if len(fitting) > 1:
        raise DataError(f"{name}: the header can be read with {' and '.join(map(repr, fitting))} between its columns")
    return max((fitting or wide).items(), key=lambda item: len(item[1]))


def _header(name: str, text: str, delimiter: str) -> list[str]:
    """The first row that is not blank; empty if all are."""
    for _, row in _rows(name, text, delimiter, 0):
        return row
    return []


def _rows(name: str, text: str, delimiter: str, offset: int) -> Iterator[tuple[int, list[str]]]:
    """(line it begins on, cells) of every row that is not blank. Line breaks inside quotes belong to the cell."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1 + offset
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error).replace(ONE_COLUMN, ",")
            raise DataError(f"{name}, line {line}: {reason}; is a double quote missing?") from error
        if any(cell.strip() for cell in row):
            yield line, row


def _without_header(name: str, rows: list[Entry], known: Collection[str]) -> Iterator[Entry]:
    """A list of prompts in one column. A first line of one word above longer ones is a header nobody knows."""
    first = rows[0].value.strip()
    if len(first.split()) == 1 and any(len(row.value.split()) > 1 for row in rows[1:]):
        raise UnknownColumns(_no_text(f"{name}, entry 1", known, {first: ""}))
    yield from rows


def _prompt(value: Any, columns: Sequence[str], where: str) -> str:
    """The text of one entry; empty where its field is empty. UnknownColumns if it has no such field."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise DataError(f"{where}: no text under {', '.join(columns)}; found {type(value).__name__}")
    fields = {_normal(str(field)): content for field, content in value.items()}
    there = [fields[_normal(column)] for column in columns if _normal(column) in fields]
    if not there:
        raise UnknownColumns(_no_text(where, columns, value))
    content = next((content for content in there if content), "")
    if isinstance(content, list):  # several captions of one picture
        content = content[0]
    if not isinstance(content, str):
        raise DataError(f"{where}: the prompt must be text, found {type(content).__name__}")
    return content


def _no_text(where: str, columns: Collection[str], found: dict[Any, Any]) -> str:
    return f"{where}: no text under {', '.join(columns)}; found {sorted(map(str, found))[:20]}"


def _normal(name: str) -> str:
    return " ".join(name.casefold().split())
