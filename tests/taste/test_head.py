"""The head, the basis and the verdict, as mathematics."""

import numpy as np
import pytest
from scipy import optimize, stats

from imagereward_core.proportions import mcnemar, wilson
from imagereward_core.taste import head, verdict
from imagereward_core.taste.basis import Material, basis_of


def some_duels(count, weights, seed=0):
    """Differences [count, d] of duels that a user with these weights decides."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, len(weights)))
    won = rng.random(count) < head.sigmoid(found @ np.array(weights))
    return np.where(won[:, None], found, -found)


def test_without_duels_the_head_is_the_scorer():
    fitted = head.fit(np.zeros((0, 5)))
    assert fitted.mean.tolist() == [1.0, 0, 0, 0, 0]
    assert fitted.utility(np.array([[0.3, 9, 9, 9, 9]])) == pytest.approx([0.3])


@pytest.mark.parametrize("start", [None, [40.0, -40, 40, -40]])
def test_the_peak_is_that_of_a_general_optimiser(start, monkeypatch):
    monkeypatch.setattr(head, "WIDTHS", (0.4,))
    differences = some_duels(60, [1.0, 2.0, -1.0, 0.0])
    weights = np.linspace(0.2, 1, 60)
    fitted = head.fit(differences, weights, None if start is None else dict.fromkeys(head.WIDTHS, np.array(start)))
    precision = np.array([1 / head.SLOPE_WIDTH**2, *[1 / fitted.width**2] * 3])

    def loss(w):
        away = w - np.array([head.SLOPE, 0, 0, 0])
        return (weights * np.logaddexp(0, -differences @ w)).sum() + 0.5 * (precision * away**2).sum()

    best = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    assert fitted.mean == pytest.approx(best.x, abs=1e-4)
    step = 1e-3 * np.eye(4)
    hessian = [
        [
            (loss(best.x + a + b) - loss(best.x + a - b) - loss(best.x - a + b) + loss(best.x - a - b)) / 4e-6
            for b in step
        ]
        for a in step
    ]
    assert fitted.covariance @ hessian == pytest.approx(np.eye(4), abs=1e-3)


def test_few_duels_leave_it_near_the_scorer_and_many_find_the_taste():
    wanted = [0.0, 2.0, 0.0, -1.5]
    few, many = (head.fit(some_duels(count, wanted)) for count in (5, 2000))
    assert np.abs(few.mean[1:]).max() < 0.15
    assert many.mean == pytest.approx(wanted, abs=0.3)


def test_probabilities_know_how_little_was_seen():
    """Away from all duels the answer is nearer to a half than the peak alone says."""
    fitted = head.fit(some_duels(30, [1.0, 2.0]))
    far = np.array([[0.0, 30.0]])
    alone = head.sigmoid(fitted.utility(far))
    assert 0.5 < fitted.probability(far)[0] < alone[0]
    assert fitted.probability(-far) == pytest.approx(1 - fitted.probability(far))


def test_directions_are_those_within_prompts():
    """What differs between prompts alone is no direction, however much it differs."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(50), 4)
    embeddings = rng.normal(size=(200, 6))
    embeddings[:, 0] = 1000 * prompts
    embeddings[:, 1] *= 5
    material = Material(rng.normal(size=200), embeddings, rng.normal(size=(200, 16)), prompts)
    basis = basis_of(material)
    features = basis.features(material)
    assert basis.directions.shape == (6, 5) and np.abs(basis.directions[0]).max() < 1e-6
    pairs = np.arange(0, 200, 2)
    spread = (features[pairs] - features[pairs + 1]).std(0) / np.sqrt(2)
    assert spread == pytest.approx(np.ones(basis.size), rel=0.25)
    score, embedding, looks = basis.linear(head.prior(basis.size).mean)
    assert score == 1.0 and not embedding.any() and not looks.any()


def test_few_pictures_give_few_directions():
    material = Material(np.arange(6.0), np.random.default_rng(0).normal(size=(6, 300)), np.ones((6, 16)), np.arange(6))
    assert basis_of(material).directions.shape == (300, 1)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (12, 7), (7, 12), (400, 350)])
