"""A small architecture and quick settings for the tests of training."""

import dataclasses
import json

from imagereward_core.config import ModelConfig, TextConfig, VisionConfig
from imagereward_train import TrainConfig

from .drawn import write_rankings

MODEL = ModelConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=64, depth=2, heads=4, mlp_ratio=2.0, stem="conv"),
    text=TextConfig(width=64, depth=2, heads=4, intermediate=128, max_positions=32),
    projection=16,
    head=(32, 16),
    max_tokens=16,
)
TINY = ModelConfig(
    vision=VisionConfig(image_size=16, patch_size=8, width=16, depth=2, heads=2, mlp_ratio=2.0),
    text=TextConfig(width=16, depth=2, heads=2, intermediate=32, max_positions=16),
    projection=8,
    head=(16, 8),
    max_tokens=12,
)


def quick(tmp_path, prompts=12, **changes) -> TrainConfig:
    """A run of a few updates of a very small model on drawn pictures."""
    data = tmp_path / "data" / "rankings.json"
    if not data.exists():
        write_rankings(tmp_path / "data", prompts, size=16, k=3)
    settings = TrainConfig(
        data=str(data),
        savepath=str(tmp_path / "run"),
        model=TINY,
        init="random",
        fix_rate=0,
        dropout=0.0,
        epochs=3,
        batch_size=2,
        total_batch=4,
        lr=1e-3,
        valid_fraction=0.25,
        valid_per_epoch=1,
        tensorboard=False,
        curve=False,
        device="cpu",
    )
    return dataclasses.replace(settings, **changes)


def events(folder, kind):
    """The events of one kind in a run's metrics.jsonl."""
    return [
        event for event in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if event["kind"] == kind
    ]


def losses(folder):
    """The loss of every update, in order."""
    return [event["loss"] for event in events(folder, "train")]
