"""Shares and how sure one can be of them: Wilson's interval; McNemar's exact test of two raters on the same cases."""

from __future__ import annotations

import math

Z95 = 1.96  # standard errors on both sides of 95 %


def wilson(share: float, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share that was found in `count` cases; (0, 1) where there were none.

    Unlike share ± z · standard error it stays within [0, 1] and covers as it says near the ends too.
    """
    if count < 1:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(first_only: int, second_only: int) -> float:
    """P that the first of two raters would be right alone at least so often, if both were equally good: McNemar's test
    (1947), exact and one-sided. Cases on which both are right, or both wrong, say nothing and are not asked for.
    """
    count = first_only + second_only
    tail = sum(math.comb(count, number) for number in range(first_only, count + 1))
    return tail / 2**count
