"""The leaderboard: which checkpoint, LoRA, sampler, CFG or steps score higher, and the pairs that would tell."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel

from ..core import drawing
from ..core import module as core_module
from . import folders
from .access import answered, begin, new_router, opened
from .making import Maker

router = new_router()
MOST_SENTENCES = 60


class PlanBody(BaseModel):
    """What is compared, by which scorer, and the two (or more) levels by their names in the table."""

    by: str
    scorer: str = ""
    levels: list[str]
    where: str = ""


@router.get("/compare")
def compare(by: str = "checkpoint", scorer: str = "", where: str = "", planned: bool = False) -> dict[str, Any]:
    """The table of a factor, as the command line's `library compare --json` says it, with a drawing of each interval
    and what may be said in sentences.
    """
    comparing, find = core_module("library.compare"), core_module("library.find")
    with opened() as library:
        question = folders.known().condition(find.where_of(library, where))
        found = comparing.compare(library, by, scorer or None, question, planned=planned)
    answer: dict[str, Any] = comparing.as_dict(found)
    span = max((abs(row[end]) for row in answer["levels"] for end in ("low", "high")), default=1.0)
    for row in answer["levels"]:
        row["svg"] = drawing.interval(row["low"], row["effect"], row["high"], span)
        row["df"] = row["df"] if math.isfinite(row["df"]) else None
    answer["sentences"] = _sentences(found)
    return answer


def _sentences(found: Any) -> list[dict[str, Any]]:
    """What may be said: claims first, then the best against the others, each with the two levels."""
    if found.board is None:
        return []
    best = found.board.effects[0].level
    claimed = [pair for pair in found.board.pairs if pair.claimed]
    open_ones = [pair for pair in found.board.pairs if not pair.claimed and best in (pair.first, pair.second)]
    return [
        {
            "text": found.sentence(pair),
            "claimed": pair.claimed,
            "levels": [found.labels[pair.first], found.labels[pair.second]],
        }
        for pair in [*claimed, *open_ones][:MOST_SENTENCES]
    ]


@router.post("/plan")
def plan(body: PlanBody) -> dict[str, Any]:
    """The pairs that are missing; the plan is remembered. `text`: the pictures to be made, as JSON lines."""
    made = _planned(body)
    return {
        "levels": list(made.levels),
        "prompts": made.prompts,
        "made": made.made,
        "missing": len(made.missing),
        "text": core_module("library.plan").plan_text(made),
    }


def _planned(body: PlanBody) -> Any:
    find = core_module("library.find")
    with opened() as library:
        where = folders.known().condition(find.where_of(library, body.where))
        return core_module("library.plan").plan(library, body.by, body.levels, scorer=body.scorer or None, where=where)


@router.post("/make")
def make(body: PlanBody) -> dict[str, Any]:
    """Make the missing pairs, score them and remember them, in the background."""
    made = _planned(body)
    with opened() as library:
        _, scorer = core_module("library.find").scorer_named(library, body.scorer or None)
    with answered():
        maker = Maker(made.missing, scorer)
    return begin(f"making {len(made.missing)} pictures for {' and '.join(made.levels)}", maker.run)