def test_mcnemar_is_scipys_binomial_test(first, second):
    expected = stats.binomtest(first, first + second, 0.5, alternative="greater").pvalue if first + second else 1.0
    assert mcnemar(np.full(first, 0.7), np.full(second, 0.7)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_with_ranks_as_weights_it_is_scipys_signed_rank_test(seed):
    ranks = np.random.default_rng(seed).permutation(np.arange(1.0, 26))  # 25 divides the steps: nothing is rounded
    signs = np.where(np.random.default_rng(seed + 10).random(25) < 0.6, 1, -1)
    expected = stats.wilcoxon(signs * ranks, alternative="greater", mode="exact").pvalue
    assert mcnemar(ranks[signs > 0], ranks[signs < 0]) == pytest.approx(expected, rel=1e-9)


def test_whatever_the_weights_a_coin_is_rarely_taken_for_more():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        weights, heads = rng.exponential(size=40), rng.random(40) < 0.5
        found.append(mcnemar(weights[heads], weights[~heads]))
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=3.5 * (level * (1 - level) / 2000) ** 0.5)


def test_what_a_head_is_sure_of_counts_more():
    """The same number right alone: more than chance where the head is right when it is sure, not where when unsure."""
    sure, unsure = np.full(14, 2.0), np.full(10, 0.2)
    assert mcnemar(sure, unsure) < 0.01 < 0.25 < mcnemar(np.full(14, 1.0), np.full(10, 1.0))
    assert mcnemar(unsure, sure) > 0.99


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (131, 212)])
def test_wilson_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def as_duels(differences, prompts=None):
    count = len(differences)
    own = np.arange(count) if prompts is None else prompts
    return verdict.Duels(differences, np.ones(count), np.ones(count, bool), own, np.arange(count))


def test_below_thirty_duels_nothing_is_measured():
    assert verdict.measure(as_duels(some_duels(29, [0, 2.0]))) is None
    assert verdict.state(None, [], 0.2) == verdict.NOT_YET and verdict.more(29, None, [], 0.2) == 171


def test_a_taste_is_measured_on_duels_it_was_not_shown():
    """Labels at random, and more features than duels: what was shown is foretold, what was not is not."""
    rng = np.random.default_rng(3)
    differences = rng.normal(size=(60, 200)) * 4
    shown = head.fit(differences)
    assert (shown.utility(differences) > 0).mean() > 0.9
    measured = verdict.measure(as_duels(differences))
    assert measured is not None and measured.accuracy < 0.7 and measured.p > 0.01


def test_the_duels_of_a_prompt_are_left_out_together():
    prompts = np.repeat(np.arange(40), 5)
    folds = verdict._folds(as_duels(np.zeros((200, 2)), prompts), 10)
    assert all(len(set(folds[prompts == prompt])) == 1 for prompt in range(40)) and len(set(folds)) == 10


def test_ties_and_weak_duels_are_not_counted():
    differences = some_duels(60, [0.0, 2.0])
    duels = verdict.Duels(differences, np.ones(60), np.arange(60) < 40, np.arange(60), np.arange(60))
    measured = verdict.measure(duels)
    assert measured is not None and measured.duels == 40
    assert measured.scorer_right == (differences[:40, 0] > 0).sum()


def test_all_looks_together_spend_at_most_the_error_that_is_allowed():
    looks = []
    for count in range(30, 5000, 3):
        level = verdict.next_level(count, looks)
        if level is not None:
            looks.append(verdict.Look(count, 1.0, level))
    assert sum(look.level for look in looks) <= verdict.ALPHA
    assert len(looks) == 9 and all(look.level >= verdict.WORTH for look in looks)
    assert verdict.next_level(looks[-1].duels, looks) is None


def test_ready_is_said_once_a_look_passed_and_only_while_it_is_ahead():
    ahead = verdict.Measured(200, 140, 110, 50, 20, 0.0003, 3.6)
    behind = verdict.Measured(300, 150, 160, 20, 30, 0.94, -1.4)
    passed, failed = verdict.Look(200, 0.001, 0.03), verdict.Look(200, 0.04, 0.03)
    assert verdict.state(ahead, [passed], 0.2) == verdict.READY and verdict.more(200, ahead, [passed], 0.2) == 0
    assert verdict.state(ahead, [failed], 0.2) == verdict.NOT_YET
    assert verdict.state(behind, [passed], 0.2) == verdict.NOT_YET
    assert verdict.more(300, behind, [failed], 0.2) is None
    assert verdict.state(ahead, [passed], 0.04) == verdict.NOT_YET  # luck: the head is the scorer, nearly
    nearly = verdict.Measured(100, 60, 50, 25, 15, 0.08, 1.6)
    assert 10 <= verdict.more(100, nearly, [verdict.Look(100, 0.08, 0.018)], 0.2) <= 300
