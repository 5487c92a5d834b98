"""What stands in an image's infotext about its score: one writer per pair, called by the host for each infotext.

The host asks for every infotext anew: twice per image, with an index local to the batch, and for the grid, params.txt
and intermediate images too. A writer answers only for the image that was scored, and None (no pair) for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .core import naming
from .infotext import BROWSER_KEY, browser_score, format_score
from .results import Entry

Writer = Callable[..., "str | None"]


class ScoreText:
    """The writers of one job. `entries` by (iteration, index in the batch) is filled by the job as it scores; `key` is
    the score's name, `model()` names the weights, `scale` says what the numbers mean. `browser`: also write the score
    that image browsers sort by.
    """

    def __init__(
        self,
        entries: Mapping[tuple[int, int], Entry],
        *,
        key: str,
        model: Callable[[], str],
        scale: Any,
        decimals: int = 4,
        browser: bool = False,
    ):
        self.key, self._model, self._scale, self._decimals = key, model, scale, decimals
        self._model_key = naming.pair_keys(key)[1]
        self._entries, self._browser = entries, browser
        self.silent = False  # from now on no infotext is an image's: the host joins its grid, or the job is over

    def pairs(self) -> dict[str, Writer]:
        """What goes into `p.extra_generation_params`."""
        pairs: dict[str, Writer] = {self.key: self.score, self._model_key: self.model}
        if self._browser:
            pairs[BROWSER_KEY] = self.browser
        return pairs

    def values(self, score: float) -> dict[str, str]:
        """The same pairs as plain text, for an infotext that exists already."""
        values = {self.key: format_score(score, self._decimals), self._model_key: self._model()}
        ranked = browser_score(score, self._scale) if self._browser else None
        return values if ranked is None else {**values, BROWSER_KEY: ranked}

    def score(self, p: Any = None, index: int | None = None, use_main_prompt: bool = False, **_: Any) -> str | None:
        """The score, with the user's decimals."""
        found = self._at(p, index, use_main_prompt)
        return None if found is None else format_score(found, self._decimals)

    def model(self, p: Any = None, index: int | None = None, use_main_prompt: bool = False, **_: Any) -> str | None:
        """Whose score it is, so that the command line does not compute it again."""
        return None if self._at(p, index, use_main_prompt) is None else self._model()

    def browser(self, p: Any = None, index: int | None = None, use_main_prompt: bool = False, **_: Any) -> str | None:
        """The score from 0 to 10."""
        found = self._at(p, index, use_main_prompt)
        return None if found is None else browser_score(found, self._scale)

    def _at(self, p: Any, index: int | None, use_main_prompt: bool) -> float | None:
        """The score of the image that the host is at, or None."""
        position = getattr(p, "batch_index", None)
        if self.silent or use_main_prompt or index is None or index != position:
            return None
        entry = self._entries.get((p.iteration, index))
        return None if entry is None else entry.score


def is_writer(value: Any) -> bool:
    """Whether a value of `p.extra_generation_params` is one of these, of this load of the package or an earlier one."""
    return type(getattr(value, "__self__", None)).__name__ == ScoreText.__name__
