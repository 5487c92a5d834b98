"""Single conditions on pictures as SQL: what a field's name stands for, and how it is compared.

Every function gives SQL with placeholders and the values for them; nothing that a user wrote becomes part of the SQL.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import LibraryError
from .images import seed_to_row

HASH = re.compile(r"[0-9a-f]{6,64}")

TEXT, NUMBER, DATE, CHOICE, PROMPT, CHECKPOINT, LORA = range(7)
FIELDS = {
    "path": (TEXT, "CAST(i.path AS TEXT)"),
    "prompt": (PROMPT, "i.prompt_id"),
    "negative": (PROMPT, "i.negative_id"),
    "seed": (NUMBER, "i.seed"),
    "sampler": (TEXT, "i.sampler"),
    "steps": (NUMBER, "i.steps"),
    "cfg": (NUMBER, "i.cfg"),
    "checkpoint": (CHECKPOINT, ""),
    "lora": (LORA, ""),
    "program": (TEXT, "i.program"),
    "width": (NUMBER, "i.width"),
    "height": (NUMBER, "i.height"),
    "date": (DATE, "i.time"),
    "mark": (CHOICE, "i.mark"),
    "stars": (NUMBER, "i.stars"),
    "missing": (CHOICE, "CASE i.missing WHEN 1 THEN 'yes' ELSE 'no' END"),
}


@dataclass(frozen=True)
class Where:
    """A condition on `images i`, for use after WHERE or AND, and its parameters."""

    sql: str = "1"
    values: tuple[object, ...] = ()

    def and_(self, sql: str, *values: object) -> Where:
        """Both conditions."""
        return Where(f"({self.sql}) AND ({sql})", (*self.values, *values))

    def negated(self) -> Where:
        """The opposite; what is not known does not fulfil a condition, so it fulfils the opposite."""
        return Where(f"NOT IFNULL(({self.sql}), 0)", self.values)


EVERYTHING = Where()


def joined(parts: list[Where], word: str) -> Where:
    if len(parts) == 1:
        return parts[0]
    sql = f" {word} ".join(f"({part.sql})" for part in parts)
    return Where(sql, tuple(value for part in parts for value in part.values))


def unknown(field: str, kind: int, column: str, operator: str) -> Where:
    if operator != "=":
        raise LibraryError(f"{field}{operator}none: what is not known can only be asked for by = or !=")
    if kind == LORA:
        return Where("NOT EXISTS (SELECT 1 FROM image_loras l WHERE l.image_id = i.id)")
    return Where(f"{'i.checkpoint_id' if kind == CHECKPOINT else column} IS NULL")


def text_condition(column: str, operator: str, text: str) -> Where:
    if operator == "=":
        return Where(f"{column} = ? COLLATE NOCASE", (text,))
    escaped = re.sub(r"([\\%_])", r"\\\1", text)
    return Where(f"{column} LIKE ? ESCAPE '\\'", (f"%{escaped}%",))


def checkpoint_condition(operator: str, text: str) -> Where:
    """By name, with or without its suffix, or by hash, of which the first six digits do."""
    name = re.sub(r"\.(safetensors|ckpt|pt)$", "", text, flags=re.IGNORECASE) if operator == "=" else text
    inside = text_condition("name", operator, name)
    if HASH.fullmatch(text.lower()):
        inside = Where(f"({inside.sql} OR hash LIKE ?)", (*inside.values, text.lower() + "%"))
    return Where(f"i.checkpoint_id IN (SELECT id FROM checkpoints WHERE {inside.sql})", inside.values)


def number_condition(field: str, column: str, operator: str, text: str) -> Where:
    try:
        value: float = int(text) if re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII) else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LibraryError(f"{field} is compared with a number, found {text!r}")
    if operator == "~":
        raise LibraryError(f"{field} is a number: it is compared by =, !=, <, <=, > or >=, not by ~")
    if column == "i.seed":
        kept = seed_to_row(int(value))
        if operator != "=":
            raise LibraryError("seeds are compared by = or != only")
        return Where("i.seed = ?", (kept,))
    if isinstance(value, int) and abs(value) >= 1 << 63:
        value = float(value)
    return Where(f"{column} {operator} ?", (value,))


def date_condition(column: str, operator: str, text: str) -> Where:
    """A year, month, day or minute is the whole of it: date=2025-06 is all of June, date>2025-06 what came after."""
    start, end = _span(text)
    if operator == "=":
        return Where(f"{column} >= ? AND {column} < ?", (start, end))
    if operator == "~":
        raise LibraryError("date is compared by =, !=, <, <=, > or >=, not by ~")
    bound = {"<": (start, "<"), ">=": (start, ">="), "<=": (end, "<"), ">": (end, ">=")}[operator]
    return Where(f"{column} {bound[1]} ?", (bound[0],))


def _span(text: str) -> tuple[float, float]:
    for form in ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"):
        try:
            start = datetime.strptime(text, form)
            if form == "%Y":
                end = start.replace(year=start.year + 1)
            elif form == "%Y-%m":
                end = (start + timedelta(days=32)).replace(day=1)
            else:
                end = start + (timedelta(days=1) if form == "%Y-%m-%d" else timedelta(minutes=1))
            return start.timestamp(), end.timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    raise LibraryError(f'a date is written 2025, 2025-06, 2025-06-30 or "2025-06-30 18:00", found {text!r}')
