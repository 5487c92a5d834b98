"""Reward mixing and loading through the core, picture statistics, and the stop rule."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import save_file

from refl import Trainer
from refl.errors import ConfigError, RewardError
from refl.metrics import MIXED, Evaluation, StopRule, contrast, diversity, paired_change, saturation, win_rate
from refl.rewards import Component, RewardMix, load_rewards
from refl.settings import parse_reward

from ..conftest import ROOT
from .tiny import ColourReward, colour_mix


def test_parse_reward():
    assert parse_reward("ImageReward-v1.0") == ("ImageReward-v1.0", 1.0)
    assert parse_reward("CLIP=0.5") == ("CLIP", 0.5)
    assert parse_reward("/a=b/model.safetensors") == ("/a=b/model.safetensors", 1.0)
    assert parse_reward("/a=b/model.safetensors=2") == ("/a=b/model.safetensors", 2.0)


def test_mix_is_a_weighted_mean_of_standardised_scores():
    mix = RewardMix([Component(ColourReward("r", 0), 3.0, 1.0, 2.0), Component(ColourReward("g", 1), -1.0, 0.0, 0.5)])
    result = mix.mix({"r": torch.tensor([3.0]), "g": torch.tensor([1.0])})
    assert float(result) == pytest.approx((3 * 1.0 - 1 * 2.0) / 4)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    mix.differentiable(["a", "b"], images).sum().backward()
    assert float(images.grad.abs().min()) > 0


def test_calibration_measures_what_is_not_published():
    mix = RewardMix([Component(ColourReward("r"), 1.0, None, None)])
    mix.calibrate({"r": torch.tensor([1.0, 3.0])})
    assert mix.calibration() == {"r": [2.0, pytest.approx(math.sqrt(2))]}
    other = RewardMix([Component(ColourReward("r"), 1.0, None, None)])
    other.restore(mix.calibration())
    assert other.components[0].mean == 2.0
    for values, word in (([0.5, 0.5, 0.5], "same score"), ([float("nan"), 1.0], "NaN")):
        with pytest.raises(RewardError, match=word):
            RewardMix([Component(ColourReward("r"))]).calibrate({"r": torch.tensor(values)})


def test_empty_and_weightless_mixes_are_refused():
    with pytest.raises(ConfigError, match="empty"):
        RewardMix([])
    with pytest.raises(ConfigError, match="weight 0"):
        RewardMix([Component(ColourReward(), 0.0)])


@pytest.fixture()
def reward_file(tmp_path):
    """A tiny reward model in the core's own file format, as `imagereward train` writes it."""
    from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig, VisionConfig
    from imagereward_core.model import RewardModel

    config = ModelConfig(
        vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2),
        text=TextConfig(width=32, depth=1, heads=2, intermediate=64, max_positions=64),
        projection=16,
        head=(16, 8, 8, 8),
        mean=0.0,
        std=0.01,
        max_tokens=35,
    )
    torch.manual_seed(0)
    path = tmp_path / "tiny-reward.safetensors"
    save_file(RewardModel(config).state_dict(), str(path), {METADATA_KEY: config.to_json()})
    return path


def test_a_reward_model_of_the_core_trains_a_run(settings, reward_file):
    config = dataclasses.replace(
        settings, rewards=[str(reward_file)], reward_target=1e6, learning_rate=1e-2, max_train_steps=2
    )
    trainer = Trainer(args=config, judges=[])
    result = trainer.train()
    assert result.state == "finished"
    grads = [parameter.grad for parameter in trainer.engine.params.values()]
    assert any(float(gradient.abs().max()) > 0 for gradient in grads)
    assert all(parameter.grad is None for parameter in trainer.rewards.components[0].scorer.net.parameters())
    assert "tiny-reward" in result.evaluations[0].scores


def test_core_scorer_and_reward_agree(reward_file):
    """What is optimised is what is shown: the differentiable path scores a picture as the core's scorer does."""
    from PIL import Image

    from imagereward_core.scorers import load_scorer

    mix = load_rewards([str(reward_file)], "cpu")
    images = torch.rand(2, 3, 64, 48)
    images = (images * 255).round() / 255
    ours = mix.raw(["a cat", "a dog"], images)["tiny-reward"]
    pictures = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    theirs = load_scorer(str(reward_file), device="cpu").score_pairs(["a cat", "a dog"], pictures)
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=0.02, atol=0.2)


