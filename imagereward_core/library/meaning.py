"""What a score means: where it stands among one's own pictures, and how often the better of two would win.

A reward model's number has no unit. Its percentile among the pictures one has made says where it stands; the difference
of two pictures of one prompt says how often people would choose the better: σ(k·Δ), the Bradley-Terry model that
reward models are trained by. k depends on the weights and is fitted on people's choices; until it has been, the answer
is that it is not known.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from . import find
from .store import Library

ENOUGH = 50  # pictures with the same checkpoint from which these are the ones compared with
FEWEST = 20  # pictures below which a percentile says nothing
STEPS = 100
K_NOTE = "k of "
# k by scorer, fitted by `fit_k` on people's choices. A scorer that is not listed has none: nobody has fitted it on its
# published weights yet.
WIN_K: dict[str, float] = {}


@dataclass(frozen=True)
class Percentile:
    """`below` of `pictures` of one's own score less: `checkpoint` says whether they are those of the same one."""

    below: int
    pictures: int
    checkpoint: bool

    @property
    def percent(self) -> int:
        """Rounded down: the best of all is better than 99 %, never than all, itself included."""
        return 100 * self.below // self.pictures

    @property
    def sentence(self) -> str:
        """As it is shown: "better than 83 % of your 412 pictures with this checkpoint"."""
        where = " with this checkpoint" if self.checkpoint else ""
        return f"better than {self.percent} % of your {self.pictures:,} pictures{where}"

    def as_dict(self) -> dict[str, Any]:
        """As it is given to other programs."""
        return {
            "percent": self.percent,
            "pictures": self.pictures,
            "same_checkpoint": self.checkpoint,
            "sentence": self.sentence,
        }


class Percentiles:
    """A scorer's scores, read once, to say of many pictures where they stand. Ask for a new one after a while."""

    def __init__(self, library: Library, scorer: int):
        """`scorer`: its id in the library."""
        scores = find.scores_by_picture(library, scorer)
        self.all = np.sort(np.fromiter(scores.values(), float, len(scores)))
        called = find.checkpoints(library)
        groups: dict[str, list[float]] = {}
        for number, checkpoint in library.query("SELECT id, checkpoint_id FROM images WHERE checkpoint_id IS NOT NULL"):
            if number in scores:
                groups.setdefault(called[checkpoint], []).append(scores[number])
        self.by_checkpoint = {name: np.sort(values) for name, values in groups.items() if len(values) >= ENOUGH}

    def of(self, score: float, checkpoint: str | None = None, checkpoint_hash: str | None = None) -> Percentile | None:
        """Where a score stands: among the pictures of the same checkpoint if there are ENOUGH, else among all. None
        below FEWEST.
        """
        same = self.by_checkpoint.get((checkpoint_hash or "").lower() or checkpoint or "")
        values = self.all if same is None else same
        if len(values) < FEWEST:
            return None
        # not NumPy's search, which gives Python's lock away: a job's thread might wait for it
        return Percentile(bisect.bisect_left(values, score), len(values), same is not None)


def of_scorer(library: Library, name: str) -> Percentiles | None:
    """Those of a scorer as it is named beside scores; None where no picture has one."""
    if not find.scorer_ids(library, name):
        return None
    return Percentiles(library, find.scorer_named(library, name)[0])


@dataclass(frozen=True)
class FittedK:
    """k with its standard error, from that many pairs; `accuracy` is the share of pairs the score has in order."""

    k: float
    se: float
    pairs: int
    accuracy: float


def win_probability(difference: float, k: float | None) -> float | None:
    """The probability that people prefer the picture that scores `difference` more, of two for one prompt. None where
    k is not known.
    """
    if k is None:
        return None
    x = k * difference
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def known_k(scorer: str, library: Library | None = None) -> float | None:
    """k of a scorer as it is named beside scores: as the library was told (`keep_k`), else that of the published
    weights; None if nobody has fitted it.
    """
    if library is not None:
        rows = library.query("SELECT value FROM notes WHERE name = ?", (f"{K_NOTE}{scorer}",))
        if rows:
            return float(rows[0][0])
    return WIN_K.get(scorer)


def keep_k(library: Library, scorer: str, k: float) -> None:
    """Have the library use this k. Raises DataError for one that says nothing."""
    if not math.isfinite(k) or k <= 0:
        raise DataError(f"k of {scorer} must be positive, found {k}: its scores do not follow people's choices")
    with library.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (f"{K_NOTE}{scorer}", repr(float(k))))


def win_sentence(difference: float, k: float | None) -> str:
    """As it is shown beside two pictures of one prompt."""
    probability = win_probability(difference, k)
    if probability is None:
        return "how often people would prefer it is unknown: this scorer has not been fitted to people's choices"
    return f"preferred in about {100 * probability:.0f} % of choices"


def fit_k(differences: Sequence[float]) -> FittedK:
    """k by maximum likelihood from people's choices: the score of the picture they chose less that of the other, one
    per pair of one prompt, ties left out. Newton's method on a concave function of one number.

    Raises DataError if there is no finite k: every choice agrees with the score, or none can be told apart.
    """
    delta = np.asarray(differences, float)
    if delta.ndim != 1 or not len(delta) or not np.isfinite(delta).all():
        raise DataError("k is fitted on a list of finite differences, chosen less other, one per pair")
    if not (delta > 0).any() or not (delta < 0).any():
        raise DataError(
            f"k cannot be fitted on these {len(delta)} pairs: the score and the choices always agree, or never; it"
            " takes more pairs"
        )
    scale = float(np.abs(delta).mean())
    x = delta / scale
    k = 0.0
    for _ in range(STEPS):
        lost = 1 / (1 + np.exp(np.clip(k * x, -500, 500)))
        slope, curvature = float((lost * x).sum()), float((lost * (1 - lost) * x * x).sum())
        step = slope / max(curvature, 1e-12)
        k += max(min(step, 2.0), -2.0)  # far out the function is nearly straight, and a full step would overshoot
        if abs(step) < 1e-12:
            break
    return FittedK(k / scale, 1 / (scale * math.sqrt(max(curvature, 1e-300))), len(delta), float((delta > 0).mean()))
