"""Which checkpoint (LoRA, sampler, …) scores higher? A table that says "cannot tell" when it cannot.

A cell is what one prompt and one level (a checkpoint, say) have in common: a number of images, their mean score, the
sum of squares about it. The model is

    mean of a cell = prompt + level + (prompt × level) + seed / sqrt(images)

so that only prompts used with two levels or more say anything, and hard prompts harm nobody.

1. Cells are weighted by 1 / (τ² + σ²/images): σ² is the spread within cells, τ² the variance of prompt × level, by
   moments of an unweighted fit.
2. Weighted least squares with a fixed effect per prompt; effects are relative to the mean of the levels in the table.
3. Their covariance is CR2, bias-reduced and clustered by prompt (Bell & McCaffrey 2002; with absorbed fixed effects:
   Pustejovsky & Tipton 2018), the degrees of freedom of each effect are Satterthwaite's.
4. An effect's interval is effect ± t(df) · se. A pair is claimed different only if its t statistic, read as the z of
   equal probability, lies beyond the 95 % point of max |z| over all pairs (single-step, as Tukey's test; Hothorn, Bretz
   & Westfall 2008), simulated from one fixed seed so that the table never flickers.

With two levels on the same prompts, one image each, this is exactly the paired t test. Measured by
`benchmarks/leaderboard.py`, which also holds what simpler procedures get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .distributions import normal_isf, t_isf, t_two_sided
from .fixed_effects import Fit

MIN_PROMPTS = 3  # shared prompts below which nothing is said about a level
MAX_LEVELS = 60  # the most used ones: 60 levels are 1,770 pairs already
DRAWS = 10_000  # normal draws for the critical point
MANY = 10_000  # prompts beyond which counting on is no advice


@dataclass(frozen=True)
class Cells:
    """Columns of equal length, one row per cell: small whole numbers for prompt and level, the number of images, their
    mean score and the sum of squares about that mean.
    """

    prompt: np.ndarray
    level: np.ndarray
    images: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)

    def where(self, rows: np.ndarray) -> Cells:
        """The cells of these rows."""
        return Cells(*(column[rows] for column in (self.prompt, self.level, self.images, self.mean, self.squares)))


@dataclass(frozen=True)
class Effect:
    """A level's score relative to the mean of the table, its 95 % interval, and the prompts that say so."""

    level: int
    effect: float
    low: float
    high: float
    se: float
    df: float
    prompts: int


@dataclass(frozen=True)
class Pair:
    """Two levels: the difference of `first` to `second`. `p_alone` is this pair's own, `p` allows for all pairs looked
    at. `more` is about how many more prompts, made with both, would settle a difference of this size (None if claimed).
    """

    first: int
    second: int
    difference: float
    se: float
    p_alone: float
    p: float
    claimed: bool
    shared: int
    more: int | None


@dataclass(frozen=True)
class Leaderboard:
    """Effects, best first; every pair; the variances; the levels of which nothing can be said."""

    effects: tuple[Effect, ...]
    pairs: tuple[Pair, ...]
    sigma2: float
    tau2: float
    left_out: tuple[int, ...]


