"""One training run as one frozen dataclass; YAML and command-line flags are other spellings of it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagereward_core.atomic import write_text
from imagereward_core.config import ModelConfig, TextConfig, VisionConfig
from imagereward_core.errors import ConfigError

SMALL = ModelConfig(
    vision=VisionConfig(image_size=64, patch_size=8, width=96, depth=4, heads=4, stem="conv"),
    text=TextConfig(width=96, depth=3, heads=4, intermediate=384, max_positions=64),
    projection=32,
    head=(64, 32, 16),
)
MODELS = {"blip-large": ModelConfig(), "small": SMALL}
DECAYS = ("constant", "linear", "cosine", "inverse_square_root")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a reward-model training run. The defaults are the paper's (Xu et al. 2023, and the authors'
    script).
    """

    data: str = _option(
        "", "preference data: JSON, JSONL, CSV, a folder per prompt, or a folder made by `dataset build`"
    )
    images: str = _option("", "folder that relative image names start from (default: where the data lies)")
    valid: str = _option("", "validation data (default: split off `data` by prompt)")
    test: str = _option("", "test data, judged once with the best checkpoint")
    format: str = _option("auto", "auto, ranking, records, pairs, pickapic or folders")
    valid_fraction: float = _option(0.1, "share of the items to validate on where `valid` is empty")
    test_fraction: float = _option(0.0, "share of the items to test on where `test` is empty")
    skip_bad: bool = _option(False, "leave out damaged items and images instead of stopping")
    cache: str = _option("", "folder of the pixel and feature caches (default: savepath/cache)")
    savepath: str = _option("imagereward-run", "folder of the run: checkpoints, metrics, resume state")

    model: ModelConfig = field(
        default_factory=ModelConfig, metadata={"help": f"architecture: {', '.join(MODELS)} or a JSON file"}
    )
    init: str = _option("blip", "where the backbone starts: blip (BLIP-large's pre-training) or random")
    preload_path: str = _option("", "reward-model checkpoint to start from instead of `init`")
    download_root: str = _option("", "folder to look for BLIP's weights in and to download them to")
    head_init: str = _option("fan_in", "fan_in, or paper (N(0, 1/(width+1)), which tends to stall)")
    fix_rate: float = _option(0.7, "share of the transformer layers that stay frozen, from the input on")
    fix_base: bool = _option(False, "train the head alone, on cached features of the frozen backbone")
    dropout: float = _option(
        1.0, "factor on the published dropout rates (head 0.2/0.2/0.1, text 0.1, vision drop path 0 to 0.1)"
    )

    epochs: int = _option(10, "passes over the training data")
    train_iters: int = _option(0, "updates in all (0: as many as `epochs` make)")
    batch_size: int = _option(4, "prompts (pairs with rank_pair) per device and forward")
    total_batch: int = _option(64, "prompts (pairs with rank_pair) per update, over all devices")
    accumulation_steps: int = _option(0, "forwards per update on each device (0: as many as make total_batch)")
    rank_pair: bool = _option(False, "draw single pairs instead of whole rankings")
    lr: float = _option(1e-5, "peak learning rate")
    lr_decay_style: str = _option("cosine", ", ".join(DECAYS))
    lr_decay_ratio: float = _option(0.0, "final learning rate as a share of the peak")
    lr_decay_iters: int = _option(0, "updates over which the rate decays (0: all)")
    warmup: float = _option(0.0, "share of the updates in which the rate rises from 0")
    adam_beta1: float = _option(0.9, "Adam's first decay rate")
    adam_beta2: float = _option(0.999, "Adam's second decay rate")
    adam_eps: float = _option(1e-8, "Adam's epsilon")
    weight_decay: float = _option(0.0, "decoupled weight decay")
    max_grad_norm: float = _option(0.0, "gradients are scaled down to this norm (0: never)")
    precision: str = _option("fp32", "fp32, bf16 or fp16; the head always computes in fp32")
    gradient_checkpointing: bool = _option(False, "recompute activations in the backward pass: less memory, more time")
    ema: float = _option(
        0.0, "decay of an exponential moving average of the weights (0: none); validation and checkpoints use it"
    )
    seed: int = _option(1234, "seed of the split, the order, the initialisation and dropout")
    device: str = _option("", "cpu to train without the GPU; otherwise accelerate decides")

    valid_per_epoch: int = _option(4, "validations per epoch, besides those before the first and after the last update")
    best_by: str = _option("loss", "loss or accuracy: which validation value picks the best checkpoint")
    patience: int = _option(0, "stop after this many validations without improvement (0: never)")
    stall_steps: int = _option(
        100, "stop when the loss stayed at ln 2 with equal rewards for this many updates (0: never)"
    )
    save_every: int = _option(100, "updates between resume points, besides one at every validation")
    resume: bool = _option(False, "go on where the run in savepath was interrupted")
    workers: int = _option(2, "threads that decode images")
    tensorboard: bool = _option(True, "write TensorBoard events if tensorboard is installed")
    curve: bool = _option(True, "draw curve.png at the end if matplotlib is installed")

    def __post_init__(self) -> None:
        for name, allowed in (
            ("init", ("blip", "random")),
            ("head_init", ("fan_in", "paper")),
            ("lr_decay_style", DECAYS),
            ("precision", ("fp32", "bf16", "fp16")),
            ("best_by", ("loss", "accuracy")),
        ):
            _check(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}", getattr(self, name))
        for name in ("fix_rate", "lr_decay_ratio"):
            _check(0 <= getattr(self, name) <= 1, name, "between 0 and 1", getattr(self, name))
        for name in ("warmup", "adam_beta1", "adam_beta2", "ema", "valid_fraction", "test_fraction"):
            _check(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        for name in ("epochs", "batch_size", "total_batch", "valid_per_epoch", "save_every", "workers"):
            _check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in (
            "train_iters",
            "accumulation_steps",
            "lr_decay_iters",
            "weight_decay",
            "max_grad_norm",
            "dropout",
            "patience",
            "stall_steps",
        ):
            _check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("lr", "adam_eps"):
            _check(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        _check(self.dropout <= 5, "dropout", "at most 5 (a head rate of 1)", self.dropout)
        if self.init == "blip" and not self.preload_path and self.model != ModelConfig():
            raise ConfigError(
                "init blip fits the blip-large model only: set init random, or preload_path, for another architecture"
            )

    @property
    def cache_dir(self) -> Path:
        """Folder of the caches."""
        return Path(self.cache or os.path.join(self.savepath, "cache"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them; `from_dict` is the inverse."""
        return {**dataclasses.asdict(self), "model": {**dataclasses.asdict(self.model), "head": list(self.model.head)}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Build from plain values. Unknown names and values of the wrong type raise ConfigError."""
        fields = {entry.name: entry for entry in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ConfigError(f"unknown settings {unknown}; known are {', '.join(fields)}")
        return cls(**{name: _typed(name, fields[name], value) for name, value in values.items()})

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **changes: Any) -> TrainConfig:
        """Read a YAML file; `changes` override it."""
        import yaml

        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read {os.fspath(path)}: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{os.fspath(path)} must map settings to values, found {type(values).__name__}")
        return cls.from_dict({**values, **changes})

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write all settings; `from_yaml` reads them back."""
        import yaml

        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def _check(good: bool, name: str, wanted: str, found: Any) -> None:
    if not good:
        raise ConfigError(f"{name} must be {wanted}, found {found!r}")


def _typed(name: str, entry: dataclasses.Field, value: Any) -> Any:
    """The value in its field's type; YAML reads 1e-5 as a string and 0 as an integer."""
    if name == "model":
        return read_model(value)
    kind: Any = type(entry.default)
    try:
        if kind is bool and not isinstance(value, bool):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if kind is int and float(value) != int(float(value)):
            raise ValueError(value)
        return kind(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{name} must be {kind.__name__}, found {value!r}") from error


def read_model(value: Any) -> ModelConfig:
    """An architecture from its name in MODELS, a JSON file, a mapping, or itself."""
    if isinstance(value, ModelConfig):
        return value
    if isinstance(value, dict):
        import json

        return ModelConfig.from_json(json.dumps(value))
    if str(value) in MODELS:
        return MODELS[str(value)]
    try:
        return ModelConfig.from_json(Path(str(value)).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"model must be {', '.join(MODELS)} or a JSON file, found {value!r}") from error
