"""The alignment dial: which strength is recommended, what is measured, and where it is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from refl import Trainer, lora
from refl.dial import STRENGTHS, Dial, recommend
from refl.metrics import MIXED
from refl.runfiles import read_events, read_json

from .test_algorithm import make_engine
from .test_rewards_and_metrics import evaluation
from .tiny import ColourReward, colour_mix


def marks(*rewards, falls_at=None):
    strengths = [0.25 * (index + 1) for index in range(len(rewards))]
    return [
        (strength, evaluation(10, reward=reward), "a judge falls" if strength == falls_at else "")
        for strength, reward in zip(strengths, rewards, strict=True)
    ]


def test_the_largest_gain_before_something_falls():
    base = evaluation()
    assert recommend(base, marks(0.1, 0.3, 0.2, 0.1)) == 0.5
    assert recommend(base, marks(0.1, 0.2, 0.3, 0.9, falls_at=1.0)) == 0.75
    assert recommend(base, marks(0.1, 0.2, 0.3, 0.9, falls_at=0.5)) == 0.25  # not what comes after the fall
    assert recommend(base, marks(-0.1, -0.2)) is None
    assert recommend(base, marks(0.2, 0.2)) == 0.25


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ((0.3, 0.2, 0.4), "Use it at strength 1: the largest gain before a judge or diversity falls."),
        ((0.3, -0.4, 0.4), "Use it at strength 1 if at all: its gain there may be chance (+0.1 ± 0.3)."),
    ],
)
def test_a_gain_within_its_error_is_no_advice(gains, told):
    base = evaluation()
    found = dataclasses.replace(
        evaluation(10, reward=sum(gains) / 3), scores={**base.scores, MIXED: [base.reward + gain for gain in gains]}
    )
    dial = Dial(((0.0, base, ""), (1.0, found, "")), 1.0)
    assert dial.advice == told and dial.metadata()["refl.strength"] == "1"
    assert dial.rows()[1]["changes"]["reward"][0] == pytest.approx(sum(gains) / 3)


def test_strength_is_linear_in_the_weights(models):
    engine = make_engine(models)
    unet = engine.backend.unet
    for name, parameter in unet.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05
    x, t, cond = torch.randn(1, 4, 8, 8), torch.tensor([500]), engine.table(["a red cat"])
    with torch.no_grad():
        with lora.at_strength(unet, 0.5):
            half = engine.backend.predict(x, t, cond)
        after = engine.backend.predict(x, t, cond)
        unet.load_state_dict(
            {name: tensor * 0.5 if ".lora_B." in name else tensor for name, tensor in unet.state_dict().items()}
        )
        torch.testing.assert_close(half, engine.backend.predict(x, t, cond))
        assert float((after - half).abs().max()) > 1e-4


@pytest.fixture()
def turned(settings):
    """A finished run with its dial: (settings, result)."""
    config = dataclasses.replace(settings, dial=True, eval_steps=3, learning_rate=1e-2, use_ema=False)
    return config, Trainer(args=config, rewards=colour_mix(), judges=[ColourReward("greenness", 1)]).train()


def test_the_dial_is_told_everywhere(turned):
    config, result = turned
    folder = Path(config.output_dir)
    (event,) = [event for event in read_events(folder / "events.jsonl") if event["type"] == "dial"]
    assert [mark["strength"] for mark in event["marks"]] == list(STRENGTHS)
    base, whole = event["marks"][0], event["marks"][4]
    assert base["reward"] == result.evaluations[0].reward and whole["reward"] == result.evaluations[-1].reward
    assert base["inflation"] == 1.0 and set(whole["judges"]) == {"greenness"}
    assert len({mark["reward"] for mark in event["marks"]}) == len(STRENGTHS)
    with safe_open(str(result.exported), "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["refl.dial"]) == event["marks"]
    advice = "Use it at strength" if event["use"] is not None else "At no strength"
    assert advice in read_json(folder / "status.json")["message"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Alignment dial" in page and advice in page
    card = read_json(result.exported.with_suffix(".json"))
    assert (card or {}).get("preferred weight") == event["use"]
    assert metadata.get("refl.strength") == (None if event["use"] is None else f"{event['use']:g}")


def test_whoever_stops_does_not_wait_for_the_dial(settings):
    class Stopping(ColourReward):
        def differentiable(self, prompts, images):
            if images.requires_grad:
                trainer.request_stop()
            return super().differentiable(prompts, images)

    from refl.rewards import Component, RewardMix

    config = dataclasses.replace(settings, dial=True, train_batch_size=4, gradient_accumulation_steps=1)
    trainer = Trainer(args=config, rewards=RewardMix([Component(Stopping())]), judges=[])
    result = trainer.train()
    assert result.state == "stopped" and result.exported.is_file()
    assert not [e for e in read_events(Path(config.output_dir) / "events.jsonl") if e["type"] == "dial"]
