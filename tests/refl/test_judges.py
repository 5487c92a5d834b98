"""Which judges a run has, where they compute, and what happens when one fails or nobody judges."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from pathlib import Path

import pytest
import torch

from imagereward_core import registry
from refl import Trainer, setup
from refl.errors import ConfigError, PromptDataError, RewardError
from refl.judges import NONE, Judge, choose, files_of, here, load, nobody
from refl.runfiles import read_events, read_json, send

from .processes import wait_for
from .test_rewards_and_metrics import reward_file  # noqa: F401  a fixture
from .tiny import ColourReward, colour_mix


@pytest.fixture()
def models_dir(tmp_path, monkeypatch):
    """A folder of weights, and no others on this machine."""
    for name in ("IMAGEREWARD_HOME", "HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.setattr("imagereward_core.weights.hub.cached", lambda source: None)
    folder = tmp_path / "weights"
    folder.mkdir()

    def bring(*names: str) -> str:
        for name in names:
            for source in registry.get(name).sources:
                (folder / source.local_name).write_bytes(b"0" * 10)
        return str(folder)

    return bring


def test_the_first_two_that_are_here_and_not_trained_on(models_dir):
    there = here(models_dir("CLIP", "Aesthetic", "PickScore", "ImageReward-v1.0"))
    assert choose(["ImageReward-v1.0"], there) == ["PickScore", "CLIP"]
    assert choose(["pick-score", "clip"], there) == ["Aesthetic"]
    assert choose([], lambda name: False) == []


def test_half_a_model_is_not_here(models_dir):
    folder = Path(models_dir("Aesthetic"))
    assert len(files_of("Aesthetic", str(folder))) == 2
    (folder / registry.CLIP_L14.local_name).unlink()
    assert choose([], here(str(folder))) == []


def test_nobody_says_what_to_fetch(models_dir):
    text = nobody(["PickScore"], lambda name: False)
    assert "None of CycleReward, CLIP, Aesthetic" in text and "imagereward fetch CycleReward" in text
    assert "--judges CLIP would" in nobody([], here(models_dir("CLIP")))


def test_judges_are_named_default_or_those_of_the_run_that_goes_on(settings, models_dir):
    config = dataclasses.replace(settings, models_dir=models_dir("CLIP"))
    assert setup.with_judges(config.resolved()).judges == ["CLIP"]
    named = dataclasses.replace(config, judges=["mine.safetensors"])
    assert setup.with_judges(named.resolved()).judges == ["mine.safetensors"]
    resumed = dataclasses.replace(config, resume_from_checkpoint="latest")
    assert setup.with_judges(resumed.resolved()).judges == ["CLIP"]  # nothing is saved: it begins
    folder = Path(config.output_dir)
    state = folder / "checkpoints" / "step-000001"
    state.mkdir(parents=True)
    (state / "state.json").write_text("{}")
    for stored, kept in (([], []), (["Aesthetic"], ["Aesthetic"]), ([NONE], [NONE])):
        (folder / "config.json").write_text(json.dumps({"judges": stored}))
        assert setup.with_judges(resumed.resolved()).judges == kept


def test_judges_compute_where_there_is_room(reward_file):  # noqa: F811
    size, device = reward_file.stat().st_size, torch.device("cpu")
    for room, kept in ((None, False), (size, False), (size - 1, True)):
        (judge,) = load([str(reward_file)], device, "fp32", "", room, named=True)
        assert judge.kept_on_cpu is kept
    with pytest.raises(ConfigError, match="none stands alone"):
        load([NONE, "CLIP"], device, "fp32", "", None, named=True)


def test_a_judge_on_the_cpu_does_not_follow_the_run():
    class Still(ColourReward):
        places = []

        def to(self, device):
            self.places.append(device.type)

    Judge(Still(), kept_on_cpu=True).to(torch.device("meta"))
    Judge(Still()).to(torch.device("meta"))
    assert Still.places == ["meta"]


def test_a_judge_without_room_moves_to_the_cpu():
    class Large(ColourReward):
        place = "cuda"

        def differentiable(self, prompts, images):
            if self.place == "cuda":
                raise torch.cuda.OutOfMemoryError("no room")
            return super().differentiable(prompts, images)

        def to(self, device):
            self.place = device.type

    judge = Judge(Large())
    assert torch.isfinite(judge.score(["a"], torch.rand(1, 3, 4, 4))).all()
    assert judge.kept_on_cpu and not judge.failure


def test_a_damaged_default_judge_is_left_out_and_a_named_one_refused(models_dir):
    folder, device = models_dir("CLIP"), torch.device("cpu")
    assert load(["CLIP"], device, "fp32", folder, None, named=False) == []
    with pytest.raises(RewardError, match="judge CLIP"):
        load(["CLIP"], device, "fp32", folder, None, named=True)


class Failing(ColourReward):
    """Scores the base model's pictures, then raises."""

    calls = 0
    sound = 2  # six pictures in batches of four

    def differentiable(self, prompts, images):
        self.calls += 1
        if self.calls > self.sound:
            raise ValueError("its file is gone")
        return super().differentiable(prompts, images)


