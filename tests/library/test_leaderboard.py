"""The leaderboard: equal to the paired t test where that applies, to its formulas written out densely elsewhere, and
silent where nothing can be said."""

import numpy as np
import pytest

from imagereward_core.library.leaderboard import Cells, cells_of, leaderboard, prompts_needed, usable

stats = pytest.importorskip("scipy.stats")


def table_of(rows, **options):
    prompt, level, score = zip(*rows)
    return leaderboard(cells_of(prompt, level, score), **options)


def history(seed, prompts=25, levels=5):
    """Rows of a simulated library with unequal cells."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        for level in rng.choice(levels, rng.integers(1, 4), replace=False):
            base = rng.normal() + 0.3 * rng.normal()
            rows += [(prompt, int(level), base + 0.5 * rng.normal()) for _ in range(rng.geometric(0.3))]
    return rows


@pytest.mark.parametrize("prompts", [3, 12, 200])
def test_two_levels_are_the_paired_t_test(prompts):
    rng = np.random.default_rng(prompts)
    a = rng.normal(size=prompts)
    b = a + rng.normal(0.3, 0.5, prompts)
    table = table_of([*((i, 0, v) for i, v in enumerate(a)), *((i, 1, v) for i, v in enumerate(b))])
    expected = stats.ttest_rel(a, b)
    (pair,) = table.pairs
    assert pair.difference / pair.se == pytest.approx(expected.statistic, rel=1e-9)
    assert pair.p_alone == pytest.approx(expected.pvalue, rel=1e-9)
    assert table.effects[0].df == pytest.approx(prompts - 1, rel=1e-9)
    interval = expected.confidence_interval()
    better = table.effects[0]
    assert 2 * better.low == pytest.approx(-interval.high if better.level else interval.low, rel=1e-9)


def test_cells_hold_what_the_rows_hold():
    cells = cells_of([5, 5, 5, 2], [1, 1, 0, 1], [1e9 + 1, 1e9 + 3, 7, -2])
    assert cells.prompt.tolist() == [2, 5, 5] and cells.level.tolist() == [1, 0, 1]
    assert cells.images.tolist() == [1, 1, 2] and cells.mean.tolist() == [-2, 7, 1e9 + 2]
    assert cells.squares.tolist() == [0, 0, 2]


def dense(cells, weight):
    """Effects, CR2 covariance and degrees of freedom by their formulas, with every prompt's own column in the design:
    no absorption, no batches, no tricks."""
    levels = np.unique(cells.level)
    prompts = np.unique(cells.prompt)
    n = len(cells)
    design = np.zeros((n, len(levels)))
    design[np.arange(n), np.searchsorted(levels, cells.level)] = 1
    dummies = (cells.prompt[:, None] == prompts).astype(float)
    root = np.sqrt(weight)[:, None]
    y, D = root[:, 0] * cells.mean, root * dummies
    project = np.eye(n) - D @ np.linalg.pinv(D)
    X = project @ (root * design)
    inverse = np.linalg.pinv(X.T @ X)
    effect = inverse @ X.T @ y
    rest = np.eye(n) - D @ np.linalg.pinv(D) - X @ inverse @ X.T
    e = rest @ y
    covariance = np.zeros((len(levels), len(levels)))
    scores = np.zeros((len(prompts), n, len(levels)))
    for number, prompt in enumerate(prompts):
        rows = np.flatnonzero(cells.prompt == prompt)
        own = np.eye(len(rows)) - (X @ inverse @ X.T)[np.ix_(rows, rows)]
        value, vector = np.linalg.eigh(own)
        adjust = (vector * np.where(value > 1e-8, np.maximum(value, 1e-8) ** -0.5, 0)) @ vector.T
        G = adjust @ X[rows] @ inverse
        scores[number][rows] = G
        u = G.T @ e[rows]
        covariance += np.outer(u, u)
    df = []
    for contrast in (np.eye(len(levels)) - 1 / len(levels)).T:
        g = scores @ contrast  # [prompts, n]
        between = g @ rest @ g.T
        df.append(np.trace(between) ** 2 / (between**2).sum())
    return effect - effect.mean(), covariance, np.array(df)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_formulas_written_out(seed):
    cells = cells_of(*zip(*history(seed)))
    table = leaderboard(cells)
    kept = cells.where(usable(cells, 3))
    flat_effect, _, _ = dense(kept, np.ones(len(kept)))
    residual = kept.mean - flat_effect[np.searchsorted(np.unique(kept.level), kept.level)]
    for prompt in np.unique(kept.prompt):
        residual[kept.prompt == prompt] -= residual[kept.prompt == prompt].mean()
    free = len(kept) - len(np.unique(kept.prompt)) - len(np.unique(kept.level)) + 1
    floor = 1e-6 * (residual**2).sum() / free
    effect, covariance, df = dense(kept, 1 / (table.tau2 + table.sigma2 / kept.images + floor))
    by_level = sorted(table.effects, key=lambda row: row.level)
    assert [row.effect for row in by_level] == pytest.approx(effect, abs=1e-9)
    assert [row.se for row in by_level] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-7)
    assert [row.df for row in by_level] == pytest.approx(df, rel=1e-6)
    half = stats.t.isf(0.025, df) * np.sqrt(np.diag(covariance))
    assert [row.high - row.effect for row in by_level] == pytest.approx(half, rel=1e-6)


def test_variances_are_found():
    rng = np.random.default_rng(1)
    rows = []
    for prompt in range(800):
        for level in range(3):
            middle = rng.normal(0, 2) * 0 + rng.normal(0, 0.4)
            rows += [(prompt, level, middle + rng.normal(0, 0.6)) for _ in range(1 + prompt % 3)]
    table = table_of(rows)
    assert table.sigma2 == pytest.approx(0.36, rel=0.08) and table.tau2 == pytest.approx(0.16, rel=0.15)


def test_nothing_is_said_below_three_shared_prompts():
    two = [(prompt, level, prompt + 5.0 * level + 0.1 * prompt * level) for prompt in (0, 1) for level in (0, 1)]
    alone = [(prompt, 0, 1.0) for prompt in range(10, 30)]
    assert table_of([*two, *alone]) is None
    assert table_of([*two, *alone, *((prompt, 1, 2.0) for prompt in range(40, 60))]) is None
    third = [(2, 0, 0.3), (2, 1, 5.1)]
    assert [row.level for row in table_of([*two, *third]).effects] == [1, 0]


def test_a_pair_has_the_degrees_of_freedom_of_its_rarer_level():
    rng = np.random.default_rng(11)
    rows = [(prompt, level, rng.normal()) for prompt in range(40) for level in (0, 1)]
    rows += [(prompt, 2, rng.normal()) for prompt in range(4)]
    table = table_of(rows)
    df = {row.level: row.df for row in table.effects}
    assert df[2] + 1 < df[0]
    for pair in table.pairs:
        expected = 2 * stats.t.sf(abs(pair.difference) / pair.se, min(df[pair.first], df[pair.second]))
        assert pair.p_alone == pytest.approx(expected, rel=1e-9) and pair.p >= pair.p_alone


def test_nothing_at_all():
    assert leaderboard(cells_of([], [], [])) is None
    assert table_of([(0, 0, 1.0)]) is None


def test_a_level_that_shares_too_little_is_named():
    rng = np.random.default_rng(2)
    rows = [(prompt, level, rng.normal()) for prompt in range(6) for level in (0, 1)]
    rows += [(0, 7, 3.0), (1, 7, 3.0)]
    table = table_of(rows)
    assert {row.level for row in table.effects} == {0, 1} and table.left_out == (7,)


def test_islands_are_not_compared():
    rng = np.random.default_rng(3)
    rows = [(prompt, level, rng.normal()) for prompt in range(5) for level in (0, 1, 2)]
    rows += [(prompt, level, rng.normal()) for prompt in range(10, 18) for level in (3, 4)]
    table = table_of(rows)
    assert {row.level for row in table.effects} == {0, 1, 2} and table.left_out == (3, 4)


def test_levels_are_compared_through_others():
    """0 and 2 share no prompt, but both share some with 1."""
    rng = np.random.default_rng(4)
    rows = [(prompt, level, level + 0.1 * rng.normal()) for prompt in range(20) for level in (0, 1)]
    rows += [(prompt, level, level + 0.1 * rng.normal()) for prompt in range(20, 40) for level in (1, 2)]
    pair = next(pair for pair in table_of(rows).pairs if {pair.first, pair.second} == {0, 2})
    assert pair.shared == 0 and pair.claimed and abs(pair.difference) == pytest.approx(2, abs=0.15)


def test_hard_prompts_harm_nobody():
    """Level 1 is better by 0.5 on every prompt, but is used with hard prompts mostly: its plain mean is lower."""
    rng = np.random.default_rng(5)
    rows = []
    for prompt in range(40):
        hard = -2.0 if prompt >= 20 else 0.0
        for level, images in ((0, 10 if prompt < 20 else 1), (1, 1 if prompt < 20 else 10)):
            rows += [(prompt, level, hard + 0.5 * level + 0.2 * rng.normal()) for _ in range(images)]
    mean = [np.mean([score for _, level, score in rows if level == which]) for which in (0, 1)]
    table = table_of(rows)
    assert mean[1] < mean[0] and table.effects[0].level == 1 and table.pairs[0].claimed
    assert 2 * table.effects[0].effect == pytest.approx(0.5, abs=0.1)


def test_the_same_every_time_and_in_every_order():
    rows = history(6)
    first = table_of(rows)
    assert table_of(rows) == first
    again = table_of(rows[::-1])
    assert [row.level for row in again.effects] == [row.level for row in first.effects]
    assert [pair.p for pair in again.pairs] == pytest.approx([pair.p for pair in first.pairs], abs=1e-12)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_unit_of_a_score_does_not_matter(scale):
    rows = history(7)
    first, other = table_of(rows), table_of([(prompt, level, 50 + scale * score) for prompt, level, score in rows])
    assert [row.effect for row in other.effects] == pytest.approx(
        [scale * row.effect for row in first.effects], rel=1e-6
    )
    assert [pair.p for pair in other.pairs] == pytest.approx([pair.p for pair in first.pairs], abs=2e-4)


def test_equal_scores_claim_nothing():
    table = table_of([(prompt, level, 1.0) for prompt in range(10) for level in range(3)])
    assert not any(pair.claimed for pair in table.pairs)
    assert [row.effect for row in table.effects] == pytest.approx([0, 0, 0], abs=1e-12)


def test_equal_levels_are_rarely_told_apart():
    """40 libraries of 6 equal levels: some pair claimed in about 5 %; without the correction it would be a third."""
    claimed = alone = 0
    for seed in range(40):
        rng = np.random.default_rng(100 + seed)
        rows = [
            (prompt, int(level), prompt + rng.normal())
            for prompt in range(30)
            for level in rng.choice(6, 3, replace=False)
        ]
        table = table_of(rows)
        claimed += any(pair.claimed for pair in table.pairs)
        alone += any(pair.p_alone < 0.05 for pair in table.pairs)
    assert claimed <= 5 < alone


def test_how_many_more_prompts():
    rng = np.random.default_rng(9)
    rows = [(prompt, level, prompt + 0.1 * level + 0.9 * rng.normal()) for prompt in range(10) for level in (0, 1)]
    (pair,) = table_of(rows).pairs
    assert not pair.claimed
    table = table_of(rows)
    assert pair.more == prompts_needed(table.tau2, table.sigma2, pair.difference) - 10
    assert prompts_needed(0.0625, 0.3025, 0.3) == 66 and prompts_needed(0.0625, 0.3025, 0.3, images=4) == 27
    assert prompts_needed(0.1, 0.1, 0.3, pairs=28) > prompts_needed(0.1, 0.1, 0.3)
    with pytest.raises(ValueError, match="difference of 0"):
        prompts_needed(1, 1, 0)


def test_at_most_so_many_levels():
    rng = np.random.default_rng(9)
    rows = [(prompt, level, rng.normal()) for prompt in range(4) for level in range(9)]
    rows += [(prompt, level, rng.normal()) for prompt in range(4, 8) for level in range(3, 9)]
    table = table_of(rows, max_levels=6)
    assert {row.level for row in table.effects} == set(range(3, 9)) and table.left_out == (0, 1, 2)


def test_where_takes_rows():
    cells = cells_of([0, 1, 2], [0, 0, 0], [1.0, 2.0, 3.0]).where(np.array([2]))
    assert isinstance(cells, Cells) and cells.mean.tolist() == [3.0]
