"""What stands in an image's infotext about its score: one writer per pair, called by the host for each infotext.

The host asks for every infotext anew: twice per image, with an index local to the batch, and for the grid, params.txt
and intermediate images too. A writer answers only for the image that was scored, and None (no pair) for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .core import naming
from .infotext import BROWSER_KEY, browser_score, format_score
from .judges import Judges
from .results import Entry

Writer = Callable[..., "str | None"]


class ScoreText:
    """The writers of one job. `entries` by (iteration, index in the batch) is filled by the job as it scores;
    `model(name)` names a scorer's weights. `browser`: also write the score that image browsers sort by.
    """

    def __init__(
        self,
        entries: Mapping[tuple[int, int], Entry],
        *,
        judges: Judges,
        model: Callable[[str], str],
        decimals: int = 4,
        browser: bool = False,
    ):
        self.key = judges.key
        self._judges, self._model, self._decimals = judges, model, decimals
        self._entries, self._browser = entries, browser
        self.silent = False  # from now on no infotext is an image's: the host joins its grid, or the job is over

    @property
    def keys(self) -> list[str]:
        """All keys, the one of the score that counts first: pages read that one."""
        pairs = [key for name in self._judges.names for key in naming.pair_keys(self._judges.keys[name])[:2]]
        if self._judges.is_panel:
            pairs = [*naming.pair_keys(self.key)[:2], naming.DISAGREEMENT_KEY, *pairs]
        return [*pairs, BROWSER_KEY] if self._browser else pairs

    def pairs(self) -> dict[str, Writer]:
        """What goes into `p.extra_generation_params`."""
        return {key: ScorePair(self, key).write for key in self.keys}

    def values(self, entry: Entry) -> dict[str, str]:
        """An image's pairs as plain text; none where it has no score. A panel's rank holds for its job alone, and is
        not written.
        """
        judges = self._judges
        pairs: dict[str, str] = {}
        counts = entry.score is not None and judges.absolute
        if judges.is_panel and counts:
            key, model, _ = naming.pair_keys(self.key)
            pairs = {key: self._number(entry.score), model: judges.standardised_by}
            pairs[naming.DISAGREEMENT_KEY] = self._number(entry.disagreement)
        own = entry.by_scorer if judges.is_panel else {judges.names[0]: entry.score} if counts else {}
        for name, score in own.items():
            key, model, _ = naming.pair_keys(judges.keys[name])
            pairs |= {key: self._number(score), model: self._model(name)}
        if self._browser and entry.score is not None and judges.absolute:
            ranked = browser_score(entry.score, judges.scale)
            pairs |= {} if ranked is None else {BROWSER_KEY: ranked}
        return pairs

    def _number(self, value: float | None) -> str:
        return format_score(value or 0.0, self._decimals)

    def value(self, key: str, p: Any, index: int | None, use_main_prompt: bool) -> str | None:
        """The pair's value for the image that the host is at, or None."""
        position = getattr(p, "batch_index", None)
        if self.silent or use_main_prompt or index is None or index != position:
            return None
        entry = self._entries.get((p.iteration, index))
        return None if entry is None else self.values(entry).get(key)


class ScorePair:
    """One pair's writer, as hosts call it."""

    def __init__(self, text: ScoreText, key: str):
        self._text, self._key = text, key

    def write(self, p: Any = None, index: int | None = None, use_main_prompt: bool = False, **_: Any) -> str | None:
        """The value, or None where the infotext is not a scored image's."""
        return self._text.value(self._key, p, index, use_main_prompt)


def is_writer(value: Any) -> bool:
    """Whether a value of `p.extra_generation_params` is one of these, of this load of the package or an earlier one."""
    owner = type(getattr(value, "__self__", None)).__name__
    return owner in (ScorePair.__name__, ScoreText.__name__)  # the latter of releases before panels
