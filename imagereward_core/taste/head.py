"""The head that learns a taste: Bayesian logistic regression on the differences of two pictures' features.

    P(i is chosen over j) = σ(w · (φ(i) - φ(j))),   φ = [score, image directions …, appearance …],   all of unit spread
    w ~ N((SLOPE, 0, …, 0), diag(SLOPE_WIDTH², width² …))

The prior's mean is the scorer itself, so with no duel the head is the scorer. How far it may go from it, `width`, is what
the duels make most probable (type-II maximum likelihood) under a hyperprior towards little: without it ten duels can do
harm. The posterior is Laplace's (MacKay 1992): a normal distribution at its peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SLOPE, SLOPE_WIDTH = 1.0, 0.5  # of one standard deviation of the score, in log odds
WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
USUAL = 0.05  # the width from which the hyperprior falls off
NEWTON_STEPS = 50
HALVINGS = 30


@dataclass(frozen=True)
class Head:
    """The posterior of w: mean [d] and covariance [d, d], at the width that was chosen."""

    mean: np.ndarray
    covariance: np.ndarray
    width: float

    def utility(self, differences: np.ndarray) -> np.ndarray:
        """Log odds [n] of differences φ(i) - φ(j) [n, d]; above 0 the first is preferred."""
        return differences @ self.mean

    def probability(self, differences: np.ndarray) -> np.ndarray:
        """P(the first is chosen) [n], integrated over the posterior (MacKay's approximation): where the duels say
        little it stays near a half.
        """
        variance = np.einsum("ij,jk,ik->i", differences, self.covariance, differences)
        return sigmoid(self.utility(differences) / np.sqrt(1 + math.pi * variance / 8))


def prior(size: int) -> Head:
    """The head before any duel: the scorer."""
    mean = np.zeros(size)
    mean[0] = SLOPE
    return Head(mean, np.diag(1 / _precision(size, WIDTHS[0])), WIDTHS[0])


def fit(
    differences: np.ndarray, weights: np.ndarray | None = None, starts: dict[float, np.ndarray] | None = None
) -> Head:
    """The head of duels: differences [n, d] of the chosen picture's features less the other's, weights [n] (1 each).

    `starts`: a guess of the peak by width, updated to what is found: fits of nearly the same duels then take two steps.
    """
    count, size = differences.shape
    if not count:
        return prior(size)
    weights = np.ones(count) if weights is None else weights
    starts = {} if starts is None else starts
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    peak = prior(size).mean
    for width in WIDTHS:
        peak, hessian, evidence = _peak(differences, weights, width, starts.get(width, peak))
        starts[width] = peak
        evidence -= 2 * math.log1p(width / USUAL)
        if best is None or evidence > best[0]:
            best = evidence, width, peak, hessian
    assert best is not None  # there are widths
    _, width, peak, hessian = best
    return Head(peak, np.linalg.inv(hessian), width)


def _peak(
    differences: np.ndarray, weights: np.ndarray, width: float, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """(peak of the posterior [d], its Hessian [d, d], log evidence) by Newton's method, halving steps that overshoot."""
    mean = prior(differences.shape[1]).mean
    precision = _precision(differences.shape[1], width)
    w = start
    odds = differences @ w
    value = _log_posterior(odds, weights, w - mean, precision)
    for _ in range(NEWTON_STEPS):
        p = sigmoid(odds)
        gradient = differences.T @ (weights * (1 - p)) - precision * (w - mean)
        hessian = (differences * (weights * p * (1 - p))[:, None]).T @ differences
        hessian[np.diag_indices_from(hessian)] += precision
        step = np.linalg.solve(hessian, gradient)
        for _ in range(HALVINGS):
            moved = w + step
            odds = differences @ moved
            reached = _log_posterior(odds, weights, moved - mean, precision)
            if reached >= value - 1e-9:
                break
            step = step / 2
        w, value = moved, reached
        if np.abs(step).max() < 1e-5:
            break
    evidence = value + 0.5 * float(np.log(precision).sum()) - 0.5 * float(np.linalg.slogdet(hessian)[1])
    return w, hessian, evidence


def _precision(size: int, width: float) -> np.ndarray:
    precision = np.full(size, 1 / width**2)
    precision[0] = 1 / SLOPE_WIDTH**2
    return precision


def _log_posterior(odds: np.ndarray, weights: np.ndarray, away: np.ndarray, precision: np.ndarray) -> float:
    """Log posterior up to a constant: weighted log likelihood of the duels and the prior."""
    return float(-(weights * np.logaddexp(0, -odds)).sum() - 0.5 * (precision * away**2).sum())


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
