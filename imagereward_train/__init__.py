"""Train reward models on human rankings. `train(TrainConfig(data=…))` is the whole of it; nothing heavy is imported
before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import TrainConfig

__all__ = ["TrainConfig", "train"]


def train(config: TrainConfig, **options: Any) -> Path:
    """Train and return the path of the best checkpoint; see `imagereward_train.trainer.train`."""
    from .trainer import train as run

    return run(config, **options)
