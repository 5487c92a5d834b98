"""Metrics in closed form: numpy in, numbers out, no files and no models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..items import Pair, pairs_of

KS = (1, 2, 4)
Ranked = tuple[Sequence[float], Sequence[float]]  # human ranking (1 = best, ties allowed) and scores (higher = better)


@dataclass(frozen=True)
class Agreement:
    """Pairs of one prompt on which people had a preference: how many the scores order alike, how many they leave
    equal.
    """

    right: int
    equal: int
    pairs: int


def agreement(ranking: Sequence[float], scores: Sequence[float], judged: Sequence[Pair] | None = None) -> Agreement:
    """Count the pairs of one prompt; pairs that people ranked equal do not count at all. `judged`: (better, worse)
    where people compared pairs, and there is no ranking.
    """
    pairs = pairs_of(ranking) if judged is None else judged
    right = sum(scores[better] > scores[worse] for better, worse in pairs)
    equal = sum(scores[better] == scores[worse] for better, worse in pairs)
    return Agreement(right, equal, len(pairs))


@dataclass(frozen=True)
class Accuracy:
    """Preference accuracy in [0, 1]. `pair`: over all pairs together, as the paper's; `prompt`: mean of the prompts'
    own.

    Scores that are equal count as wrong (the reference's rule) in `pair` and `prompt`, and as half right in `*_half`.
    """

    pair: float
    prompt: float
    pair_half: float
    prompt_half: float
    prompts: int
    pairs: int
    equal: int


def accuracy(data: Sequence[Ranked], judged: Sequence[Sequence[Pair]] | None = None) -> Accuracy:
    """Preference accuracy over prompts; prompts without a preference are left out. `judged`: as of `agreement`."""
    counts = [found for found in _agreements(data, judged) if found.pairs]
    right, equal, pairs = (
        np.array([getattr(found, name) for found in counts], dtype=np.float64) for name in ("right", "equal", "pairs")
    )
    return Accuracy(
        pair=float(right.sum() / pairs.sum()),
        prompt=float((right / pairs).mean()),
        pair_half=float((right + equal / 2).sum() / pairs.sum()),
        prompt_half=float(((right + equal / 2) / pairs).mean()),
        prompts=len(counts),
        pairs=int(pairs.sum()),
        equal=int(equal.sum()),
    )


def recall_at(ranking: Sequence[float], scores: Sequence[float], k: int) -> float:
    """Recall@k of one prompt: is an image people like best among the k the scores put first? 1 or 0 unless scores tie.

    Where several images tie for people's best, any of them will do. Where scores tie, every order of the tied images is
    equally likely, and this is the chance: a constant scorer has k/n for a single best image.
    """
    best = [index for index, rank in enumerate(ranking) if rank == min(ranking)]
    top = max(scores[index] for index in best)  # a best image with a lower score gets in only after this one has
    above = sum(score > top for score in scores)
    tied = sum(score == top for score in scores)
    wanted = sum(scores[index] == top for index in best)
    places = min(max(k - above, 0), tied)
    return 1 - math.comb(tied - wanted, places) / math.comb(tied, places)


def filter_at(ranking: Sequence[float], scores: Sequence[float], k: int) -> float:
    """Filter@k of one prompt: is an image people like least among the k the scores put last? Ties as in `recall_at`."""
    return recall_at([-rank for rank in ranking], [-score for score in scores], k)


def selection(data: Sequence[Ranked], ks: Sequence[int] = KS) -> dict[str, float]:
    """{"recall@1": …, "filter@1": …, …}: means over the prompts, in [0, 1]."""
    found = {f"recall@{k}": float(np.mean([recall_at(*entry, k) for entry in data])) for k in ks}
    return found | {f"filter@{k}": float(np.mean([filter_at(*entry, k) for entry in data])) for k in ks}


def ranks(values: Sequence[float]) -> np.ndarray:
    """Rank 1 = largest; equal values share the mean of their ranks."""
    array = np.asarray(values, dtype=np.float64)
    return np.array([(array > value).sum() + ((array == value).sum() + 1) / 2 for value in array])


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm else float("nan")


def bootstrap(
    count: int, statistic: Callable[[np.ndarray], np.ndarray], repeats: int = 1000, seed: int = 0
) -> np.ndarray:
    """`statistic` of `repeats` resamples of 0 … count-1 with replacement, stacked: [repeats, …]."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(statistic(rng.integers(0, count, count)), dtype=np.float64) for _ in range(repeats)])


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The central interval that holds `level` of the samples, along the first axis; NaN samples are left out."""
    tail = (1 - level) / 2 * 100
    low, high = np.nanpercentile(samples, [tail, 100 - tail], axis=0)
    return low, high


def _agreements(data: Sequence[Ranked], judged: Sequence[Sequence[Pair]] | None) -> list[Agreement]:
    pairs: Sequence[Sequence[Pair] | None] = [None] * len(data) if judged is None else judged
    return [agreement(ranking, scores, of_prompt) for (ranking, scores), of_prompt in zip(data, pairs)]


def accuracy_interval(
    data: Sequence[Ranked], repeats: int = 1000, seed: int = 0, judged: Sequence[Sequence[Pair]] | None = None
) -> tuple[float, float]:
    """95 % bootstrap interval of `accuracy(data).pair`. Prompts are drawn, not pairs: the pairs of one prompt hang
    together.
    """
    counts = _agreements(data, judged)
    right, pairs = np.array([c.right for c in counts]), np.array([c.pairs for c in counts])
    low, high = interval(
        bootstrap(len(counts), lambda draw: right[draw].sum() / max(1, pairs[draw].sum()), repeats, seed)
    )
    return float(low), float(high)
