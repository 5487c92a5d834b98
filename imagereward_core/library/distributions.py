"""Student's t and the normal distribution, as far as the leaderboard needs them: the hosts bring numpy, not scipy.

The incomplete beta function is the continued fraction of DLMF 8.17.22, evaluated by Lentz's method as Thompson and
Barnett (1986) modified it. Tests compare with scipy: probabilities and quantiles to a relative 1e-9, for 1 to
1e6 degrees of freedom.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

TINY = 1e-300
NEWTON_STEPS = 100
STEPS = 20_000  # the fraction needs about the square root of the degrees of freedom
NORMAL = NormalDist()


def normal_sf(z: float) -> float:
    """P(Z > z) of a standard normal, to full relative precision in the upper tail."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def normal_isf(p: float) -> float:
    """The z with P(Z > z) = p; infinite for p = 0. (Wichura 1988, AS 241, in Python's own library.)"""
    if p <= 0:
        return math.inf
    return -NORMAL.inv_cdf(p)


def t_two_sided(t: Any, df: Any) -> np.ndarray:
    """P(|T| >= |t|), elementwise. `df` must be positive; an infinite t gives 0."""
    t, df = np.broadcast_arrays(np.abs(np.asarray(t, float)), np.asarray(df, float))
    square = t * t
    x = np.where(np.isinf(square), 0.0, df / (df + np.where(np.isinf(square), 0.0, square)))
    complement = np.where(np.isinf(square), 1.0, np.where(np.isinf(square), 1.0, square) / (df + square))
    return _beta(df / 2, 0.5, x, complement)


def t_isf(p: float, df: Any) -> np.ndarray:
    """The t with P(T > t) = p, for 0 < p < 1/2, elementwise in `df`.

    Newton's method on ln P as a function of ln t, which is concave: it falls ever faster, from a power law (few degrees
    of freedom) to a normal's tail. From the normal's quantile it overshoots once at most and then closes in from above.
    """
    df = np.atleast_1d(np.asarray(df, float))
    t = np.full(df.shape, normal_isf(p))
    for _ in range(NEWTON_STEPS):
        tail = t_two_sided(t, df)
        slope = 2 * t * _density(t, df) / tail
        step = np.log(tail / (2 * p)) / slope
        t = t * np.exp(step)
        if (np.abs(step) < 1e-13).all():
            break
    return t


def _density(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Student's t density."""
    front = np.array([_log_gamma_ratio(v / 2, 0.5) for v in df]) - 0.5 * np.log(df * math.pi)
    return np.exp(front - (df + 1) / 2 * np.log1p(t * t / df))


def _beta(a: np.ndarray, b: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The regularised incomplete beta function I_x(a, b), with y = 1 - x given apart: it would be rounded away."""
    a, x, y = (np.array(value, float, ndmin=1) for value in np.broadcast_arrays(a, x, y))
    log_front = np.array([_log_gamma_ratio(v, b) for v in a.ravel()]).reshape(a.shape) - math.lgamma(b)
    log_x = np.where(y < 0.5, np.log1p(-np.minimum(y, 0.5)), np.log(np.maximum(x, TINY)))
    log_front += a * log_x + b * np.log(np.maximum(y, TINY))
    front = np.exp(log_front)
    direct = x < (a + 1) / (a + b + 2)
    result = np.where(x <= 0, 0.0, 1.0)
    first = direct & (x > 0)
    result[first] = front[first] * _fraction(a[first], np.full(first.sum(), b), x[first]) / a[first]
    second = ~direct & (y > 0)
    result[second] = 1 - front[second] * _fraction(np.full(second.sum(), b), a[second], y[second]) / b
    return np.clip(result, 0.0, 1.0)


def _log_gamma_ratio(a: float, b: float) -> float:
    """ln Γ(a + b) - ln Γ(a). For b = 1/2 and large a the difference of two large numbers gives way to its series (DLMF
    5.11.13): the terms left out are below 1e-15 from a = 50 on.
    """
    if b == 0.5 and a > 50:
        return 0.5 * math.log(a) - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7)
    return math.lgamma(a + b) - math.lgamma(a)


def _fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The continued fraction of I_x(a, b), elementwise."""
    if not len(x):
        return x
    c = np.ones_like(x)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1 / _away_from_zero(1 + coefficient * d)
            c = _away_from_zero(1 + coefficient / c)
            value = value * c * d
        if (np.abs(c * d - 1) < 1e-15).all():
            break
    return value


def _away_from_zero(value: np.ndarray) -> np.ndarray:
    return np.where(np.abs(value) < TINY, TINY, value)
