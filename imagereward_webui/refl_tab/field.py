"""A field of the ReFL form, and its values in their kind, whatever came as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..core import plain_prompt
from .codecs import Codec, SettingError

MAX_PROMPTS = 20_000


@dataclass(frozen=True)
class Field:
    """One form field. kind: choice, int, float, text, lines or bool. `codec` makes its settings of the run, and its
    value of a run's settings. `multiple`: what an int must be a multiple of. `group`: where the page shows it.
    """

    name: str
    codec: Codec
    label: str
    kind: str
    default: Any
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = math.inf
    multiple: int = 1
    help: str = ""
    group: str = "Basic"

    def describe(self) -> dict[str, Any]:
        """For the page."""
        low, high = (self.low, self.high) if self.kind in ("int", "float") else (None, None)
        shown = {name: getattr(self, name) for name in ("name", "label", "kind", "default", "choices", "help", "group")}
        return {**shown, "low": low, "high": high}

    def checked(self, value: Any) -> Any:
        """The value in this field's kind, whatever came as JSON. SettingError says what is wrong with it."""
        return _checked(self, value)


def _checked(field: Field, value: Any) -> Any:
    """A field's value in its kind, whatever came as JSON."""
    if field.kind == "lines":
        return _lines(field, value)
    if field.kind == "bool":
        if not isinstance(value, (bool, int)) or value not in (0, 1):
            raise SettingError(f"{field.label}: must be true or false, found {value!r}")
        return bool(value)
    if field.kind in ("int", "float"):
        return _number(field, value)
    text = _text(field, value)
    if field.choices and text not in field.choices:
        raise SettingError(f"{field.label}: must be one of {', '.join(field.choices)}, found {text!r}")
    return text


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingError(f"{field.label}: must be text, found {value!r}"[:300])
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SettingError(f"{field.label}: holds a character that is none, in {value!r}"[:300])
    return value


def _lines(field: Field, value: Any) -> list[str]:
    lines = value if isinstance(value, list) else _text(field, value).splitlines()
    texts = (plain_prompt(_text(field, line)).strip() for line in lines)
    prompts = list(dict.fromkeys(text for text in texts if text))
    if len(prompts) > MAX_PROMPTS:
        raise SettingError(f"{field.label}: {len(prompts)} prompts, and {MAX_PROMPTS} are the limit")
    return prompts


def _number(field: Field, value: Any) -> float:
    """An int or float from a number or its text; the page sends what was typed."""
    if not isinstance(value, (int, float, str)) or isinstance(value, bool) or len(str(value)) > 40:
        raise SettingError(f"{field.label}: {str(value)[:40]!r} is not a number")
    try:
        number = float(value)
    except ValueError as error:
        raise SettingError(f"{field.label}: {value!r} is not a number") from error
    if not field.low <= number <= field.high or math.isinf(number):
        raise SettingError(f"{field.label}: must lie between {field.low:g} and {field.high:g}, found {number:g}")
    if field.kind == "float":
        return number
    if number != int(number):
        raise SettingError(f"{field.label}: must be a whole number, found {number:g}")
    if number % field.multiple:
        raise SettingError(f"{field.label}: must be a multiple of {field.multiple}, found {number:g}")
    return int(number)
