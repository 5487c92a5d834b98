"""What the user is told when images have been scored: the line under the gallery, and the result that the page's script
and API clients read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import results
from .core import registry
from .fields import as_text
from .files import FileKeeper
from .infotext import RESULT_KEY
from .judges import RANKS, Judges
from .request import ScoreRequest
from .results import Entry


@dataclass
class Outcome:
    """What became of the images of one job, or of several that another script put together.

    `kept` are indices into `entries`, in the order shown; `where` says in a sentence where hidden images are now.
    `later`: the request still waits for the other jobs' images, to filter and sort them together.
    """

    request: ScoreRequest
    judges: Judges
    entries: list[Entry]
    kept: list[int]
    filtered: bool = False
    searched: bool = False
    where: str = ""
    notes: list[str] = field(default_factory=list)
    later: bool = False

    @property
    def line(self) -> str:
        """ "scored 8 · kept 5 · hidden 3 · mean 0.41 · best 1.22 (seed 1234)"."""
        text = results.summary(self.entries, len(self.kept), self.filtered)
        if self.judges.is_panel:
            how = "" if self.judges.absolute else f", {RANKS}"
            text += f" · panel of {len(self.judges.names)}{how}"
        text += f" · {results.yield_summary(self.entries, self.kept)}" if self.searched else ""
        return f"{text} · {self.standing}" if self.standing else text

    @property
    def standing(self) -> str:
        """Where the best image of one scorer stands: "the best is better than 83 % of your 412 pictures"; "" where
        nobody knows.
        """
        scored = [entry for entry in self.entries if entry.score is not None]
        if not scored or self.judges.is_panel:
            return ""
        meaning = max(scored, key=lambda entry: entry.score or 0.0).meaning
        parts = [place.sentence for place in meaning.percentiles.values()]
        if meaning.win is not None:
            parts.append(f"preferred to the next of its prompt in about {100 * meaning.win:.0f} % of choices")
        return f"the best is {', '.join(parts)}" if parts else ""

    @property
    def caveats(self) -> dict[str, str]:
        """What must stand beside each scorer's numbers, by scorer."""
        found = {name: registry.caveat(name) for name in self.judges.names}
        return {name: text for name, text in found.items() if text}

    @property
    def empty(self) -> str:
        """What to tell a user who looks at an empty gallery: why, what to do, and where the images are; else ""."""
        scores = [entry.score for entry in self.entries if entry.score is not None]
        if self.kept or not scores or not self.filtered:
            return ""
        text = (
            f"Nothing to show: the best of {len(self.entries)} has {max(scores):.2f}, and the limit is"
            f" {self.request.limit:g}. Lower the limit, or switch the filter off."
        )
        return f"{text} {self.where}" if self.where else text

    def publish(self, processed: Any) -> None:
        """Put it all on the host's result."""
        caveat = "; ".join(self.caveats.values()) if self.standing else ""
        for text in filter(None, (self.line, caveat, self.empty, *self.notes)):
            processed.comments += f"ImageReward: {text}\n"
        _attach(
            processed,
            {
                "scorer": as_text(self.judges.names),
                "key": self.judges.key,
                "scores": results.gallery_scores(processed),
                **_panel(processed, self.judges),
                "scored": sum(entry.score is not None for entry in self.entries),
                "kept": len(self.kept),
                "hidden": len(self.entries) - len(self.kept),
                "summary": self.line,
                "empty": self.empty,
                "notes": list(self.notes),
                **_meanings(processed, self.judges.names),
                "caveats": self.caveats,
            },
        )


def _panel(processed: Any, judges: Judges) -> dict[str, Any]:
    """What a result says of a panel, its lists by gallery position."""
    if not judges.is_panel:
        return {}
    return {
        "panel": list(judges.names),
        "by_scorer": results.gallery_by_scorer(processed, judges.names),
        "disagreements": results.gallery_disagreements(processed),
        "standardised_by": judges.standardised_by,
        "ranks": not judges.absolute,
    }