def test_unknown_and_repeated_rewards_are_refused(reward_file):
    with pytest.raises(RewardError, match="reward Nothing"):
        load_rewards(["Nothing"], "cpu")
    with pytest.raises(ConfigError, match="twice"):
        load_rewards([str(reward_file), f"{reward_file}=2"], "cpu")


# --- statistics ------------------------------------------------------------------------------------------------------


def test_diversity_of_equal_and_opposite_pictures():
    flat = torch.zeros(4, 3, 64, 64)
    assert diversity(flat, 2) == 0.0
    flat[1::2] = 1.0
    assert diversity(flat, 2) == pytest.approx(1.0)
    assert math.isnan(diversity(flat, 1))
    assert (
        diversity(torch.cat((torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))), 2) == 0.0
    )  # other prompts do not count


def test_saturation_and_contrast():
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1.0
    assert saturation(red) == 1.0 and saturation(torch.full((1, 3, 4, 4), 0.5)) == 0.0
    checker = torch.zeros(1, 3, 4, 4)
    checker[..., ::2] = 1.0
    assert contrast(checker) == pytest.approx(0.516, abs=1e-3) and contrast(red) == pytest.approx(0.0, abs=1e-6)


def test_win_rate_and_paired_change():
    share, low, high = win_rate([0.0] * 10, [1.0] * 9 + [0.0])
    assert share == 0.95 and 0.6 < low < share < high <= 1.0
    assert win_rate([1.0], [1.0])[0] == 0.5
    change, error = paired_change([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (change, error) == (1.0, 0.0)


def evaluation(step=0, reward=0.0, diversity=0.5, eps_mse=0.04, judge=(0.0, 1.0, 2.0), inflation=1.0):
    scores = {"judge": list(judge), MIXED: [reward] * len(judge)}
    means = {"judge": sum(judge) / len(judge)}
    told = {"inflation": inflation, "scores": scores, "judges": means}
    return Evaluation(step, reward, 1.0, diversity, 0.5, 0.5, eps_mse, **told)


def test_stop_rule_names_each_reason():
    rule, base = StopRule(), evaluation()
    assert rule.verdict(base, evaluation(10, reward=1.0)) == ""
    assert "seed diversity is 50%" in rule.verdict(base, evaluation(10, reward=1.0, diversity=0.25))
    assert "5.0 times" in rule.verdict(base, evaluation(10, reward=1.0, eps_mse=0.2))
    fallen = rule.verdict(base, evaluation(10, reward=1.0, judge=(-1.0, 0.1, 1.0)))
    assert "judge, which is not trained on, falls" in fallen
    damaged = rule.verdict(base, evaluation(10, reward=-1.0, judge=(-1.0, 0.1, 1.0)))
    assert "the reward itself falls" in damaged and "while judge" not in damaged  # too fast, not over-optimised
    crashed = rule.verdict(base, evaluation(10, reward=0.0, judge=(-1.0, 0.1, 1.0)))
    assert crashed == "judge, which is not trained on, falls by 0.967"  # whether or not the reward rises
    for length, told in ((1.02, "grows: as velocity it is 1.020"), (0.98, "shrinks: as velocity it is 0.980")):
        assert told in rule.verdict(base, evaluation(10, reward=1.0, inflation=length))
    assert rule.verdict(base, evaluation(10, reward=1.0, inflation=0.99)) == ""
    noisy = evaluation(10, reward=1.0, judge=(-3.0, 3.5, 2.0))
    assert rule.verdict(base, noisy) == ""  # within two standard errors


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"diversity": math.nan}, "seed diversity"),
        ({"eps_mse": math.inf}, "the denoising error"),
        ({"inflation": math.nan}, "the length of the network's output"),
        ({"reward": math.nan}, "the reward"),
        ({"judge": (0.0, math.nan, 2.0)}, "judge"),
    ],
)
def test_what_cannot_be_measured_is_not_well(changes, missing):
    verdict = StopRule().verdict(evaluation(), evaluation(10, **{"reward": 1.0, **changes}))
    assert verdict.startswith(f"cannot judge: {missing} could not be measured")


