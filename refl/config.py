"""Every setting of a run: one frozen dataclass, stored as JSON, offered as command-line flags (see options.py).

Names are the reference script's where it has one. `None` means "decide from the other settings"; `resolved()` fills
those in.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError

ALGORITHMS = ("refl+", "refl", "draft-k", "draft-lv")
ANCHORS = ("kl", "samples", "pretrain", "none")
OUTPUTS = ("lora", "single-file", "diffusers")
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")
PREDICTIONS = ("auto", "epsilon", "v_prediction")

# Batch and accumulation for GPUs of these sizes, 16 samples an update; `python -m refl estimate` says what a run really
# needs.
PRESETS: dict[str, dict[str, Any]] = {
    "8 GB": {"train_batch_size": 1, "gradient_accumulation_steps": 16},
    "12 GB": {"train_batch_size": 2, "gradient_accumulation_steps": 8},
    "16 GB": {"train_batch_size": 1, "gradient_accumulation_steps": 16},
    "24 GB": {"train_batch_size": 2, "gradient_accumulation_steps": 8},
}


def option(default: Any, text: str, **kwargs: Any) -> Any:
    """A field with the sentence that the command line and the tab show."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text, **kwargs})
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass(frozen=True)
class ReFLConfig:
    """Settings of one run; `ReFLConfig(...).resolved()` raises ConfigError for anything out of range."""

    # model
    pretrained_model_name_or_path: str = option("", "checkpoint: .safetensors, .ckpt or a diffusers folder")
    vae: str = option("", "VAE file, for checkpoints that hold none")
    taesd: str = option(
        "",
        "tiny autoencoder (TAESD) used for the gradient: a decoder's file or a diffusers folder; evaluation uses the"
        " real VAE",
    )
    clip_bpe: str = option("", "CLIP's bpe_simple_vocab_16e6.txt.gz; found in open_clip or clip when empty")
    prediction_type: str = option("auto", "what the UNet predicts; SD 2.x files do not say it", choices=PREDICTIONS)
    clip_skip: int | None = option(
        None, "text encoder layer counted from the end, as the WebUI counts; default 1 (SD 2.x, SDXL: 2)"
    )
    # data
    train_data: str = option("", "prompts: .json, .jsonl, .txt, .csv, or a folder of generated images")
    dataset_name: str = option("", "prompt data set on the Hugging Face hub")
    prompts: list[str] = option([], "prompts given directly")
    caption_column: str = option("text", "name of the prompt field in JSON, JSONL and CSV")
    max_train_samples: int | None = option(None, "use at most so many prompts")
    held_out: int = option(16, "prompts kept for evaluation and never trained on")
    negative_prompt: str = option("", "prompt of the unconditional branch")
    # rewards
    rewards: list[str] = option(["ImageReward-v1.0"], "rewards as NAME_OR_PATH or NAME_OR_PATH=WEIGHT")
    judges: list[str] = option([], "scorers that are only watched, never trained on")
    reward_target: float = option(2.0, "phi(r) = relu(target - r): samples above the target give no gradient")
    grad_scale: float | None = option(None, "factor on the reward loss; default 1 (algorithm refl: 0.001)")
    reward_precision: str = option("auto", "precision of reward models", choices=("auto", "fp32", "fp16", "bf16"))
    models_dir: str = option("", "folder where reward models lie")
    # algorithm
    algorithm: str = option("refl+", "how the gradient is taken", choices=ALGORITHMS)
    num_inference_steps: int | None = option(None, "denoising steps T; default 20 (algorithm refl: 40)")
    min_step: int | None = option(None, "first denoising step (from 0) that may carry the gradient; default 0.7 T")
    max_step: int | None = option(
        None,
        "last step that may carry the gradient; default T - 3, as the last two change next to nothing (algorithm refl:"
        " T - 1)",
    )
    guidance_scale: float | None = option(
        None, "classifier-free guidance in the rollout; default 7, SDXL 5 (algorithm refl: 1)"
    )
    eta: float | None = option(None, "0 = DDIM, 1 = ancestral DDPM; default 0 (algorithm refl: 1)")
    draft_steps: int = option(1, "draft-k: number of last steps with gradient, 1 to 5")
    lv_repeats: int = option(2, "draft-lv: how often the finished image is noised again")
    # anchor and stop rule
    anchor: str | None = option(
        None, "what holds the model near its base; default kl, or pretrain when anchor_data is given", choices=ANCHORS
    )
    anchor_weight: float | None = option(
        None, "weight of the anchor; default 1 for kl, otherwise anchor_ratio times the reward's gradient norm"
    )
    anchor_ratio: float = option(
        0.5, "automatic anchor weight: anchor gradient over reward gradient at the first update"
    )
    anchor_samples: int = option(64, "anchor samples: how many pictures of the base model to train on")
    anchor_data: str = option(
        "", "folder of images with captions (.txt beside them or in their metadata) for the pre-training loss"
    )
    stop_rule: str = option(
        "stop", "what happens when the reward rises while a judge falls", choices=("pause", "stop", "off")
    )
    min_diversity: float = option(0.7, "stop when seed diversity falls below this share of the base model's")
    max_eps_mse: float = option(1.75, "stop when the denoising error exceeds this multiple of the base model's")
    # what is tuned
    tune: str = option("lora", "what is trained", choices=("lora", "full"))
    lora_rank: int = option(16, "rank of the LoRA")
    lora_alpha: float | None = option(None, "alpha of the LoRA; default = rank")
    lora_targets: str = option("attention", "modules that get a LoRA", choices=("attention", "attention+ff", "all"))
    use_ema: bool = option(True, "keep a moving average of the weights and export it")
    ema_decay: float = option(0.98, "upper bound of the moving average's decay")
    # optimisation
    seed: int | None = option(None, "seed of everything random; default 0")
    resolution: int | None = option(None, "training resolution in pixels; default 512, SDXL 1024")
    train_batch_size: int = option(1, "samples per micro-step and process")
    gradient_accumulation_steps: int = option(16, "micro-steps per update")
    max_train_steps: int = option(100, "number of updates")
    learning_rate: float | None = option(None, "default 1e-4 for LoRA, 1e-5 for full")
    scale_lr: bool = option(False, "multiply the learning rate by the total batch size")
    lr_scheduler: str = option("constant_with_warmup", "learning rate schedule", choices=SCHEDULES)
    lr_warmup_steps: int = option(10, "updates of linear warm-up")
    adam_beta1: float = option(0.9, "AdamW beta1")
    adam_beta2: float = option(0.999, "AdamW beta2")
    adam_weight_decay: float = option(1e-4, "AdamW weight decay")
    adam_epsilon: float = option(1e-8, "AdamW epsilon")
    max_grad_norm: float = option(1.0, "gradient clipping")
    use_8bit_adam: bool = option(False, "8-bit AdamW from bitsandbytes")
    snr_gamma: float | None = option(None, "min-SNR weighting of the pre-training loss (Hang et al. 2023); 5 is usual")
    # memory and speed
    mixed_precision: str | None = option(
        None,
        "precision of frozen weights; default bf16 on a GPU that has it, else fp16, no on CPU",
        choices=("no", "bf16", "fp16"),
    )
    gradient_checkpointing: bool = option(True, "recompute UNet activations in the backward pass")
    vae_checkpointing: bool = option(True, "recompute VAE activations in the backward pass")
    allow_tf32: bool = option(False, "TF32 matrix products on Ampere GPUs")
    device: str = option("", "torch device; default the first GPU, else the CPU")
    # evaluation, checkpoints, output
    eval_steps: int = option(10, "evaluate on the held-out prompts every so many updates")
    eval_guidance_scale: float | None = option(
        None, "guidance when evaluating; default that of the rollout, or what users sample with if that is 1"
    )
    eval_seeds: int = option(2, "images per held-out prompt, with fixed seeds")
    checkpointing_steps: int = option(10, "save a resumable state every so many updates")
    checkpoints_total_limit: int = option(2, "resumable states kept, besides the best")
    resume_from_checkpoint: str = option("", "folder of a saved state, or latest")
    output_dir: str = option("checkpoint/refl", "run folder: events, status, samples, states, report")
    output: str = option("lora", "what is written at the end", choices=OUTPUTS)
    output_name: str = option("", "file name of the result without extension; default CHECKPOINT-refl")
    export_dir: str = option("", "folder for the result; default the run folder")

    def to_json(self) -> str:
        """One JSON object; `from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ReFLConfig:
        """Read what `to_json` wrote; unknown names raise ConfigError naming them."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"the run configuration is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"the run configuration must be a JSON object, found {type(data).__name__}")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ReFLConfig:
        """Settings by name. Numbers may be given where floats are wanted; other kinds raise ConfigError."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(data.keys() - fields.keys())
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
        return cls(**{name: _typed(name, str(fields[name].type), value) for name, value in data.items()})

    @property
    def is_paper(self) -> bool:
        """Whether the run follows the reference's arithmetic to the letter."""
        return self.algorithm == "refl"

    @property
    def samples_per_step(self) -> int:
        """Samples of one update on one process."""
        return self.train_batch_size * self.gradient_accumulation_steps

    def resolved(self, is_sdxl: bool = False, device_type: str = "cpu") -> ReFLConfig:
        """All settings decided and checked. `resolved` of a resolved config is the same config."""
        _check(self)
        paper = self.is_paper
        steps = self.num_inference_steps or (40 if paper else 20)
        choose: dict[str, Any] = {
            "num_inference_steps": steps,
            "min_step": steps * 3 // 4 if paper else min(int(steps * 0.7), max(steps - 3, 0)),
            "max_step": steps - 1 if paper else max(steps - 3, 0),
            "guidance_scale": 1.0 if paper else 5.0 if is_sdxl else 7.0,
            "eta": 1.0 if paper else 0.0,
            "grad_scale": 1e-3 if paper else 1.0,
            "anchor": "pretrain" if self.anchor_data else "kl",
            "lora_alpha": float(self.lora_rank),
            "seed": 0,
            "resolution": 1024 if is_sdxl else 512,
            "learning_rate": 1e-5 if self.tune == "full" else 1e-4,
            "mixed_precision": "bf16" if device_type == "cuda" else "no",
        }
        config = dataclasses.replace(
            self, **{name: value for name, value in choose.items() if getattr(self, name) is None}
        )
        if config.anchor_weight is None and config.anchor == "kl":
            config = dataclasses.replace(config, anchor_weight=1.0)
        if config.eval_guidance_scale is None:
            usual = 5.0 if is_sdxl else 7.0
            config = dataclasses.replace(
                config, eval_guidance_scale=config.guidance_scale if (config.guidance_scale or 1) > 1 else usual
            )
        _check_resolved(config)
        return config


