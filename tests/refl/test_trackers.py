"""Numbers and pictures in TensorBoard and Weights & Biases."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import pytest

from refl import Trainer
from refl.errors import ConfigError, MissingDependency
from refl.runfiles import read_events

from .tiny import ColourReward, colour_mix


def run(settings, **changes):
    config = dataclasses.replace(settings, **changes)
    return Trainer(args=config, rewards=colour_mix(), judges=[ColourReward("greenness", 1)]).train()


def test_tensorboard_holds_curves_and_pictures_of_a_resumed_run(settings):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(settings, report_to="tensorboard", max_train_steps=2)
    run(settings, report_to="tensorboard", resume_from_checkpoint="latest")
    folder = Path(settings.output_dir)
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    told = [(e["step"], e["loss"]) for e in read_events(folder / "events.jsonl") if e["type"] == "step"]
    kept = [(point.step, point.value) for point in board.Scalars("step/loss")]
    assert [step for step, _ in kept] == [1, 2, 3]
    assert [value for _, value in kept] == pytest.approx([loss for _, loss in told])
    assert [point.step for point in board.Scalars("evaluation/judge greenness")][:2] == [0, 2]
    assert [point.step for point in board.Images("held-out prompts")][:2] == [0, 2]


@pytest.fixture()
def wandb(monkeypatch):
    """A stand-in with the calls of the library that are used: init, log, Image, finish."""
    module = ModuleType("wandb")
    module.calls = []

    class Run:
        def log(self, values, step):
            module.calls.append((step, values))

        def finish(self):
            module.calls.append("finished")

    def init(project, name, dir, config):
        module.config = config
        return Run()

    module.init, module.Image = init, lambda path: Path(path).name
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_the_same(settings, wandb):
    run(settings, report_to="wandb", max_train_steps=1, eval_steps=1)
    numbers = [(step, set(values)) for step, values in wandb.calls[:-1]]
    assert wandb.calls[-1] == "finished"
    assert any(step == 1 and "step/loss" in names for step, names in numbers)
    assert any(step == 1 and "evaluation/judge greenness" in names for step, names in numbers)
    assert (1, {"held-out prompts": "step-000001.png"}) in wandb.calls[:-1]
    assert wandb.config["pretrained_model_name_or_path"] == "tiny-sd1.safetensors"  # nobody's folders are sent


def test_a_tracker_that_fails_costs_no_run(settings, wandb, caplog):
    def fails(project, name, dir, config):
        class Run:
            def log(self, values, step):
                raise OSError("no network")

        return Run()

    wandb.init = fails
    assert run(settings, report_to="wandb", max_train_steps=1).state == "finished"
    assert caplog.text.count("nothing more is reported to WeightsAndBiases: no network") == 1


def test_what_is_not_there_is_told_at_the_start(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependency, match="report_to wandb needs the library wandb"):
        run(settings, report_to="wandb")
    with pytest.raises(ConfigError, match="report_to must be one of"):
        run(settings, report_to="comet_ml")
