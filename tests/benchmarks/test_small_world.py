"""The small world's benchmarks: what the simulated user's picks say, and how runs are compared with their controls."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import dpo_small_world as dpo
from benchmarks import dpo_taste
from benchmarks import flow_small_world as flow


def test_picks_follow_size_and_the_controls_cannot_tell_it(tmp_path, monkeypatch):
    area = np.random.default_rng(0).random(40 * dpo.EACH) * 0.1
    monkeypatch.setattr(dpo, "draw", lambda model, shown, first: [Image.new("RGB", (4, 4))] * len(shown))
    found = dpo.write_picks(tmp_path / "no model", tmp_path, 40, 0, lambda shown, pictures: (area,))
    lines = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, (file, _) in found.items()}
    assert {name: len(duels) for name, duels in lines.items()} == {dpo.PICKS: 160, dpo.CONTROL: 160, dpo.BOTH: 320}
    both = {(duel["winner"], duel["loser"]) for duel in lines[dpo.BOTH]}
    assert len(both) == 320 and all(pair[::-1] in both for pair in both)
    facts = {name: values for name, (_, values) in found.items()}
    assert facts[dpo.BOTH] == {"larger one won": 0.5, "winners larger by": pytest.approx(0, abs=1e-12)}
    assert facts[dpo.PICKS]["larger one won"] > 0.7 and facts[dpo.PICKS]["winners larger by"] > 0.015
    assert abs(facts[dpo.CONTROL]["winners larger by"]) < 0.01


def test_what_picks_are_worth_is_their_change_minus_the_controls():
    stats = pytest.importorskip("scipy.stats")
    changes = {dpo.PICKS: [0.09, 0.05, 0.12, 0.08], dpo.CONTROL: [0.02, 0.01, 0.0], dpo.BOTH: [0.01, 0.02]}
    runs = [{"name": name, "area": {"relative": value}} for name, values in changes.items() for value in values]
    found = dpo.less_controls(runs)
    less = found[f"{dpo.PICKS} minus {dpo.CONTROL}"]
    wanted = stats.ttest_ind(changes[dpo.PICKS], changes[dpo.CONTROL], equal_var=False).confidence_interval()
    assert less["change"] == pytest.approx(0.075) and less["seeds"] == [4, 3]
    assert less["change 95 %"] == pytest.approx([wanted.low, wanted.high])
    alone = stats.ttest_1samp(changes[dpo.PICKS], 0).confidence_interval()
    assert found[dpo.PICKS]["change 95 %"] == pytest.approx([alone.low, alone.high])
    assert found[f"{dpo.PICKS} minus either control"]["seeds"] == [4, 5]
    assert dpo.less_controls(runs[:1]) == {}


def test_flow_runs_are_compared_over_combinations_and_averaged_over_seeds():
    before = {name: [0.0, 1.0, 2.0] for name in flow.MEASURES}
    afters = [{name: [0.0 + gain, 1.0 + gain, 2.0 + gain] for name in flow.MEASURES} for gain in (0.1, 0.3)]
    found = flow.compare(before, afters)["reward"]
    assert (found["before"], found["after"]) == pytest.approx((1.0, 1.2))
    assert found["change 95 %"] == pytest.approx([0.2, 0.2])


def test_runs_on_a_taste_follow_it_alone_and_are_compared_with_its_scorer_and_dpo(tmp_path):
    watched, free = (dpo_taste.settings(tmp_path, tmp_path / "t", 4, 0, 40, tmp_path, rule) for rule in (True, False))
    assert (watched.algorithm, watched.rewards, len(watched.prompts)) == ("refl+", [str(tmp_path / "t")], 4)
    assert (watched.stop_rule, watched.eval_steps, free.stop_rule, free.eval_steps) == ("stop", 5, "off", 10)
    changes = {dpo_taste.TASTE: [0.08, 0.09], dpo_taste.SCORER: [0.01, 0.02]}
    runs = [{"name": name, "area": {"relative": value}} for name, values in changes.items() for value in values]
    found = dpo_taste.worth(runs, [{"name": dpo.PICKS, "area": {"relative": value}} for value in (0.1, 0.2)])
    less = {name: values["change"] for name, values in found.items() if "minus" in name}
    assert less == {
        "my taste as reward minus its scorer as reward": pytest.approx(0.07),
        "my taste as reward minus picks by DPO": pytest.approx(-0.065),
    }
