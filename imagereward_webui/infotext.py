"""The settings in the host's infotext, written and read back as inverses, and how scores look there.

Only values that pass through `p.extra_generation_params` reach the file on disk, the gallery, the API and PNG Info
alike; they stand in the settings line as further `key: value` pairs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .core import ConfigError, naming, registry
from .fields import FIELDS, Field, as_text
from .request import InvalidRequest, ScoreRequest

SCORE_KEY = naming.REWARD_KEY
BROWSER_KEY = naming.BROWSER_KEY
ACCORDION_TITLE = "ImageReward"
DROPDOWN_TITLE = "ImageReward - generate human preference scores"
RESULT_KEY = "ImageReward result"

ALL_KEYS = tuple(field.infotext for field in FIELDS if field.infotext)
# What still holds where another script needs every image: it is scored, and nothing is hidden or ordered.
UNFILTERED = ("scorer", "limit", "unload", "panel", "panel_constants")


def usable_key(wanted: str, host_names: Iterable[str] = ()) -> tuple[str, str]:
    """(the key for reward models' scores, why it is not the one wanted or ""). `host_names` are the settings that this
    host reads from infotexts.
    """
    if not wanted.strip():
        return SCORE_KEY, ""
    if wanted.lower() in {name.lower() for name in host_names}:
        return SCORE_KEY, f"{wanted!r} is a setting of the web UI's own"
    try:
        return registry.check_own_key(wanted), ""
    except ConfigError as error:
        return SCORE_KEY, str(error)


def score_keys(own_key: str = SCORE_KEY) -> list[str]:
    """Every key under which an image may carry a score: a panel's and the user's first, then the registry's."""
    return list(dict.fromkeys([naming.PANEL_KEY, usable_key(own_key)[0], SCORE_KEY, *registry.keys()]))


def format_score(score: float, decimals: int = 4) -> str:
    """A score as stored: fixed decimals, and never "-0.0000"."""
    text = f"{score:.{decimals}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def browser_score(score: float, scale: Any) -> str | None:
    """A score as image browsers sort by it, 0.0 to 10.0 (they read no minus sign): a scale that is one already, else
    the normal percentile of the standardised score; None where the scale does not say where a score lies.
    """
    if scale.out_of_ten:
        return f"{score:.1f}"
    if scale.mean is None or not scale.std:
        return None
    standardised = (score - scale.mean) / scale.std
    return f"{5 * (1 + math.erf(standardised / math.sqrt(2))):.1f}"


def settings(request: ScoreRequest, filtered: bool = True) -> dict[str, str]:
    """The infotext pairs that restore this request: what differs from the default. A job that is not `filtered`
    mentions no filter.
    """
    pairs = {}
    for field in FIELDS:
        value = getattr(request, field.attr)
        if field.infotext and value != field.default and (filtered or field.attr in UNFILTERED):
            pairs[field.infotext] = as_text(value)
    return pairs


def has_score(params: Mapping[str, Any], own_key: str = SCORE_KEY) -> bool:
    """Whether parsed infotext comes from a scored image."""
    return any(key in params for key in (*score_keys(own_key), *ALL_KEYS))


class PasteKey(str):
    """The name of one accordion input among the fields of an infotext.

    "Send to img2img" copies the inputs whose names it is told; pasting an infotext calls what can be called, and reads
    the rest as it stands. This one is both: a name, and how its value is found.
    """

    read: Callable[[Mapping[str, Any]], Any]

    def __new__(cls, name: str, read: Callable[[Mapping[str, Any]], Any]) -> PasteKey:
        key = super().__new__(cls, name)
        key.read = read
        return key

    def __call__(self, params: Mapping[str, Any]) -> Any:
        """What pasting sets the input to; None leaves it."""
        return self.read(params)


def paste_name(field: Field) -> str:
    """The name under which "Send to" buttons copy an input."""
    return field.infotext or f"ImageReward {field.attr}"


def paste_value(field: Field, params: Mapping[str, Any], own_key: str = SCORE_KEY) -> Any:
    """What pasting sets one accordion input to: the stored value, its default in a scored image, else None (unchanged).

    An image made by the dropdown script leaves the accordion off: both would ask for the same thing.
    """
    scored = has_score(params, own_key) and params.get("Script") != DROPDOWN_TITLE
    if field.attr == "enabled":
        return scored
    if not scored:
        return None
    value = field.default
    if field.infotext is not None and field.infotext in params:
        with contextlib.suppress(InvalidRequest):
            value = getattr(ScoreRequest.from_api({field.attr: _typed(field, params[field.infotext])}), field.attr)
    return field.shown(value)


def _typed(field: Field, text: Any) -> Any:
    return float(text) if field.kind == "int" and _is_number(text) else text


def _is_number(text: Any) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False


def paste_dropdown(params: Mapping[str, Any]) -> tuple[bool | None, float | None]:
    """What pasting sets the dropdown script's two inputs to; None leaves them."""
    if params.get("Script") != DROPDOWN_TITLE:
        return None, None
    limit = params.get("ImageReward limit", 0)
    return params.get("ImageReward filter") == "score", float(limit) if _is_number(limit) else 0.0
