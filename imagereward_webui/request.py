"""What one job is asked to do, validated where it enters (widgets, API, dropdown script, X/Y/Z axes)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .core import ConfigError, ImageRewardError
from .core import module as core_module
from .fields import BY_ATTR, FIELDS, FILTER_NONE, FILTER_SCORE, FILTER_TOP, OVER_EACH, SEPARATOR, Field

DROPDOWN_LIMIT_LABEL = "Lower score limit"
DROPDOWN_FILTER_LABEL = "Filter out images with low scores"

STORED_DECIMALS = 4  # as written to infotexts by default
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


class InvalidRequest(ImageRewardError, ValueError):
    """An input that can't be used. The message names the field as the user sees it, and the value found."""


def parse_number(label: str, value: Any) -> float:
    """A finite number, or one given as text ("0.5"); anything else raises `InvalidRequest` naming the field."""
    # bool is an int for Python, but a checkbox value in a number field is a shifted argument list
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    what = "is missing" if value is None else "is empty" if value == "" else f"is {value!r}"
    raise InvalidRequest(f'"{label}" {what}; it needs a number such as 0 or -0.5 (with a point, not a comma).')


def parse_bool(label: str, value: Any) -> bool:
    """True or False; 0/1 and the usual words are understood, since infotexts and API clients send those."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if value is None:
        return False
    if isinstance(value, str) and value.strip().lower() in _TRUE + _FALSE:
        return value.strip().lower() in _TRUE
    raise InvalidRequest(f'"{label}" is {value!r}; it needs true or false.')


def _parse(field: Field, value: Any) -> Any:
    if field.kind == "bool":
        return parse_bool(field.label, value)
    if field.kind in ("int", "float"):
        number = parse_number(field.label, value)
        if not field.low <= number <= field.high:
            raise InvalidRequest(f'"{field.label}" is {value!r}; it must lie between {field.low:g} and {field.high:g}.')
        if field.kind == "int" and number != int(number):
            raise InvalidRequest(f'"{field.label}" is {value!r}; it needs a whole number.')
        return int(number) if field.kind == "int" else number
    if field.kind == "names":
        return _names(field, value)
    if field.kind == "constants":
        return _constants(field, value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f'"{field.label}" is {value!r}; it needs a name.')
    if field.choices and value not in field.choices:
        raise InvalidRequest(f'"{field.label}" is {value!r}; choose one of: {", ".join(field.choices)}.')
    return value


def _names(field: Field, value: Any) -> tuple[str, ...]:
    """A list of names, or one text of them; none where nothing is chosen."""
    found = value.split(SEPARATOR) if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        raise InvalidRequest(f'"{field.label}" is {value!r}; it needs a list of scorers\' names.')
    names = tuple(name.strip() for name in found if name.strip())
    if len(set(names)) < len(names):
        raise InvalidRequest(f'"{field.label}" names a scorer twice: {", ".join(names)}.')
    return names


def _constants(field: Field, value: Any) -> str:
    """Constants as one text; `{"NAME": [mean, SD]}` is understood too."""
    panel = core_module("panel")
    if value is None:
        return ""
    try:
        found = panel.from_text(value) if isinstance(value, str) else panel.from_mapping(value)
    except ConfigError as error:
        raise InvalidRequest(f'"{field.label}": {error}') from error
    return panel.to_text(found)


@dataclass(frozen=True)
class ScoreRequest:
    """One job's wishes; the attributes are those of `fields.FIELDS`, in the same order."""

    enabled: bool = False
    scorer: str = "ImageReward-v1.0"
    filter_by: str = FILTER_NONE
    limit: float = 0.0
    top_k: int = 4
    sort: bool = False
    low_images: str = "keep"
    wanted: int = 0
    max_batches: int = 8
    unload: bool = False
    over: str = OVER_EACH
    panel: tuple[str, ...] = ()
    panel_constants: str = ""

    @classmethod
    def from_ui(cls, args: Sequence[Any]) -> ScoreRequest:
        """From the script's arguments in table order; missing trailing ones keep their default.

        The first may be a dict of named values instead (`{"args": [{"enabled": true, "limit": 0.5}]}`), the
        only named form that A1111's API lets through.
        """
        if args and isinstance(args[0], Mapping):
            return cls.from_api(args[0])
        if not args or not parse_bool(FIELDS[0].label, args[0]):
            return cls()  # switched off: what the other boxes hold does not matter
        return cls(**{field.attr: _parse(field, value) for field, value in zip(FIELDS, args)})

    @classmethod
    def from_api(cls, named: Mapping[str, Any]) -> ScoreRequest:
        """From named values; an unknown name is an error that lists the known ones."""
        unknown = sorted(set(named) - set(BY_ATTR))
        if unknown:
            raise InvalidRequest(f"unknown field {', '.join(map(repr, unknown))}; known: {', '.join(BY_ATTR)}.")
        request = cls(**{name: _parse(BY_ATTR[name], value) for name, value in named.items()})
        return request if "enabled" in named else replace(request, enabled=True)

    def with_dropdown(self, filter_low: Any, limit: Any) -> ScoreRequest:
        """This request as changed by the dropdown script's two inputs (which win over the accordion)."""
        number = parse_number(DROPDOWN_LIMIT_LABEL, limit)
        wanted = parse_bool(DROPDOWN_FILTER_LABEL, filter_low)
        if not wanted:
            return replace(self, enabled=True)
        return replace(self, enabled=True, filter_by=FILTER_SCORE, limit=number)

    def with_values(self, values: Mapping[str, Any]) -> ScoreRequest:
        """This request with some attributes replaced (X/Y/Z axes), validated as all others."""
        parsed = {name: _parse(BY_ATTR[name], value) for name, value in values.items()}
        return replace(self, enabled=True, **parsed)

    @property
    def scorers(self) -> tuple[str, ...]:
        """Who judges: the panel's scorers, else the one."""
        return self.panel or (self.scorer,)

    @property
    def constants(self) -> dict[str, Any]:
        """The constants given for the panel, by name."""
        return core_module("panel").from_text(self.panel_constants)

    @property
    def filters(self) -> bool:
        return self.filter_by != FILTER_NONE

    @property
    def rearranges(self) -> bool:
        """True when the gallery may differ from what the host made."""
        return self.filters or self.sort

    @property
    def repeats(self) -> bool:
        """True when the job goes on until enough images pass."""
        return self.wanted > 0 and self.filter_by == FILTER_SCORE

    def passes(self, score: float | None, decimals: int = STORED_DECIMALS) -> bool:
        """Whether an image with this score reaches the limit. An unscored image always passes: it is kept.

        A limit copied from an image's infotext must let that image pass, so the score as it is written there, with so
        many decimals, counts too.
        """
        if self.filter_by != FILTER_SCORE or score is None:
            return True
        return max(score, float(f"{score:.{decimals}f}")) >= self.limit

    def keep(self, scores: Sequence[float | None], decimals: int = STORED_DECIMALS) -> list[int]:
        """Which of these images to show, in the order to show them (indices into `scores`).

        Unscored images are always kept; sorted, they come last. Equal scores keep their order.
        """

        def badness(i: int) -> float:
            score = scores[i]
            return math.inf if score is None else -score

        kept = [i for i, score in enumerate(scores) if self.passes(score, decimals)]
        if self.filter_by == FILTER_TOP:
            best = set(sorted((i for i in kept if scores[i] is not None), key=badness)[: self.top_k])
            kept = [i for i in kept if scores[i] is None or i in best]
        return sorted(kept, key=badness) if self.sort else kept
