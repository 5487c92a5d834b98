"""A small model learns what it is shown, and the file it leaves is a scorer."""

import json

import imagereward_core as RM
from imagereward_train import TrainConfig, train

from .drawn import draw, write_rankings
from .small import MODEL, events


def test_held_out_accuracy_rises_from_chance_to_ninety_percent(tmp_path):
    config = TrainConfig(
        data=str(write_rankings(tmp_path / "data", 400)),
        savepath=str(tmp_path / "run"),
        model=MODEL,
        init="random",
        fix_rate=0,
        dropout=0.0,
        epochs=12,
        batch_size=16,
        total_batch=16,
        lr=1e-3,
        warmup=0.05,
        max_grad_norm=1.0,
        valid_per_epoch=1,
        valid_fraction=0.15,
        test_fraction=0.15,
        tensorboard=False,
        curve=False,
        device="cpu",
    )
    best = train(config)
    valid = events(tmp_path / "run", "valid")
    assert 0.35 < valid[0]["accuracy"] < 0.65
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["test"]["accuracy"] >= 0.9 and result["test"]["pairs"] >= 100

    scorer = RM.load(best, device="cpu")
    right, wrong = draw("red", "circle", 7), draw("blue", "circle", 7)
    assert scorer.score("a red circle", right) > scorer.score("a red circle", wrong) + 0.5
    assert scorer.score("a blue circle", wrong) > scorer.score("a blue circle", right) + 0.5
    chosen = min(valid, key=lambda event: event["loss"])
    assert scorer.net.config.mean == chosen["mean"] and scorer.net.config.std == chosen["std"]
