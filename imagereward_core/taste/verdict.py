"""Whether a taste is better than its scorer, told so that it can be believed.

The head's accuracy is cross-fitted: each duel is foretold by a head that has seen no duel of its prompt. The scorer is
measured on the same duels, and McNemar's exact test says whether the head's advantage is more than chance. A duel that
only one of the two has right counts by how far apart the two forecasts were, in log odds and without having seen the
duel: where they hardly differ who is right is nearly a coin's throw, and would hide the duels that tell. Who asks again
and again finds chance too: each look therefore spends a part of the 5 % of error that are allowed in all (Lan and
DeMets 1983), and only what a look may spend counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..proportions import mcnemar, wilson
from . import head

READY, NOT_YET = "ready", "not enough yet"
FEWEST = 30  # clear duels below which nothing is measured
FOLDS = 10
ALPHA = 0.05
# duels by which half of it may be spent, and how fast: hardly any at 100, when little can be found, nearly all at 300
HALF, STEEPNESS = 150, 6
WORTH = 0.005  # a look that may spend less waits for more duels
FAR = 0.08  # mean width of the head's prior from which the duels say that the taste is another than the scorer's
USEFUL, LITTLE_AFTER = 200, 1000
EXPECTATION = "50 duels are a hint, 200 are useful, and after 400 to 1,000 little is added"


@dataclass(frozen=True)
class Duels:
    """Duels as the head sees them: differences [n, d], weights [n], `clear` [n] for those somebody won and which are
    tested, the number of each one's prompt and of its pair of pictures [n].
    """

    differences: np.ndarray
    weights: np.ndarray
    clear: np.ndarray
    prompts: np.ndarray
    pairs: np.ndarray


@dataclass(frozen=True)
class Measured:
    """On `duels` clear duels: how many the head, the scorer, and only one of them have right; `p` of McNemar's test,
    and by how many standard deviations of chance the head leads in it.
    """

    duels: int
    head_right: int
    scorer_right: int
    head_only: int
    scorer_only: int
    p: float
    lead: float

    @property
    def accuracy(self) -> float:
        """The head's share."""
        return self.head_right / self.duels

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of it."""
        return wilson(self.accuracy, self.duels)

    @property
    def scorer_accuracy(self) -> float:
        """The scorer's share."""
        return self.scorer_right / self.duels


def measure(duels: Duels, folds: int = FOLDS, starts: dict[float, np.ndarray] | None = None) -> Measured | None:
    """Cross-fitted accuracies; None below FEWEST clear duels. `starts`: as of `head.fit`, from all duels."""
    tested = np.flatnonzero(duels.clear)
    if len(tested) < FEWEST:
        return None
    fold = _folds(duels, folds)
    odds, apart = np.zeros(len(duels.clear)), np.zeros(len(duels.clear))
    for number in range(folds):
        out = fold == number
        if not out[tested].any():
            continue
        guess = dict(starts or {})
        fitted = head.fit(duels.differences[~out], duels.weights[~out], guess)
        odds[out] = fitted.utility(duels.differences[out])
        slope = guess.get(head.WIDTHS[0], fitted.mean)[0]  # hardly anything but the score has a say there
        apart[out] = np.abs(odds[out] - slope * duels.differences[out, 0])
    odds, apart = odds[tested], apart[tested]
    by_scorer, by_head = duels.differences[tested, 0] > 0, odds > 0
    won, lost = (apart[one & ~other] for one, other in ((by_head, by_scorer), (by_scorer, by_head)))
    chance = math.sqrt((won**2).sum() + (lost**2).sum())
    return Measured(
        len(tested),
        int(by_head.sum()),
        int(by_scorer.sum()),
        len(won),
        len(lost),
        mcnemar(won, lost),
        float(won.sum() - lost.sum()) / chance if chance else 0.0,
    )


def _folds(duels: Duels, folds: int) -> np.ndarray:
    """The part [n] that each duel is left out with: by prompt where there are prompts enough, else by pair."""
    groups = duels.prompts if len(np.unique(duels.prompts)) >= 2 * folds else duels.pairs
    _, number = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(0).permutation(number.max() + 1)
    return order[number] % folds


def allowed(duels: int) -> float:
    """The error that may have been spent by so many duels, of ALPHA in all."""
    return ALPHA * duels**STEEPNESS / (duels**STEEPNESS + HALF**STEEPNESS)


@dataclass(frozen=True)
class Look:
    """One time the verdict was told: with so many duels, this P, and the level it had to be below."""

    duels: int
    p: float
    level: float


def next_level(duels: int, looks: list[Look]) -> float | None:
    """The level of a look now, None while too little may be spent: the answer is then that of the last look."""
    level = allowed(duels) - sum(look.level for look in looks)
    return level if level >= WORTH else None


def state(measured: Measured | None, looks: list[Look], width: float) -> str:
    """READY once a look passed, while the head is ahead and the evidence of all duels speaks for another taste: a look
    that passed by luck goes with a head that hardly leaves the scorer.
    """
    passed = any(look.p <= look.level for look in looks)
    ahead = measured is not None and measured.head_only > measured.scorer_only
    return READY if passed and ahead and width >= FAR else NOT_YET


def more(count: int, measured: Measured | None, looks: list[Look], width: float) -> int | None:
    """About how many duels are missing if things go on as they did; None where nothing suggests that any would do."""
    if state(measured, looks, width) == READY:
        return 0
    if measured is None or measured.head_only <= measured.scorer_only:
        return USEFUL - count if count < USEFUL else None
    spent = sum(look.level for look in looks)
    wanted = count + 10
    while wanted <= count + LITTLE_AFTER:
        level = max(allowed(wanted) - spent, 1e-9)
        if measured.lead * math.sqrt(wanted / count) >= NormalDist().inv_cdf(1 - level):
            return wanted - count
        wanted += 10
    return None
