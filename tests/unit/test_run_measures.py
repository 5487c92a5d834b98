"""A run in curves and words: scales, bands, and a verdict that claims no more than its error allows."""

import re

import pytest

from imagereward_core.runs import EventKind, RunFolder, State, drawing, measures, read_status


def evaluation(step, reward, change=0.0, error=0.0, **more):
    changes = {"reward": [change, error], **more.pop("judge_changes", {})}
    told = {"type": EventKind.EVALUATION, "step": step, "reward": reward, "reward_std": 0.5, "diversity": 0.2}
    return {**told, "eps_mse": 0.1, "changes": changes, **more}


BASE = {**evaluation(0, 0.18), "changes": {}}


def held_out(*evaluations):
    (curve,) = [found for found in measures.curves([], evaluations) if found.title == "held-out reward"]
    return curve


def points(svg, tag):
    return re.search(rf'<{tag} points="([^"]*)"', svg)[1].split()


def test_no_change_is_no_diagonal():
    curve = held_out(BASE, evaluation(10, 0.1812))
    assert curve.axis == (pytest.approx(-0.32), pytest.approx(0.68))  # two standard deviations of single scores
    heights = [float(point.split(",")[1]) for point in points(drawing.figure(curve), "polyline")]
    assert abs(heights[0] - heights[1]) < 1


def test_a_large_change_widens_the_axis_and_the_band_lies_within():
    curve = held_out(BASE, evaluation(10, 2.0, 1.82, 0.3))
    assert curve.axis == (pytest.approx(-0.32), pytest.approx(2.3))
    band = [float(point.split(",")[1]) for point in points(drawing.figure(curve), "polygon")]
    assert min(band) == pytest.approx(drawing.TOP, abs=0.1) and max(band) < drawing.HEIGHT - drawing.BOTTOM


def test_ratios_have_a_fixed_axis_and_what_is_missing_leaves_a_gap():
    rows = [BASE, {**evaluation(10, 0.2), "diversity": None}, evaluation(20, 0.2, diversity=0.188)]
    curve = {found.title: found for found in measures.curves([], rows)}["seed diversity, before = 100%"]
    assert curve.axis == (0.0, 1.2) and curve.points == ((0.0, 1.0, 0.0), (20.0, pytest.approx(0.94), 0.0))
    assert "100% → 94%" in drawing.figure(curve)


def test_one_point_is_no_curve_and_titles_are_escaped():
    assert measures.curves([], [BASE]) == [] and measures.curves([], []) == []
    rows = [{**BASE, "judges": {"<b>": 0.1}}, {**evaluation(10, 0.2), "judges": {"<b>": 0.2}}]
    drawn = drawing.figures(measures.curves([], rows))
    assert "judge: &lt;b&gt;: 0.1 → 0.2" in drawn and "<b>" not in drawn


@pytest.mark.parametrize(
    ("now", "sound", "words"),
    [
        (evaluation(20, 0.3, 0.12, 0.04, diversity=0.188), True, "reward +0.12 ± 0.04, diversity 94%: still sound."),
        (
            evaluation(1, 0.19, 0.01, 0.04),
            None,
            "After 1 update: reward +0.01 ± 0.04, diversity 100%: the reward has not",
        ),
        (
            evaluation(
                9, 0.3, 0.12, 0.04, judges={"CLIP": 0.2}, judge_changes={"CLIP": [-0.02, 0.005]}, verdict="it falls"
            ),
            False,
            "CLIP -0.02 ± 0.005, diversity 100%: not sound any more. It falls.",
        ),
        (
            {**evaluation(9, 0.3), "changes": None},
            None,
            "reward +0.12, diversity",
        ),  # a run of before there were changes
    ],
)
def test_the_verdict_claims_no_more_than_its_error_allows(now, sound, words):
    found = measures.verdict([BASE, now])
    assert found.sound is sound and words in found.text
    assert measures.verdict([BASE]) is None


def test_steps_that_a_resumed_run_made_again_are_not_drawn_twice():
    step = {"type": EventKind.STEP, "reward": 0.1}
    events = [{**step, "step": 1}, {**step, "step": 2}, {"type": EventKind.RESUMED, "step": 1}, {**step, "step": 2}]
    assert [event["step"] for event in measures.of_run(events)[0]] == [1, 2]


def test_a_new_state_begins_its_own_count(tmp_path):
    now = [100.0]
    with RunFolder(tmp_path, clock=lambda: now[0]) as folder:
        now[0] = 130.0
        folder.status(state=State.EVALUATING.value)
        folder.progress(3, 32)
        folder.status(message="x")
        told = read_status(tmp_path)
        assert (told.done, told.total, told.since) == (3, 32, 130.0)
        folder.status(state=State.TRAINING.value)
        assert (read_status(tmp_path).done, read_status(tmp_path).total) == (0, 0)


def test_the_dial_by_strength_with_the_recommended_one_drawn_out():
    marks = [
        {"strength": strength, "reward": reward, "diversity": None, "judges": {"CLIP": 0.2 + strength}}
        for strength, reward in ((0, 0.1), (0.5, 0.4), (1, None))
    ]
    reward, judge = measures.by_strength(
        [*marks, {"strength": "x", "reward": 9}], 0.5
    )  # no diversity was measured: no curve
    assert reward.points == ((0.0, 0.1, 0.0), (0.5, 0.4, 0.0)) and reward.axis == (0.1, 0.4)
    assert (judge.title, len(judge.points), judge.along, judge.mark) == ("judge: CLIP", 3, "strength", 0.5)
    drawn = drawing.figure(judge)
    assert drawn.count("<circle") == 4 and ">0.5</text>" in drawn and "strength 1" in drawn
    assert drawing.figure(measures.by_strength(marks, None)[1]).count("<line") == drawn.count("<line") - 1
    assert measures.by_strength([], 0.5) == []
