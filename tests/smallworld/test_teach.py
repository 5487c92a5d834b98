"""Teach's arithmetic; the ReFL run itself is tested where refl is."""

import numpy as np
import pytest

from smallworld.oracle import Verdict
from smallworld.teach import Judged, Outcome, TeachConfig, _report_progress, paired_interval, read_events, refl_settings
from smallworld.world import parse_caption


def judged(rewards, right, accuracy):
    right = np.array(right)
    return Judged([], np.array(rewards, float), right, Verdict(accuracy, float(right.mean()), 0.01, len(right)))


def test_the_interval_holds_the_mean_and_narrows():
    wide = paired_interval(np.array([0, 1, 0, 1.0]))
    narrow = paired_interval(np.tile([0, 1, 0, 1.0], 50))
    assert wide[0] <= 0.5 <= wide[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]
    assert paired_interval(np.zeros(9)) == (0, 0)


def test_the_table_compares_like_with_like(tmp_path):
    before, after = judged([0, 0], [True, False], {"shape": 0.5}), judged([1, 2], [True, True], {"shape": 1.0})
    table = Outcome(before, after, tmp_path, tmp_path).table()
    assert [line.split() for line in table[1:4]] == [
        ["reward", "0.000", "1.500"],
        ["shape", "0.500", "1.000"],
        ["every", "attribute", "0.500", "1.000"],
    ]
    assert "(2 pictures)" in table[-1]


def test_no_held_out_caption_is_trained_on(tmp_path):
    settings = refl_settings(TeachConfig(out=tmp_path, prompts=200))
    assert len(settings["prompts"]) > 100
    assert not any(parse_caption(prompt).held_out for prompt in settings["prompts"])


def test_refl_knows_every_setting(tmp_path):
    config = pytest.importorskip("refl.config")
    resolved = config.ReFLConfig.from_dict(refl_settings(TeachConfig(out=tmp_path, updates=3))).resolved()
    assert resolved.max_train_steps == 3


def test_progress_is_said_every_five_updates_and_half_a_line_waits(tmp_path):
    log, said = tmp_path / "events.jsonl", []
    assert _report_progress(log, 0, 20, said.append) == 0
    step = '{{"type": "step", "step": {}, "reward": 0.5, "seconds_per_update": 2.0}}\n'
    log.write_text("".join(step.format(number) for number in range(1, 5)) + '{"type": "st')
    assert len(read_events(log)) == 4
    assert _report_progress(log, 0, 20, said.append) == 0
    log.write_text("".join(step.format(number) for number in range(1, 7)))
    assert _report_progress(log, 0, 20, said.append) == 6
    assert said == ["  update 6 of 20, reward +0.50, about 28 s left"]
