"""Every setting of a run: name, kind, default and the sentence that the command line shows (see options.py).

Names are the reference script's where it has one. In what was asked (config.ReFLConfig), `None` means "decide from the
other settings"; what is used (resolved.ResolvedConfig) has no None.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

from imagereward_core.runs import parse_json

from .errors import ConfigError

ALGORITHMS = ("refl+", "refl", "draft-k", "draft-lv", "direct-align", "dpo")
ANCHORS = ("kl", "samples", "pretrain", "none")
OUTPUTS = ("lora", "single-file", "diffusers")
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
PREDICTIONS = ("auto", "epsilon", "v_prediction")
BASES = ("auto", "int8", "nf4")


def option(default: Any, text: str, **kwargs: Any) -> Any:
    """A field with the sentence that the command line and the tab show."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text, **kwargs})
    return field(default=default, metadata={"help": text, **kwargs})


S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """The fields that asked and resolved settings share."""

    # model
    pretrained_model_name_or_path: str = option("", "checkpoint: .safetensors, .ckpt or a diffusers folder", path=True)
    vae: str = option("", "VAE file, for checkpoints that hold none", path=True)
    parts: list[str] = option(
        [],
        "text encoders and VAE for a checkpoint that holds none: a diffusers folder of its family, from which whatever"
        " is missing is taken, and files of text encoders whose configurations it has",
        path=True,
    )
    taesd: str = option(
        "",
        "tiny autoencoder (TAESD) used for the gradient: a decoder's file or a diffusers folder; evaluation uses the"
        " real VAE",
        path=True,
    )
    clip_bpe: str = option(
        "", "a merge list in place of CLIP's own vocabulary, for single files; rarely needed", path=True
    )
    prediction_type: str = option(
        "auto", "what the UNet predicts; auto asks the checkpoint's files, else probes the UNet", choices=PREDICTIONS
    )
    clip_skip: int | None = option(
        None, "text encoder layer counted from the end, as the WebUI counts; default 1 (SD 2.x, SDXL: 2)"
    )
    # data
    train_data: str = option("", "prompts: .json, .jsonl, .txt, .csv, or a folder of generated images", path=True)
    dataset_name: str = option("", "prompt data set on the Hugging Face hub")
    prompts: list[str] = option([], "prompts given directly")
    caption_column: str = option("text", "name of the prompt field in JSON, JSONL and CSV")
    max_train_samples: int | None = option(None, "use at most so many prompts")
    held_out: int = option(16, "prompts kept for evaluation and never trained on")
    negative_prompt: str = option("", "prompt of the unconditional branch")
    # rewards
    rewards: list[str] = option(["ImageReward-v1.0"], "rewards as NAME_OR_PATH or NAME_OR_PATH=WEIGHT", path=True)
    judges: list[str] = option(
        [],
        "scorers that are only watched, never trained on; default up to two of PickScore, CycleReward, CLIP and"
        " Aesthetic that are on this machine; none: no judge",
        path=True,
    )
    reward_target: float = option(2.0, "phi(r) = relu(target - r): samples above the target give no gradient")
    grad_scale: float | None = option(None, "factor on the reward loss; default 1 (algorithm refl: 0.001)")
    reward_precision: str = option("auto", "precision of reward models", choices=("auto", "fp32", "fp16", "bf16"))
    models_dir: str = option("", "folder where reward models lie", path=True)
    # algorithm
    algorithm: str = option("refl+", "how the gradient is taken", choices=ALGORITHMS)
    num_inference_steps: int | None = option(None, "denoising steps T; default 20 (algorithm refl: 40)")
    min_step: int | None = option(
        None, "first denoising step (from 0) that may carry the gradient; default 0.7 T (algorithm direct-align: 0)"
    )
    max_step: int | None = option(
        None,
        "last step that may carry the gradient; default T - 3, as the last two change next to nothing (algorithm refl:"
        " T - 1, direct-align: T / 2 - 1)",
    )
    guidance_scale: float | None = option(
        None, "classifier-free guidance in the rollout; default 7, SDXL 5 (algorithm refl: 1)"
    )
    eta: float | None = option(None, "0 = DDIM, 1 = ancestral DDPM; default 0 (algorithm refl: 1)")
    base_steps: int = option(
        0, "let the base model make the first steps of each training picture, so that only the later ones are learnt"
    )
    picks: str = option(
        "", "dpo: file of duels, JSON lines of winner, loser and prompt, or library for those kept there", path=True
    )
    dpo_beta: float = option(500.0, "dpo: how firmly a pick is believed, and how close to the base model it keeps")
    draft_steps: int = option(1, "draft-k: number of last steps with gradient, 1 to 5")
    lv_repeats: int = option(2, "draft-lv: how often the finished image is noised again")
    # anchor and stop rule
    anchor: str | None = option(
        None,
        "what holds the model near its base; default kl (dpo: none, as its loss does), or pretrain when anchor_data is"
        " given",
        choices=ANCHORS,
    )
    anchor_weight: float | None = option(
        None, "weight of the anchor; default 1 for kl, otherwise anchor_ratio times the reward's gradient norm"
    )
    anchor_ratio: float = option(
        0.5, "automatic anchor weight: anchor gradient over reward gradient at the first update"
    )
    anchor_samples: int = option(64, "anchor samples: how many pictures of the base model to train on")
    anchor_data: str = option(
        "",
        "folder of images with captions (.txt beside them or in their metadata) for the pre-training loss",
        path=True,
    )
    stop_rule: str = option(
        "stop",
        "what happens when a judge falls, a limit is passed or something cannot be measured",
        choices=("pause", "stop", "off"),
    )
    min_diversity: float = option(0.7, "stop when seed diversity falls below this share of the base model's")
    max_eps_mse: float = option(1.75, "stop when the denoising error exceeds this multiple of the base model's")
    max_inflation: float | None = option(
        None,
        "stop when the network's output, as velocity, is longer or shorter than the base model's by this factor;"
        " default 1.015, flow-matching models 1.035",
    )
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
    base_precision: str = option(
        "auto",
        "what the network's frozen linear layers are kept in under a LoRA; auto: as mixed_precision says, int8 and nf4:"
        " quantised, with bitsandbytes",
        choices=BASES,
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
    dial: bool = option(True, "at the end, measure the LoRA at strengths from 0 to 1.25 and say at which to use it")
    checkpointing_steps: int = option(10, "save a resumable state every so many updates")
    checkpoints_total_limit: int = option(2, "resumable states kept, besides the best")
    report_to: str = option(
        "",
        "curves and pictures also to tensorboard (in the run folder) or wandb",
        choices=("", "none", "tensorboard", "wandb"),
    )
    resume_from_checkpoint: str = option("", "folder of a saved state, or latest", path=True)
    output_dir: str = option("checkpoint/refl", "run folder: events, status, samples, states, report", path=True)
    output: str = option("lora", "what is written at the end", choices=OUTPUTS)
    output_name: str = option("", "file name of the result without extension; default CHECKPOINT-refl")
    export_dir: str = option("", "folder for the result; default the run folder", path=True)

    def to_json(self) -> str:
        """One JSON object; `from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def shareable(self) -> dict[str, Any]:
        """The settings for a file that is passed on: of each path only the last name, which tells nothing of whose
        machine it was.
        """
        values = dataclasses.asdict(self)
        for item in dataclasses.fields(self):
            if item.metadata.get("path"):
                value = values[item.name]
                values[item.name] = [last_name(text) for text in value] if isinstance(value, list) else last_name(value)
        return values

    @classmethod
    def from_json(cls: type[S], text: str) -> S:
        """Read what `to_json` wrote; unknown names raise ConfigError naming them."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"the run configuration is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"the run configuration must be a JSON object, found {type(data).__name__}")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls: type[S], data: dict[str, Any]) -> S:
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
    def learns_picks(self) -> bool:
        """Whether the run follows picks and no reward."""
        return self.algorithm == "dpo"

    @property
    def aims(self) -> list[str]:
        """Names and paths of the scorers that are trained on."""
        return [] if self.learns_picks else [parse_reward(text)[0] for text in self.rewards]

    @property
    def samples_per_step(self) -> int:
        """Samples of one update on one process."""
        return self.train_batch_size * self.gradient_accumulation_steps


