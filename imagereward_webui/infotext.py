"""The score and the settings in the host's infotext, written and read back as inverses.

Only values that pass through `p.extra_generation_params` reach the file on disk, the gallery, the API and PNG Info
alike; they stand in the settings line as further `key: value` pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .fields import FIELDS, Field
from .request import InvalidRequest, ScoreRequest

SCORE_KEY = "ImageReward"
DROPDOWN_TITLE = "ImageReward - generate human preference scores"
PERCENTILE_KEY = "aesthetic_score"
RESULT_KEY = "ImageReward result"

# what the host's parser can read back as a key: two or more of these, starting with a word character
_KEY = re.compile(r"\w[\w \-/]+")


def score_key(scorer: str, own_key: str = SCORE_KEY) -> str:
    """The infotext key for a scorer: the user's for reward models, "CLIP score" and the like for the others."""
    if scorer in ("CLIP", "BLIP", "Aesthetic"):
        return f"{scorer} score"
    return own_key if _KEY.fullmatch(own_key) else SCORE_KEY


def format_score(score: float, decimals: int = 4) -> str:
    """A score as stored: fixed decimals, and never "-0.0000"."""
    text = f"{score:.{decimals}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def percentile_score(score: float) -> str:
    """Standardised score → 0.0 to 10.0 by the normal percentile, which image browsers can sort (they read no minus
    sign).
    """
    return f"{5 * (1 + math.erf(score / math.sqrt(2))):.1f}"


def score_writer(lookup: Callable[[Any], str | None]) -> Callable[..., str | None]:
    """A value for `p.extra_generation_params`: the host calls it for each infotext and writes what it returns.

    `lookup(p)` gives the text for the image the host is at. The host calls twice per image, with an index local to the
    batch; for the grid, params.txt and intermediate images it must be None.
    """

    def write(p: Any = None, index: int | None = None, use_main_prompt: bool = False, **_: Any) -> str | None:
        if use_main_prompt or index != getattr(p, "batch_index", None):
            return None
        return lookup(p)

    return write


def settings(request: ScoreRequest) -> dict[str, str]:
    """The infotext pairs that restore this request: what differs from the default, and always the scorer if it does."""
    pairs = {}
    for field in FIELDS:
        value = getattr(request, field.attr)
        if field.infotext and value != field.default:
            pairs[field.infotext] = str(value)
    return pairs


ALL_KEYS = tuple(field.infotext for field in FIELDS if field.infotext)


def has_score(params: Mapping[str, Any], own_key: str = SCORE_KEY) -> bool:
    """Whether parsed infotext comes from a scored image."""
    return any(key in params for key in (own_key, SCORE_KEY, "CLIP score", "BLIP score", "Aesthetic score", *ALL_KEYS))


def paste_value(field: Field, params: Mapping[str, Any], own_key: str = SCORE_KEY) -> Any:
    """What pasting sets one accordion input to: the stored value, its default in a scored image, else None (unchanged).

    An image made by the dropdown script leaves the accordion off: both would ask for the same thing.
    """
    scored = has_score(params, own_key) and params.get("Script") != DROPDOWN_TITLE
    if field.attr == "enabled":
        return scored
    if not scored:
        return None
    if field.infotext is None or field.infotext not in params:
        return field.default
    try:
        return getattr(ScoreRequest.from_api({field.attr: _typed(field, params[field.infotext])}), field.attr)
    except InvalidRequest:
        return field.default


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


def without_keys(infotext: str, keys: Iterable[str]) -> str:
    """The infotext without these `key: value` pairs in its settings line."""
    head, newline, line = infotext.rpartition("\n")
    for key in keys:
        line = re.sub(rf"(?:^|, ){re.escape(key)}: (?:\"(?:\\.|[^\\\"])*\"|[^,]*)(?=,|$)", "", line)
    return head + newline + line.removeprefix(", ")
