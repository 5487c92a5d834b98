"""One table of the accordion's inputs.

Each row ties together a widget, an attribute of `ScoreRequest`, a label in the infotext, a key of the API's
named form and a position in the script's argument list. Everything that needs one of those reads it here, so
they can't drift apart; `tests/contract/test_fields.py` holds the table and the dataclass equal both ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .core import registry

FILTER_NONE, FILTER_SCORE, FILTER_TOP = "none", "score", "top k"
OVER_EACH, OVER_ALL = "each prompt", "all prompts"
LOW_KEEP, LOW_MOVE, LOW_DISCARD = "keep", "move to subfolder", "don't save"


@dataclass(frozen=True)
class Field:
    """One input of the accordion.

    `attr` is the attribute of `ScoreRequest` and the API key, `label` what the user reads beside the widget,
    `infotext` the key in the settings line (None: never written), `kind` one of bool, int, float, choice,
    name, names or constants, `low`/`high` the inclusive range of a number, `row` where it stands in the accordion (0 is
    its head).
    """

    attr: str
    label: str
    kind: str
    default: Any
    infotext: str | None = None
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    help: str = ""
    row: int = 4

    def shown(self, value: Any) -> Any:
        """A value as its widget holds it."""
        return list(value) if self.kind == "names" else value


def _good_for(info: registry.ModelInfo) -> str:
    """A line of help: what a scorer is good for."""
    return f"{info.name}: {info.advice or info.description}"


# The order is the order of the script's arguments: API clients address them by position, so only ever append.
FIELDS: tuple[Field, ...] = (
    Field("enabled", "Score generated images", "bool", False, row=0),
    Field(
        "scorer",
        "Scorer",
        "name",
        "ImageReward-v1.0",
        "ImageReward scorer",
        help="\n".join(
            ["What judges the images. Each is loaded the first time it is used.", *map(_good_for, registry.MODELS)]
        ),
        row=1,
    ),
    Field(
        "filter_by",
        "Filter gallery by",
        "choice",
        FILTER_NONE,
        "ImageReward filter",
        choices=(FILTER_NONE, FILTER_SCORE, FILTER_TOP),
        help="none: show everything. score: show images that reach the limit. top k: show the k best of the job.",
        row=2,
    ),
    Field(
        "limit",
        "Score limit",
        "float",
        0.0,
        "ImageReward limit",
        low=-100.0,
        high=100.0,
        help="An image passes when its score is at least this.",
        row=2,
    ),
    Field("top_k", "Images to keep (top k)", "int", 4, "ImageReward top k", low=1, high=1000, row=2),
    Field("sort", "Best first", "bool", False, "ImageReward sort", help="Order the gallery by score."),
    Field(
        "low_images",
        "Hidden images on disk",
        "choice",
        LOW_KEEP,
        "ImageReward low images",
        choices=(LOW_KEEP, LOW_MOVE, LOW_DISCARD),
        row=3,
    ),
    Field(
        "wanted",
        "Generate until n pass (0 = off)",
        "int",
        0,
        "ImageReward wanted",
        low=0,
        high=1000,
        help="Needs the score filter. Goes on with further batches and further seeds until enough images pass.",
        row=3,
    ),
    Field("max_batches", "Batches at most", "int", 8, "ImageReward max batches", low=1, high=1000, row=3),
    Field("unload", "Unload the scorer after each job", "bool", False, "ImageReward unload"),
    Field(
        "over",
        "With Prompts from file, compare",
        "choice",
        OVER_EACH,
        "ImageReward over",
        choices=(OVER_EACH, OVER_ALL),
        help="Whether filter, top k and order look at the images of each prompt by themselves, or at all of the run.",
    ),
    Field(
        "panel",
        "Panel",
        "names",
        (),
        "ImageReward panel",
        help=(
            "Several scorers judge together, in place of the one beside: the mean of their standardised values counts."
            " Each one's own value is stored as well."
        ),
        row=1,
    ),
    Field(
        "panel_constants",
        "Standardise the panel by (empty: the authors' mean and SD)",
        "constants",
        "",
        "ImageReward panel constants",
        help=(
            "NAME MEAN SD; NAME MEAN SD …, stored with each image. A scorer that has none, here or from its authors,"
            " makes ranks within the prompt count, on which no limit can be set."
        ),
        row=5,
    ),
)

SEPARATOR = ";"  # between a panel's scorers where they are one text


def as_text(value: Any) -> str:
    """A field's value as infotexts hold it."""
    return f"{SEPARATOR} ".join(value) if isinstance(value, (list, tuple)) else str(value)


BY_ATTR = {field.attr: field for field in FIELDS}
