"""Shares and how sure one can be of them: Wilson's interval; McNemar's exact test of two raters on the same cases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Z95 = 1.96  # standard errors on both sides of 95 %
STEPS = 200  # of weights; equal ones become equal steps


def wilson(share: float, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share that was found in `count` cases; (0, 1) where there were none.

    Unlike share ± z · standard error it stays within [0, 1] and covers as it says near the ends too.
    """
    if count < 1:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(first_only: np.ndarray, second_only: np.ndarray) -> float:
    """P that the first of two raters would be ahead at least so far, if who is right where only one of them is were a
    coin's throw: McNemar's test (1947), exact and one-sided. Cases on which both are right, or both wrong, say nothing
    and are not asked for.

    Of each case that one rater alone has right: its weight (>= 0), which must have been settled before the case was
    seen. With equal weights it is McNemar's own test; weights that are larger where the first is more often right find
    a difference with fewer cases. They are rounded to `STEPS` of the largest, and the test is exact for those.
    """
    import numpy as np

    weights = np.concatenate([first_only, second_only])
    if not len(weights):
        return 1.0
    steps = np.maximum(1, np.rint(weights * (STEPS / (weights.max() or 1.0)))).astype(int)
    chances = np.ones(1)  # of the sum of the steps that fall to the first
    for step in steps:
        longer = np.zeros(len(chances) + step)
        longer[: len(chances)] = chances / 2
        longer[step:] += chances / 2
        chances = longer
    return min(1.0, float(chances[steps[: len(first_only)].sum() :].sum()))