def load_config(path: str | os.PathLike[str]) -> ReFLConfig:
    """The configuration in a JSON file."""
    try:
        return ReFLConfig.from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the run configuration {os.fspath(path)}: {error}") from error


def _typed(name: str, kind: str, value: Any) -> Any:
    optional = kind.endswith("| None")
    kind = kind.removesuffix("| None").strip()
    if value is None and optional:
        return None
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = {"str": str, "int": int, "float": float, "bool": bool, "list[str]": list}[kind]
    right = isinstance(value, wanted) and not (kind in ("int", "float") and isinstance(value, bool))
    if not right or (kind == "list[str]" and not all(isinstance(item, str) for item in value)):
        raise ConfigError(f"{name} must be {kind}{' or null' if optional else ''}, found {value!r}")
    return list(value) if kind == "list[str]" else value


def _check(config: ReFLConfig) -> None:
    for item in dataclasses.fields(config):
        choices, value = item.metadata.get("choices"), getattr(config, item.name)
        if choices and value is not None and value not in choices:
            raise ConfigError(f"{item.name} must be one of {', '.join(choices)}; found {value!r}")
    positive = (
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
    )
    for name in positive:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be greater than 0, found {value}")
    for name in ("lr_warmup_steps", "anchor_weight", "anchor_ratio", "min_step", "seed", "adam_weight_decay"):
        value = getattr(config, name)
        if value is not None and not value >= 0:
            raise ConfigError(f"{name} must not be negative, found {value}")
    if not 1 <= config.draft_steps <= 5:
        raise ConfigError(f"draft_steps must lie between 1 and 5, found {config.draft_steps}")
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"ema_decay must lie in [0, 1), found {config.ema_decay}")
    if not config.rewards:
        raise ConfigError("rewards is empty: name at least one reward model")
    if Path(config.output_name).name != config.output_name:
        raise ConfigError(f"output_name must be a file name without folders, found {config.output_name!r}")


def _check_resolved(config: ReFLConfig) -> None:
    steps = config.num_inference_steps or 0
    if not 0 <= (config.min_step or 0) <= (config.max_step or 0) < steps:
        raise ConfigError(
            f"need 0 <= min_step <= max_step < num_inference_steps, found {config.min_step}, {config.max_step}, {steps}"
        )
    if config.draft_steps > steps:
        raise ConfigError(f"draft_steps {config.draft_steps} exceeds num_inference_steps {steps}")
    if (config.resolution or 0) < 8 or (config.resolution or 0) % 8:
        raise ConfigError(f"resolution must be a multiple of 8, found {config.resolution}")
    if not 0 <= (config.eta or 0) <= 1:
        raise ConfigError(f"eta must lie between 0 and 1, found {config.eta}")
    if not (config.guidance_scale or 0) >= 1:
        raise ConfigError(f"guidance_scale must be at least 1 (1 = no guidance), found {config.guidance_scale}")
    if config.anchor == "pretrain" and not config.anchor_data:
        raise ConfigError(
            "anchor pretrain needs anchor_data, a folder of images with captions; without images use anchor samples"
            " or kl"
        )