def cells_of(prompt: Sequence[int], level: Sequence[int], score: Sequence[float]) -> Cells:
    """Cells from one row per image. Two passes, as a difference of large sums would lose the spread."""
    p, c, y = np.asarray(prompt, np.int64), np.asarray(level, np.int64), np.asarray(score, float)
    if not len(y):
        return Cells(p, c, p, y, y)
    width = int(c.max()) + 1
    keys, cell = np.unique(p * width + c, return_inverse=True)
    cell = cell.ravel()
    images = np.bincount(cell)
    mean = np.bincount(cell, y) / images
    squares = np.bincount(cell, (y - mean[cell]) ** 2)
    return Cells(keys // width, keys % width, images, mean, squares)


def leaderboard(
    cells: Cells, *, level: float = 0.95, min_prompts: int = MIN_PROMPTS, max_levels: int = MAX_LEVELS
) -> Leaderboard | None:
    """The table, None if nothing can be said: no two levels share `min_prompts` prompts."""
    everything = np.unique(cells.level)
    kept = usable(cells, min_prompts)
    if len(np.unique(cells.level[kept])) > max_levels:
        most = np.argsort(-np.bincount(cells.level[kept]), kind="stable")[:max_levels]
        chosen = np.flatnonzero(kept & np.isin(cells.level, most))
        kept = np.zeros_like(kept)
        kept[chosen[usable(cells.where(chosen), min_prompts)]] = True
    used = cells.where(kept)
    names = np.unique(used.level)
    if len(names) < 2:
        return None
    columns = np.searchsorted(names, used.level)
    sigma2 = float(cells.squares.sum() / max((cells.images - 1).sum(), 1))  # of all cells: it is the same everywhere
    fit, tau2 = _weighted_fit(used, columns, sigma2)
    covariance, df = fit.cr2()
    half = t_isf((1 - level) / 2, df) * np.sqrt(np.diag(covariance))
    prompts = np.bincount(columns)
    effects = [
        Effect(
            level=int(names[column]),
            effect=float(fit.effect[column]),
            low=float(fit.effect[column] - half[column]),
            high=float(fit.effect[column] + half[column]),
            se=float(np.sqrt(covariance[column, column])),
            df=float(df[column]),
            prompts=int(prompts[column]),
        )
        for column in np.argsort(-fit.effect, kind="stable")
    ]
    pairs = _pairs(fit.effect, covariance, df, level)
    named = _named(pairs, names, _shared(used, columns), sigma2, tau2)
    left_out = tuple(int(name) for name in np.setdiff1d(everything, names))
    return Leaderboard(tuple(effects), named, sigma2, tau2, left_out)


def prompts_needed(
    tau2: float, sigma2: float, difference: float, images: float = 1, pairs: int = 1, power: float = 0.8
) -> int:
    """Prompts made with both levels that find a true `difference` with that power, `images` per prompt and level, when
    `pairs` are compared at once (Bonferroni's bound): the sample size of a paired z test, and two for its t.
    """
    if difference == 0:
        raise ValueError("a difference of 0 is found by no number of prompts")
    z = normal_isf(0.025 / pairs) + normal_isf(1 - power)
    return math.ceil(z**2 * 2 * (tau2 + sigma2 / images) / difference**2) + 2


def usable(cells: Cells, min_prompts: int) -> np.ndarray:
    """Which cells say something: prompts with one level, and levels with fewer than `min_prompts` such prompts, are
    dropped until nothing changes; then the largest set of levels that is connected through shared prompts is kept.
    """
    kept = np.ones(len(cells), bool)
    while kept.any():
        levels_of = np.bincount(cells.prompt[kept], minlength=cells.prompt.max() + 1)
        shared = kept & (levels_of[cells.prompt] > 1)
        prompts_of = np.bincount(cells.level[shared], minlength=cells.level.max() + 1)
        shared &= prompts_of[cells.level] >= min_prompts
        if (shared == kept).all():
            break
        kept = shared
    if kept.any():
        part = _connected(cells.prompt[kept], cells.level[kept])
        members = np.bincount(part[np.unique(cells.level[kept])])
        kept[kept] = part[cells.level[kept]] == members.argmax()
    return kept


def _connected(prompt: np.ndarray, level: np.ndarray) -> np.ndarray:
    """For each level, the smallest level it is connected with: labels spread through prompts until none changes."""
    label = np.arange(level.max() + 1)
    while True:
        through = np.full(prompt.max() + 1, len(label))
        np.minimum.at(through, prompt, label[level])
        spread = label.copy()
        np.minimum.at(spread, level, through[prompt])
        if (spread == label).all():
            return label
        label = spread


def _weighted_fit(cells: Cells, columns: np.ndarray, sigma2: float) -> tuple[Fit, float]:
    """The fit and τ²."""
    flat = Fit(cells.prompt, columns, cells.images, cells.mean, np.ones(len(cells)))
    tau2, spread = flat.interaction(sigma2)
    variance = tau2 + sigma2 / cells.images
    weight = 1 / (variance + 1e-6 * spread) if spread > 0 else np.ones(len(cells))
    return Fit(cells.prompt, columns, cells.images, cells.mean, weight / weight.mean()), tau2


@dataclass(frozen=True)
class _Tests:
    """All pairs of columns, one row a pair."""

    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    se: np.ndarray
    p_alone: np.ndarray
    p: np.ndarray
    claimed: np.ndarray


def _pairs(effect: np.ndarray, covariance: np.ndarray, df: np.ndarray, level: float) -> _Tests:
    """Every pair's t test, and its p allowing for all others: the share of draws of the effects, under no difference,
    in which some pair looks as different.
    """
    first, second = np.triu_indices(len(effect), 1)
    difference = effect[first] - effect[second]
    variance = covariance[first, first] + covariance[second, second] - 2 * covariance[first, second]
    se = np.sqrt(np.maximum(variance, 1e-24))
    alone = t_two_sided(difference / se, np.minimum(df[first], df[second]))
    z = np.array([normal_isf(p / 2) for p in alone])
    top = _largest(covariance, first, se)
    beyond = DRAWS - np.searchsorted(top, z)
    p = np.maximum(alone, (1 + beyond) / (1 + DRAWS))
    return _Tests(first, second, difference, se, alone, p, p <= 1 - level)


def _largest(covariance: np.ndarray, first: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Draws of max |z| over the pairs, sorted, where no level differs from another. `first` and `se` as
    `np.triu_indices` orders pairs: one level with all that follow it, level by level.
    """
    value, vector = np.linalg.eigh(covariance)
    root = vector * np.sqrt(np.maximum(value, 0))
    effects = root @ np.random.default_rng(0).normal(size=(DRAWS, len(covariance))).T  # [C, DRAWS]
    top = np.zeros(DRAWS)
    for level in range(len(covariance) - 1):
        z = effects[level + 1 :] - effects[level]
        np.abs(z, out=z)
        z /= se[first == level][:, None]
        np.maximum(top, z.max(0), out=top)
    return np.sort(top)


def _shared(cells: Cells, columns: np.ndarray) -> np.ndarray:
    """[C, C] prompts made with both levels."""
    seen = np.zeros((int(cells.prompt.max()) + 1, int(columns.max()) + 1), np.float32)
    seen[cells.prompt, columns] = 1
    return (seen.T @ seen).astype(int)


def _named(tests: _Tests, names: np.ndarray, shared: np.ndarray, sigma2: float, tau2: float) -> tuple[Pair, ...]:
    pairs = []
    for row in range(len(tests.first)):
        first, second = tests.first[row], tests.second[row]
        common = int(shared[first, second])
        claimed = bool(tests.claimed[row])
        difference = float(tests.difference[row])
        pairs.append(
            Pair(
                first=int(names[first]),
                second=int(names[second]),
                difference=difference,
                se=float(tests.se[row]),
                p_alone=float(tests.p_alone[row]),
                p=float(tests.p[row]),
                claimed=claimed,
                shared=common,
                more=None if claimed else _more(difference, common, sigma2, tau2, len(tests.first)),
            )
        )
    return tuple(pairs)


def _more(difference: float, shared: int, sigma2: float, tau2: float, pairs: int) -> int:
    """Further prompts, one image with each level, for a true difference as large as the one seen; at most MANY."""
    spread = math.sqrt(max(2 * (tau2 + sigma2), 0.0))
    if abs(difference) * math.sqrt(MANY) <= spread:
        return MANY
    needed = prompts_needed(tau2, sigma2, difference, pairs=pairs)
    return min(max(needed - shared, 1), MANY)
