"""The settings of a run as they are used: nothing is open, and every value was checked."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from imagereward_core.runs import check_name

from .errors import ConfigError
from .settings import Settings

ALL = sys.maxsize

POSITIVE = (
    "lora_rank",
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "held_out",
    "eval_steps",
    "eval_seeds",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "lv_repeats",
    "anchor_samples",
    "max_grad_norm",
    "num_inference_steps",
    "max_train_samples",
    "clip_skip",
    "learning_rate",
    "lora_alpha",
    "grad_scale",
    "dpo_beta",
)
NOT_NEGATIVE = (
    "lr_warmup_steps",
    "anchor_weight",
    "anchor_ratio",
    "min_step",
    "seed",
    "adam_weight_decay",
    "base_steps",
)


@dataclass(frozen=True)
class Usual:
    """What a family's users sample with, pixels of a side and CFG scale, and how much longer or shorter its network's
    output may become. Each of `families` has one.
    """

    resolution: int = 512
    guidance: float = 7.0
    max_inflation: float = 1.015


USUAL_SD, USUAL_SDXL = Usual(), Usual(1024, 5.0)
FLOW_INFLATION = 1.035  # of flow-matching models; both limits were found on the small world, see docs/findings.md


@dataclass(frozen=True)
class ResolvedConfig(Settings):
    """`Settings` without None. What "none given" means has a value of its own: `max_train_samples` ALL, `snr_gamma` 0
    (no weighting), `clip_skip` 0 (as the checkpoint's family has it), and `anchor_weight` 0 with `anchor_measured`:
    the first update weighs the anchor by its gradient.
    """

    clip_skip: int = 0
    max_train_samples: int = ALL
    grad_scale: float = 1.0
    num_inference_steps: int = 20
    min_step: int = 14
    max_step: int = 17
    guidance_scale: float = USUAL_SD.guidance
    eta: float = 0.0
    anchor: str = "kl"
    anchor_weight: float = 1.0
    lora_alpha: float = 16.0
    seed: int = 0
    resolution: int = USUAL_SD.resolution
    learning_rate: float = 1e-4
    snr_gamma: float = 0.0
    mixed_precision: str = "no"
    eval_guidance_scale: float = USUAL_SD.guidance
    max_inflation: float = USUAL_SD.max_inflation
    anchor_measured: bool = False

    def decided(self) -> dict[str, Any]:
        """As fields of a ReFLConfig: what a run stores, so that it resumes with what it used. What was left to the
        checkpoint or to the first update stays open.
        """
        values = dataclasses.asdict(self)
        if values.pop("anchor_measured") or self.anchor == "none":
            values["anchor_weight"] = None
        for name, unset in (("max_train_samples", ALL), ("snr_gamma", 0.0), ("clip_skip", 0)):
            if values[name] == unset:
                values[name] = None
        return values

    def resolved(self, is_sdxl: bool = False, device_type: str = "cpu") -> ResolvedConfig:
        """The same settings, unless some were replaced by None: those are decided anew."""
        return resolve(Settings(**self.decided()), USUAL_SDXL if is_sdxl else USUAL_SD, device_type)


def resolve(asked: Settings, usual: Usual = USUAL_SD, device_type: str = "cpu") -> ResolvedConfig:
    """Decide what was left open and check everything. ConfigError names the setting that is wrong.

    The algorithm `refl` follows the paper to the letter: T = 40, one of the last ten steps, no guidance, DDPM, lambda
    1e-3.
    """
    _check_asked(asked)
    values = {item.name: getattr(asked, item.name) for item in dataclasses.fields(Settings)}
    for name, default in _defaults(asked, usual, device_type).items():
        if values[name] is None:
            values[name] = default
    if values["anchor_weight"] is None:
        values["anchor_measured"] = not asked.is_paper and values["anchor"] in ("samples", "pretrain")
        values["anchor_weight"] = 0.0 if values["anchor_measured"] or values["anchor"] == "none" else 1.0
    if values["eval_guidance_scale"] is None:  # pictures are judged as users will sample them
        trained = values["guidance_scale"]
        values["eval_guidance_scale"] = trained if trained > 1 else usual.guidance
    config = ResolvedConfig(**values)
    _check_resolved(config)
    return config


def _defaults(asked: Settings, usual: Usual, device_type: str) -> dict[str, Any]:
    paper = asked.is_paper
    steps = (40 if paper else 20) if asked.num_inference_steps is None else asked.num_inference_steps
    if paper:
        first, last = steps * 3 // 4, steps - 1
    elif asked.algorithm == "direct-align":
        first, last = 0, max(steps // 2 - 1, 0)
    else:
        first, last = min(int(steps * 0.7), max(steps - 3, 0)), max(steps - 3, 0)
    return {
        "num_inference_steps": steps,
        "min_step": first,
        "max_step": last,
        "guidance_scale": 1.0 if paper else usual.guidance,
        "eta": 1.0 if paper else 0.0,
        "grad_scale": 1e-3 if paper else 1.0,
        "anchor": "pretrain" if asked.anchor_data else "none" if asked.learns_picks else "kl",
        "lora_alpha": float(asked.lora_rank),
        "seed": 0,
        "resolution": usual.resolution,
        "learning_rate": 1e-5 if asked.tune == "full" else 1e-4,
        "max_inflation": usual.max_inflation,
        "mixed_precision": "bf16" if device_type == "cuda" else "no",
        "max_train_samples": ALL,
        "snr_gamma": 0.0,
        "clip_skip": 0,
    }


def _check_asked(config: Settings) -> None:
    for item in dataclasses.fields(Settings):
        choices, value = item.metadata.get("choices"), getattr(config, item.name)
        if choices and value is not None and value not in choices:
            raise ConfigError(f"{item.name} must be one of {', '.join(choices)}; found {value!r}")
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be greater than 0, found {value}")
    for name in NOT_NEGATIVE:
        value = getattr(config, name)
        if value is not None and not value >= 0:
            raise ConfigError(f"{name} must not be negative, found {value}")
    if not 1 <= config.draft_steps <= 5:
        raise ConfigError(f"draft_steps must lie between 1 and 5, found {config.draft_steps}")
    if config.max_inflation is not None and not config.max_inflation >= 1:
        raise ConfigError(f"max_inflation must be at least 1, found {config.max_inflation}")
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"ema_decay must lie in [0, 1), found {config.ema_decay}")
    if not config.rewards:
        raise ConfigError("rewards is empty: name at least one reward model")
    problem = check_name(config.output_name) if config.output_name else ""
    if problem:
        raise ConfigError(f"output_name {problem}; found {config.output_name!r}")


def _check_resolved(config: ResolvedConfig) -> None:
    steps = config.num_inference_steps
    if not 0 <= config.min_step <= config.max_step < steps:
        raise ConfigError(
            f"need 0 <= min_step <= max_step < num_inference_steps, found {config.min_step}, {config.max_step}, {steps}"
        )
    if config.base_steps > config.max_step:
        raise ConfigError(f"base_steps must not exceed max_step {config.max_step}, found {config.base_steps}")
    if config.base_steps and config.is_paper:
        raise ConfigError("base_steps is no part of the paper's arithmetic: leave it, or take the algorithm refl+")
    if config.base_steps > config.min_step and config.algorithm == "direct-align":
        raise ConfigError(
            f"direct-align would teach steps that base_steps leaves to the base model: base_steps {config.base_steps}"
            f" must not exceed min_step {config.min_step}"
        )
    if config.stop_rule != "off" and config.eval_seeds < 2:
        raise ConfigError(
            "eval_seeds must be at least 2, as seed diversity compares pictures of one prompt, found"
            f" {config.eval_seeds}; to train unwatched, set stop_rule to off"
        )
    if config.learns_picks and not config.picks:
        raise ConfigError("algorithm dpo learns from picks: give a file of duels with --picks, or --picks library")
    if config.picks and not config.learns_picks:
        raise ConfigError(f"picks are learnt from with algorithm dpo only, found {config.algorithm}")
    if config.learns_picks and config.anchor == "kl":
        raise ConfigError("algorithm dpo keeps near the base model by dpo_beta: leave anchor open, or take another")
    if config.base_precision != "auto" and config.tune != "lora":
        raise ConfigError(
            f"base_precision {config.base_precision} is for weights that are not trained, and tune {config.tune} trains"
            " them: leave base_precision at auto, or take tune lora"
        )
    if config.draft_steps > steps:
        raise ConfigError(f"draft_steps {config.draft_steps} exceeds num_inference_steps {steps}")
    if config.resolution < 8 or config.resolution % 8:
        raise ConfigError(f"resolution must be a multiple of 8, found {config.resolution}")
    if not 0 <= config.eta <= 1:
        raise ConfigError(f"eta must lie between 0 and 1, found {config.eta}")
    if not config.guidance_scale >= 1:
        raise ConfigError(f"guidance_scale must be at least 1 (1 = no guidance), found {config.guidance_scale}")
    if config.anchor == "pretrain" and not config.anchor_data:
        raise ConfigError(
            "anchor pretrain needs anchor_data, a folder of images with captions; without images use anchor samples"
            " or kl"
        )