def parse_reward(text: str) -> tuple[str, float]:
    """`NAME_OR_PATH` or `NAME_OR_PATH=WEIGHT` → (name or path, weight)."""
    name, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        return text, 1.0  # the equals sign is part of a path


def last_name(path: str) -> str:
    """What follows the last slash or backslash."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _typed(name: str, kind: str, value: Any) -> Any:
    optional = kind.endswith("| None")
    kind = kind.removesuffix("| None").strip()
    if value is None and optional:
        return None
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else math.inf
    wanted = {"str": str, "int": int, "float": float, "bool": bool, "list[str]": list}[kind]
    right = isinstance(value, wanted) and not (kind in ("int", "float") and isinstance(value, bool))
    if not right or (kind == "list[str]" and not all(isinstance(item, str) for item in value)):
        raise ConfigError(f"{name} must be {kind}{' or null' if optional else ''}, found {value!r}")
    if kind == "float" and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, found {value}")
    if kind == "int" and abs(value) >= 2**63:
        raise ConfigError(f"{name} must fit into 64 bits, found a number of {len(str(value))} digits")
    for text in value if kind == "list[str]" else [value] if kind == "str" else []:
        if "\0" in text:
            raise ConfigError(f"{name} must not hold a NUL character, found {text!r}")
    return list(value) if kind == "list[str]" else value
