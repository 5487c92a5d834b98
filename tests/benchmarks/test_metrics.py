"""Metric definitions against brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagereward_train.tables import metrics

small = st.integers(1, 4)


@st.composite
def ranked(draw, smallest=2, largest=6):
    n = draw(st.integers(smallest, largest))
    return draw(st.lists(small, min_size=n, max_size=n)), [
        float(value) for value in draw(st.lists(small, min_size=n, max_size=n))
    ]


@given(st.lists(ranked(), min_size=1, max_size=6))
def test_accuracy_by_counting(data):
    right = half = total = 0
    prompts, prompts_half = [], []
    for ranking, scores in data:
        wins = ties = pairs = 0
        for i, j in itertools.combinations(range(len(ranking)), 2):
            if ranking[i] != ranking[j]:
                human, machine = np.sign(ranking[j] - ranking[i]), np.sign(scores[i] - scores[j])
                pairs += 1
                wins += human == machine
                ties += machine == 0
        if pairs:
            right, half, total = right + wins, half + wins + ties / 2, total + pairs
            prompts.append(wins / pairs)
            prompts_half.append((wins + ties / 2) / pairs)
    if not total:
        return
    found = metrics.accuracy(data)
    assert (found.pairs, found.prompts) == (total, len(prompts))
    assert (found.pair, found.pair_half) == pytest.approx((right / total, half / total))
    assert (found.prompt, found.prompt_half) == pytest.approx((np.mean(prompts), np.mean(prompts_half)))


@settings(max_examples=60, deadline=None)
@given(ranked(largest=5), st.integers(1, 5))
def test_recall_and_filter_over_all_orders_of_tied_scores(entry, k):
    ranking, scores = entry
    hits, misses = [], []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:])):
            hits.append(any(ranking[index] == min(ranking) for index in order[:k]))
            misses.append(any(ranking[index] == max(ranking) for index in order[-k:]))
    assert metrics.recall_at(ranking, scores, k) == pytest.approx(np.mean(hits))
    assert metrics.filter_at(ranking, scores, k) == pytest.approx(np.mean(misses))


@given(st.integers(1, 8))
def test_closed_forms(k):
    ranking = [3, 1, 4, 2, 8, 5, 7, 6]
    assert metrics.recall_at(ranking, [0.0] * 8, k) == pytest.approx(k / 8)
    assert metrics.recall_at(ranking, [-rank for rank in ranking], k) == 1
    assert metrics.filter_at(ranking, [float(rank) for rank in ranking], k) == (k == 8)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12))
def test_spearman_is_pearsons_correlation_of_mean_ranks(pairs):
    a, b = zip(*pairs)
    ours = metrics.spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(ours)
    else:
        ranked = [
            [np.mean([place for place, other in enumerate(sorted(values), 1) if other == value]) for value in values]
            for values in (a, b)
        ]
        assert ours == pytest.approx(np.corrcoef(*ranked)[0, 1], abs=1e-12)


def test_spearman_of_known_numbers():
    assert metrics.ranks([3, 1, 3, 9]).tolist() == [2.5, 4, 2.5, 1]
    assert metrics.spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)  # 1 - 6 * 4 / (5 * 24)
    assert metrics.spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        sample = rng.normal(1.0, 2.0, 60)
        low, high = metrics.interval(metrics.bootstrap(60, lambda draw, sample=sample: sample[draw].mean(), 200, trial))
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_bootstrap_is_seeded():
    data = [([1, 2, 3], [0.3, 0.1, 0.2]), ([2, 1], [0.5, 0.1]), ([1, 2, 2], [0.1, 0.4, 0.0])]
    assert metrics.accuracy_interval(data, 100, 5) == metrics.accuracy_interval(data, 100, 5)
    low, high = metrics.accuracy_interval(data, 100, 5)
    assert low <= metrics.accuracy(data).pair <= high


def test_the_win_slope_is_found_again():
    """People who choose with σ(0.7 · Δ) among four images of each of 300 prompts."""
    rng = np.random.default_rng(5)
    data = []
    for _ in range(300):
        scores = rng.normal(size=4)
        first = rng.random() < 1 / (1 + np.exp(-0.7 * (scores[0] - scores[1])))
        second = rng.random() < 1 / (1 + np.exp(-0.7 * (scores[2] - scores[3])))
        data.append(([1, 2] if first else [2, 1], scores[:2].tolist()))
        data.append(([1, 2] if second else [2, 1], scores[2:].tolist()))
    found = metrics.win_slope(data, 50, 0)
    assert found is not None and found["pairs"] == 600
    assert found["low"] < 0.7 < found["high"] and found["k"] == pytest.approx(0.7, abs=0.2)
    assert metrics.win_slope([([1, 2, 3], [3.0, 2.0, 1.0])]) is None
    assert metrics.win_slope([([1, 1], [3.0, 2.0])]) is None