@pytest.mark.parametrize("rate", [1e-3, 1e-9])
def test_a_judge_that_crashes_stops_the_run(settings, rate):
    config = dataclasses.replace(settings, stop_rule="stop", learning_rate=rate, eval_steps=1)
    result = Trainer(args=config, rewards=colour_mix(), judges=[Failing("failing", 1)]).train()
    assert result.state == "stop_rule" and result.step == 1 and result.exported.is_file()
    assert "cannot judge: failing could not be measured" in result.reason
    assert "failing failed with ValueError: its file is gone" in result.reason
    marks = [event for event in read_events(Path(config.output_dir) / "events.jsonl") if event["type"] == "evaluation"]
    assert marks[-1]["judges"]["failing"] is None and marks[-1]["verdict"].startswith("cannot judge")


def test_a_judge_that_never_worked_is_refused_at_the_start(settings):
    judge = Failing("failing", 1)
    judge.sound = 0
    with pytest.raises(RewardError, match=r"failing cannot score .* its file is gone"):
        Trainer(args=settings, rewards=colour_mix(), judges=[judge]).train()


def test_runs_that_nothing_could_judge_are_refused(settings):
    with pytest.raises(ConfigError, match="eval_seeds must be at least 2"):
        dataclasses.replace(settings, stop_rule="stop", eval_seeds=1).resolved()
    for changes in ({"held_out": 1}, {"prompts": ["a cat"]}, {"prompts": ["a cat", "a dog", "a tree"]}):
        config = dataclasses.replace(settings, stop_rule="pause", **changes)
        with pytest.raises(PromptDataError, match="one prompt to judge"):
            Trainer(args=config, rewards=colour_mix(), judges=[]).train()


def test_a_run_without_judges_says_so_everywhere(settings, reward_file, models_dir, caplog):  # noqa: F811
    config = dataclasses.replace(
        settings, rewards=[str(reward_file)], models_dir=models_dir(), max_train_steps=1, eval_steps=1
    )
    Trainer(args=config).train()
    folder = Path(config.output_dir)
    text = "imagereward fetch PickScore"
    assert text in caplog.text and text in read_json(folder / "status.json")["message"]
    assert text in (folder / "report.html").read_text(encoding="utf-8")
    assert read_json(folder / "config.json")["judges"] == []


def test_the_length_of_the_output_is_measured_against_the_base(settings):
    config = dataclasses.replace(settings, learning_rate=3e-2, max_train_steps=2, eval_steps=1, use_ema=False)
    first, *later = Trainer(args=config, rewards=colour_mix(), judges=[]).train().evaluations
    assert first.inflation == 1.0
    assert all(math.isfinite(item.inflation) and item.inflation != 1.0 for item in later)


def test_a_pause_is_acknowledged_before_it_is_obeyed(settings):
    """The status says so at once, though the update that is being made is not cut off."""
    going, told = threading.Event(), threading.Event()

    class Slow(ColourReward):
        def differentiable(self, prompts, images):
            if images.requires_grad:
                going.set()
                told.wait(60)
            return super().differentiable(prompts, images)

    from refl.rewards import Component, RewardMix

    folder = Path(settings.output_dir)
    trainer = Trainer(args=settings, rewards=RewardMix([Component(Slow())]), judges=[])
    thread = threading.Thread(target=trainer.train)
    thread.start()
    going.wait(60)
    send(folder, "pause")

    def status():
        return read_json(folder / "status.json") or {}

    try:
        wait_for(lambda: status().get("message", "").startswith("Pausing"))
        assert status()["state"] == "training"
    finally:
        told.set()
    wait_for(lambda: status()["state"] == "paused")
    assert status()["message"] == ""
    send(folder, "resume")
    thread.join(120)
    assert status()["state"] == "finished"


def test_the_status_leaves_an_evaluation_with_it(settings):
    """Between an evaluation and the next update's end the run is training."""
    folder, states = Path(settings.output_dir), []

    class Watching(ColourReward):
        def differentiable(self, prompts, images):
            if images.requires_grad:
                states.append(read_json(folder / "status.json")["state"])
            return super().differentiable(prompts, images)

    from refl.rewards import Component, RewardMix

    config = dataclasses.replace(settings, eval_steps=1)
    Trainer(args=config, rewards=RewardMix([Component(Watching())]), judges=[]).train()
    assert set(states) == {"training"}
