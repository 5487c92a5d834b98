"""Percentiles among one's own pictures, and how often the better of two would win."""

import math

import numpy as np
import pytest

from imagereward_core.errors import DataError
from imagereward_core.library import Made, Score, find, images, meaning
from imagereward_core.library.meaning import Percentile, Percentiles, fit_k, known_k, win_probability, win_sentence
from imagereward_core.library.records import Seen


def fill(library, checkpoint, digest, scores, scorer="IR"):
    with library.transaction():
        for score in scores:
            (count,) = library.query("SELECT COUNT(*) FROM images")[0]
            made = Made(prompt="a fox", checkpoint=checkpoint, checkpoint_hash=digest)
            number = images.put_picture(library, Seen(f"/{count}.png", count.to_bytes(16, "big"), 1, 1, 1, 1), made)
            images.put_scores(library, number, [Score(scorer, score)])


def percentiles(library, scorer="IR"):
    return Percentiles(library, find.scorer_named(library, scorer)[0])


def test_with_the_same_checkpoint_where_there_are_fifty(library):
    fill(library, "jugg", "abcdef1234", range(50))
    fill(library, "other", "1111111111", range(100, 149))
    found = percentiles(library)
    same = found.of(41.5, "renamed", "ABCDEF1234")
    assert same == Percentile(42, 50, True)
    assert same.sentence == "better than 84 % of your 50 pictures with this checkpoint"
    rare = found.of(120, "other", "1111111111")
    assert rare == Percentile(70, 99, False) and rare.sentence == "better than 70 % of your 99 pictures"
    assert found.of(-5, "unknown") == Percentile(0, 99, False)
    assert found.of(200, None).percent == 100


def test_the_best_is_not_better_than_itself(library):
    fill(library, "jugg", None, range(60))
    found = percentiles(library)
    assert found.of(59, "jugg").percent == 98 and found.of(0, "jugg").percent == 0


def test_equal_scores_are_not_below(library):
    fill(library, "jugg", None, [1.0] * 60)
    assert percentiles(library).of(1.0, "jugg") == Percentile(0, 60, True)


def test_too_few_say_nothing(library):
    fill(library, "jugg", None, range(meaning.FEWEST - 1))
    assert percentiles(library).of(5, "jugg") is None
    fill(library, "jugg", None, [3])
    assert percentiles(library).of(5, "jugg") == Percentile(6, 20, False)


def test_scorers_and_other_prompts_are_kept_apart(library):
    fill(library, "jugg", None, range(30))
    fill(library, "jugg", None, range(100, 130), "CLIP")
    with library.transaction():
        images.put_scores(library, 1, [Score("IR", 99.0, prompt="a dog")])
    assert percentiles(library).of(50).below == 30 and percentiles(library, "CLIP").of(50).below == 0


def test_win_probability():
    assert win_probability(0.0, 2.0) == 0.5
    assert win_probability(1.0, math.log(3)) == pytest.approx(0.75)
    assert win_probability(-1.0, math.log(3)) == pytest.approx(0.25)
    assert win_probability(1e6, 1.0) == 1.0 and win_probability(-1e6, 1.0) == 0.0
    assert win_probability(1.0, None) is None


def test_until_it_is_fitted_it_is_unknown():
    assert known_k("ImageReward-v1.0") is None
    assert "unknown" in win_sentence(1.0, known_k("ImageReward-v1.0"))
    assert win_sentence(1.0, math.log(3)) == "preferred in about 75 % of choices"


@pytest.mark.parametrize(("k", "scale"), [(1.0, 1.0), (0.4, 2.0), (30.0, 0.02), (-0.5, 1.0)])
def test_k_is_found(k, scale):
    rng = np.random.default_rng(0)
    first = rng.normal(0, scale, 20_000)
    chosen = rng.random(20_000) < 1 / (1 + np.exp(-k * first))
    fitted = fit_k(np.where(chosen, first, -first))
    assert abs(fitted.k - k) < 3 * fitted.se and fitted.se < 0.05 * abs(k) + 0.02 / scale
    assert fitted.pairs == 20_000


def test_k_is_the_most_likely():
    rng = np.random.default_rng(1)
    differences = rng.normal(0.5, 1, 60)
    fitted = fit_k(differences)

    def likelihood(k):
        return -np.log1p(np.exp(-k * differences)).sum()

    assert all(likelihood(fitted.k) > likelihood(fitted.k + step) for step in (-0.01, 0.01))
    assert fitted.accuracy == (differences > 0).mean()


@pytest.mark.parametrize("bad", [[], [1.0, 2.0], [-1.0], [0.0, 0.0], [1.0, float("nan")], [[1.0, -1.0]]])
def test_k_that_is_not_there(bad):
    with pytest.raises(DataError):
        fit_k(bad)