def test_one_picture_says_nothing_of_chance():
    verdict = StopRule().verdict(evaluation(judge=(0.0,)), evaluation(10, reward=1.0, judge=(0.0,)))
    assert verdict == "cannot judge: the reward, judge could not be measured"


@pytest.mark.parametrize(("spread", "stops"), [(0.35, False), (0.2, True)])  # -1.5 and -2.6 standard errors
def test_a_fall_counts_from_two_standard_errors_on(spread, stops):
    rule, base = StopRule(), evaluation()
    changes = [-0.3 - spread, -0.3, -0.3 + spread]
    error = spread / math.sqrt(3)
    assert (0.3 / error > 2) is stops and 0.3 / error > 1
    judged = evaluation(
        10, reward=1.0, judge=[old + change for old, change in zip((0.0, 1.0, 2.0), changes, strict=True)]
    )
    assert ("judge, which is not trained on, falls" in rule.verdict(base, judged)) is stops
    damaged = evaluation(10, reward=-0.3)
    damaged.scores[MIXED] = changes
    assert ("the reward itself falls" in rule.verdict(base, damaged)) is stops


def test_stop_rule_catches_the_documented_collapse():
    """The negative result: at learning rate 1e-3 without anchor the reward and a second reward model rose while
    diversity fell from 0.56 to 0.02 and the denoising error from 0.043 rose to 0.475.
    """
    base = evaluation(reward=-0.92, diversity=0.56, eps_mse=0.043, judge=(-0.9, -0.8, -0.82))
    collapsed = evaluation(58, reward=0.56, diversity=0.02, eps_mse=0.475, judge=(-0.2, -0.1, -0.03))
    reasons = StopRule().verdict(base, collapsed)
    assert "diversity" in reasons and "forgetting" in reasons and "judge" not in reasons


def test_stop_rule_tells_the_measured_runs_apart():
    """The small world's committed runs: three that follow the reward model, and one that follows a reward of shuffled
    rankings, whose own reward rose while nearly every picture went wrong.
    """
    found = json.loads((ROOT / "docs/smallworld/results.json").read_text(encoding="utf-8"))

    def verdicts(run):
        first, *later = [
            evaluation(item["step"], item["reward"], item["diversity"], item["eps_mse"]) for item in run["evaluations"]
        ]
        assert later[-1].reward > first.reward
        return [StopRule().verdict(first, now) for now in later]

    assert [verdicts(run) for run in found["refl"]] == [["", ""]] * 3
    assert (
        all("forgetting how to denoise" in verdict for run in found["shuffled"] for verdict in verdicts(run))
        and found["shuffled"]
    )


def test_the_length_of_the_output_tells_sound_runs_from_others():
    """The committed runs from which the limit comes: the denoising error alone would let the control pass."""
    runs = json.loads((ROOT / "docs/refl/refl_inflation.json").read_text(encoding="utf-8"))["runs"]

    def speaks(run):
        base, *later = run["evaluations"]
        measured = [evaluation(10, 1.0, 0.5, 0.04, inflation=item["inflation"]) for item in later]
        return ["times as long" in StopRule().verdict(evaluation(), now) for now in measured]

    assert {run["name"] for run in runs} == {"sound", "control", "too fast"}
    for run in runs:
        assert not any(speaks(run)) if run["name"] == "sound" else speaks(run)[-1]


def test_judges_are_reported_beside_rewards(settings):
    result = Trainer(args=settings, rewards=colour_mix(), judges=[ColourReward("greenness", 1)]).train()
    assert list(result.evaluations[0].judges) == ["greenness"]
    assert set(result.evaluations[0].scores) == {"redness", "greenness", MIXED}
    assert len(result.evaluations[0].scores[MIXED]) == 3 * settings.eval_seeds


def test_names_of_scorers_do_not_collide(settings):
    """A judge may be a file called reward.safetensors; a judge that is also the reward would judge nothing."""
    result = Trainer(
        args=dataclasses.replace(settings, max_train_steps=1), rewards=colour_mix(), judges=[ColourReward("reward", 1)]
    ).train()
    scores = result.evaluations[0].scores
    assert set(scores) == {"redness", "reward", MIXED} and scores["reward"] != scores[MIXED]
    with pytest.raises(ConfigError, match="judges names redness"):
        Trainer(args=settings, rewards=colour_mix(), judges=[ColourReward("redness")]).train()
