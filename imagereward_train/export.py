"""Write a checkpoint that `imagereward_core.load(path)` reads: weights, architecture, standardisation in one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from imagereward_core.atomic import replacing
from imagereward_core.config import METADATA_KEY, ModelConfig

TRAINING_KEY = "imagereward.training"


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], model: ModelConfig, mean: float, std: float, facts: Mapping[str, Any]
) -> None:
    """`state` has RewardModel's names; `mean` and `std` are those of its raw rewards on the validation set. `facts`
    (plain
    values: update, accuracy, …) are kept as JSON under "imagereward.training". The file appears whole or not at all."""
    from safetensors.torch import save_file

    # A constant model has no spread to divide by; dividing by 1 keeps its file loadable, and validation has said so.
    config = dataclasses.replace(model, mean=mean, std=std if std > 1e-8 else 1.0)
    metadata = {METADATA_KEY: config.to_json(), TRAINING_KEY: json.dumps(dict(facts), sort_keys=True), "format": "pt"}
    with replacing(path, durable=True) as temporary:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, str(temporary), metadata)
