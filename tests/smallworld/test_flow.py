"""tiny-flow: its recipe in a handful of steps, going on after a cut, and the way to a model that draws."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smallworld.errors import SmallWorldError
from smallworld.evaluate import interval_over
from smallworld.flow_pipeline import FLOW, TINY_FLOW, assemble, draw_with
from smallworld.oracle import summarise
from smallworld.train_flow import RECORD, SHORT, STATE, FlowTraining, train_flow
from smallworld.world import single_scenes
from tests.conftest import ROOT

pytest.importorskip("diffusers")


def quiet(stage, done, total, values):
    """Progress that nobody reads."""


@pytest.mark.newest
def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(tmp_path):
    whole = train_flow(SHORT, tmp_path / "whole", quiet)
    assert whole["step"] == 4 and whole["cpu_seconds"] >= 0

    class Cut(Exception):
        """The computer was switched off."""

    def cut(stage, done, total, values):
        raise Cut

    with pytest.raises(Cut):
        train_flow(SHORT, tmp_path / "cut", cut)
    assert json.loads((tmp_path / "cut" / RECORD).read_text())["step"] == 2 and (tmp_path / "cut" / STATE).is_file()
    assert train_flow(SHORT, tmp_path / "cut", quiet)["step"] == 4
    one, two = (load_file(tmp_path / name / "tiny-flow.safetensors") for name in ("whole", "cut"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    (tmp_path / "cut" / STATE).unlink()  # finished, nothing is trained again
    assert train_flow(SHORT, tmp_path / "cut", cut)["step"] == 4
    assert sum(tensor.numel() for tensor in one.values()) <= 2_500_000
    assert (tmp_path / "whole" / "tiny-flow.safetensors").stat().st_size <= 5_000_000
    with pytest.raises(SmallWorldError, match="other settings"):
        train_flow(replace(SHORT, seed=1), tmp_path / "cut", quiet)


@pytest.mark.newest
def test_the_assembled_folder_is_a_model_that_the_trainer_loads_and_that_draws(tmp_path):
    from smallworld.flow_pipeline import generate_flow, load_flow

    train_flow(SHORT, tmp_path, quiet)
    model = load_flow(assemble(tmp_path / "model", tmp_path / "tiny-flow.safetensors"))
    assert model.family.key == "sd3" and model.schedule.prediction_type == "flow"
    assert model.text.encode(["a red circle on a white background"], 64).context.shape == (1, 20, 96)
    prompts = ["a red circle on a white background", "a blue star on a gray background"]
    together = generate_flow(model, prompts, [1, 2], steps=2)
    (alone,) = generate_flow(model, prompts[1:], [2], steps=2)
    assert together[0].size == (64, 64)
    assert np.abs(np.asarray(together[1], int) - np.asarray(alone, int)).max() <= 1
    with pytest.raises(SmallWorldError, match="is made by"):
        assemble(tmp_path / "other", tmp_path / "absent.safetensors")


def test_the_shipped_weights_draw_what_held_out_captions_say(tmp_path, oracle):
    """The goal is 70 % all right, and 97 % of backgrounds and counts; the bounds lie two standard errors of 45
    pictures below.
    """
    scenes = list(single_scenes(held_out=True))
    pictures = draw_with(assemble(tmp_path / FLOW), [scene.caption for scene in scenes], range(300, 300 + len(scenes)))
    verdict = summarise(scenes, oracle.read(pictures))
    assert verdict.pictures == 45 and verdict.all_right >= 0.56, verdict
    assert min(verdict.accuracy["background"], verdict.accuracy["count"]) >= 0.92, verdict


def test_the_shipped_weights_are_those_of_their_record():
    record = json.loads((ROOT / "docs/smallworld/tiny_flow.json").read_text(encoding="utf-8"))
    card = json.loads(TINY_FLOW.with_suffix(".json").read_text(encoding="utf-8"))
    one = record[FLOW]["one object"]
    assert one["all_right"] >= 0.7 and one["interval"][0] >= 0.5 and (one["pictures"], one["combinations"]) == (225, 15)
    assert min(one["accuracy"]["background"], one["accuracy"]["count"]) >= 0.97
    assert record["training"]["cpu_seconds"] <= 1000 and record["training"]["step"] == FlowTraining().steps
    assert record["training"]["config"] == asdict(FlowTraining())
    assert card["parameters"] <= 2_500_000 and card["bytes"] <= 5_000_000
    assert card["quality"][FLOW]["one object"]["all_right"] == pytest.approx(one["all_right"], abs=1e-4)


def test_an_interval_over_groups_is_wider_than_over_pictures():
    groups = [number for number in range(15) for _ in range(15)]
    values = np.repeat(np.random.default_rng(0).random(15) < 0.8, 15).astype(float)
    low, high = interval_over(values, groups)
    assert low < values.mean() < high and high - low > 0.2
    assert interval_over(np.ones(225), groups) == [1.0, 1.0]
