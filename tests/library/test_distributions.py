"""Student's t without scipy, against scipy."""

import math

import numpy as np
import pytest

from imagereward_core.library.distributions import normal_isf, normal_sf, t_isf, t_two_sided

stats = pytest.importorskip("scipy.stats")
DF = np.geomspace(1, 1e6, 13)


def test_probabilities():
    t = np.geomspace(1e-3, 1e4, 29)[:, None]
    ours, theirs = t_two_sided(t, DF), 2 * stats.t.sf(t, DF)
    shown = theirs > 1e-280
    assert np.abs(ours[shown] / theirs[shown] - 1).max() < 1e-9


def test_probabilities_at_the_ends():
    assert t_two_sided([0.0, np.inf, -np.inf], 5.0).tolist() == [1.0, 0.0, 0.0]
    assert t_two_sided(1e-9, 1.0)[0] == pytest.approx(1 - 2 / math.pi * 1e-9, abs=1e-18)  # where scipy rounds to 1


@pytest.mark.parametrize("p", [0.49, 0.4, 0.1, 0.025, 1e-3, 1e-9])
def test_quantiles(p):
    assert np.abs(t_isf(p, DF) / stats.t.isf(p, DF) - 1).max() < 1e-9


def test_normal():
    for z in (-3.0, 0.0, 1.96, 8.0, 30.0):
        assert normal_sf(z) == pytest.approx(stats.norm.sf(z), rel=1e-12)
    for p in (0.5, 0.025, 1e-12, 1e-300):
        assert normal_isf(p) == pytest.approx(stats.norm.isf(p), rel=1e-12)
    assert normal_isf(0.0) == math.inf