def _meanings(processed: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """What a result says of what its scores mean, by gallery position: `percentiles` of each scorer, `wins`: how often
    people would prefer an image to the best other one of its prompt (null where that is not known, or there is none),
    `win_known` of any of them; `meanings`: all of it in words.
    """
    found = results.gallery_meanings(processed)
    scorers = dict.fromkeys([*names, *(name for one in found if one for name in one.percentiles)])
    places = {name: [one.percentiles.get(name) if one else None for one in found] for name in scorers}
    return {
        "percentiles": {name: [one and one.as_dict() for one in listed] for name, listed in places.items()},
        "wins": [one.win if one else None for one in found],
        "win_known": any(one is not None and one.win is not None for one in found),
        "meanings": [meaning_text(one) if one else "" for one in found],
    }


def meaning_text(meaning: results.Meaning) -> str:
    """What an image's scores mean, in words, with what must stand beside the numbers: a line each."""
    several = len(meaning.percentiles) > 1
    lines = [f"{name}: {one.sentence}" if several else one.sentence for name, one in meaning.percentiles.items()]
    if meaning.win is not None:
        lines.append(f"preferred to the best other one of its prompt in about {100 * meaning.win:.0f} % of choices")
    elif meaning.compared and lines:
        lines.append("how often people would prefer it to the others of its prompt is unknown")
    if lines:
        lines += filter(None, map(registry.caveat, meaning.percentiles))
    return "\n".join(lines)


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Several jobs' outcomes as one, in their order."""
    first = outcomes[0]
    entries: list[Entry] = []
    kept: list[int] = []
    notes: list[str] = []
    where = dict.fromkeys(outcome.where for outcome in outcomes if outcome.where)
    for outcome in outcomes:
        kept += [len(entries) + k for k in outcome.kept]
        entries += outcome.entries
        notes += [note for note in outcome.notes if note not in notes]
    filtered, searched = any(o.filtered for o in outcomes), any(o.searched for o in outcomes)
    return Outcome(first.request, first.judges, entries, kept, filtered, searched, " ".join(where), notes, first.later)


def sift(
    processed: Any, request: ScoreRequest, entries: list[Entry], *, files: FileKeeper, masks: int, decimals: int
) -> tuple[list[int], list[Any], list[str]]:
    """Filter and sort the host's result by the request, and deal with the files of what is hidden.

    Returns (indices of the entries shown, the images that belong into a grid, notes for the user). What another script
    changed stays as it is.
    """
    order = request.keep([entry.score for entry in entries], decimals)
    try:
        shown = results.rearrange(processed, entries, order, masks)
    except results.Misaligned as reason:
        return list(range(len(entries))), [e.image for e in entries], [f"not filtered or sorted: {reason}"]
    notes = files.settle(hidden_of(entries, order), interrupted=any(entry.unfinished for entry in entries))
    return order, shown, notes


def hidden_of(entries: Sequence[Entry], kept: Sequence[int]) -> list[Entry]:
    """The entries that are not shown."""
    shown = set(kept)
    return [entry for k, entry in enumerate(entries) if k not in shown]


def refuse(processed: Any, reason: str) -> None:
    """Tell API clients, who see no comments, why nothing was scored."""
    _attach(processed, {"scores": results.gallery_scores(processed), "scored": 0, "notes": [reason]})


def refresh(processed: Any) -> None:
    """Once more before the host sends the result off: scripts that came after us may have added images to it."""
    result = (getattr(processed, "extra_generation_params", None) or {}).get(RESULT_KEY)
    if isinstance(result, dict):
        result["scores"] = results.gallery_scores(processed)
        if "percentiles" in result:
            result.update(_meanings(processed, list(result["percentiles"])))
        if "panel" in result:
            result["by_scorer"] = results.gallery_by_scorer(processed, result["panel"])
            result["disagreements"] = results.gallery_disagreements(processed)


def _attach(processed: Any, result: dict[str, Any]) -> None:
    # a copy: the original belongs to the job, and the next grid cell would carry this in its infotext
    processed.extra_generation_params = {**processed.extra_generation_params, RESULT_KEY: result}
