"""What a run needs before its first update, one small step each; `Trainer._setup` says in which order and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from imagereward_core.runs import Name

from . import checkpoint
from . import judges as judging
from . import rewards as reward_models
from .anchor import AnchorSet, image_anchor
from .backend import Backend, load_backend
from .config import ReFLConfig
from .data import PromptSet, load_prompts, sample_prompt, split
from .distributed import Processes
from .engine import PromptTable
from .errors import ConfigError, PromptDataError
from .judges import Judge
from .memory import estimate_config
from .picks import Pick, PickSet
from .quantised import quantise
from .resolved import ResolvedConfig
from .rewards import RewardMix
from .rollout import Rollout, SampleNoise, draw
from .runfiles import read_json

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def with_precision(asked: ReFLConfig, device: torch.device) -> ReFLConfig:
    """The settings with a precision that this device has. ConfigError for one that was asked for and cannot be had."""
    if device.type == "cpu" and asked.mixed_precision == "fp16":
        raise ConfigError("mixed_precision fp16 does not work on the CPU: use no or bf16")
    if asked.mixed_precision is not None:
        return asked
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return dataclasses.replace(asked, mixed_precision="bf16" if bf16 else "fp16" if device.type == "cuda" else "no")


def read_prompts(config: ResolvedConfig, picks: Sequence[Pick] = ()) -> PromptSet:
    """The prompts to train on, those of picks among them, and those held out: of picks' prompts a quarter at most.
    PromptDataError for too few to judge a run by.
    """
    given = [*config.prompts, *(pick.prompt for pick in picks)]
    prompts = load_prompts(config.train_data, given, config.dataset_name, config.caption_column)
    held_out = min(config.held_out, max(2, len(prompts) // 4)) if picks else config.held_out
    parts = split(prompts, held_out, config.max_train_samples)
    if config.stop_rule != "off" and len(parts.held_out) < 2:
        raise PromptDataError(
            f"{len(prompts)} prompts with held_out {config.held_out} leave one prompt to judge the run by, which tells"
            " chance from change no more: give at least 4 prompts and held_out 2, or train unwatched with --stop_rule"
            " off"
        )
    return parts


def load(config: ReFLConfig | ResolvedConfig) -> Backend:
    """The configured checkpoint, frozen, on the CPU."""
    if not config.pretrained_model_name_or_path:
        raise ConfigError("no checkpoint was given: pretrained_model_name_or_path is empty")
    dtype = DTYPES["no" if config.mixed_precision is None else config.mixed_precision]
    return load_backend(
        config.pretrained_model_name_or_path,
        vae=config.vae,
        taesd=config.taesd,
        clip_bpe=config.clip_bpe,
        clip_skip=config.clip_skip or None,  # 0 in resolved settings: as the family has it
        parts=config.parts,
        prediction_type=config.prediction_type,
        dtype=dtype,
        unet_dtype=torch.float32 if config.tune == "full" else dtype,
    )


def place(config: ResolvedConfig, backend: Backend, device: torch.device) -> None:
    """Move the models to the device, the network quantised if so asked, and compute in half precision where the weights
    stay in fp32.
    """
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    if config.base_precision != "auto":
        quantise(backend.unet, config.base_precision, DTYPES[config.mixed_precision], device)
    backend.to(device)
    if config.tune == "full" and config.mixed_precision != "no":
        backend.autocast = DTYPES[config.mixed_precision]


def rewards(config: ResolvedConfig, device: torch.device) -> RewardMix:
    """The configured rewards; none for a run that learns from picks."""
    if config.learns_picks:
        return RewardMix([], may_be_empty=True)
    return reward_models.load_rewards(config.rewards, device, config.reward_precision, config.models_dir)


def with_judges(config: ResolvedConfig) -> ResolvedConfig:
    """The settings with judges in them: those that were named, those of the run that is resumed, none if it had none,
    else the default ones that are on this machine.
    """
    if config.judges:
        return config
    if config.resume_from_checkpoint and checkpoint.saved(Path(config.output_dir) / Name.CHECKPOINTS):
        stored = (read_json(Path(config.output_dir) / Name.CONFIG) or {}).get("judges")
        return dataclasses.replace(config, judges=[str(name) for name in stored] if isinstance(stored, list) else [])
    chosen = judging.choose(config.aims, judging.here(config.models_dir))
    return dataclasses.replace(config, judges=chosen)


def judges(config: ResolvedConfig, device: torch.device, mix: RewardMix, *, named: bool) -> list[Judge]:
    """The configured judges, on the device where the estimate leaves room for them. named: see judges.load. ConfigError
    for one that is trained on.
    """
    room = None
    if device.type == "cuda" and config.judges not in ([], [judging.NONE]):
        needs = estimate_config(ReFLConfig(**config.decided()))
        room = None if needs.free is None else needs.free - needs.total
    found = judging.load(config.judges, device, config.reward_precision, config.models_dir, room, named=named)
    check_judges(found, mix)
    return found


def check_judges(found: Sequence[Judge], mix: RewardMix) -> None:
    """ConfigError for a judge that is trained on."""
    twice = {judge.name for judge in found} & {part.name for part in mix.components}
    if twice:
        raise ConfigError(
            f"judges names {', '.join(sorted(twice))}, which is trained on: a judge must be another scorer"
        )


def anchor_images(config: ResolvedConfig, backend: Backend) -> tuple[AnchorSet | None, AnchorSet | None]:
    """(training, held-out) pictures of the user, if there are any."""
    if not config.anchor_data:
        return None, None
    return image_anchor(backend, config.anchor_data, config.resolution, config.held_out)


def encode_prompts(
    config: ResolvedConfig,
    backend: Backend,
    processes: Processes,
    prompts: PromptSet,
    picks: PickSet | None,
    *sets: AnchorSet | None,
) -> PromptTable:
    """Encode every prompt this run can ask for, then drop the text encoders."""
    train, count = prompts.train, len(prompts.train)
    total = config.max_train_steps * config.samples_per_step * processes.count
    used = {sample_prompt(config.seed, count, sample) for sample in range(total)} if total < count else range(count)
    trained = picks.prompts if picks else [train[index] for index in sorted(used)]
    needed = trained + prompts.held_out + [config.negative_prompt]
    needed += train[: config.anchor_samples] if config.anchor == "samples" else []
    for captions in sets:
        needed += captions.captions if captions else []
    table = PromptTable(backend, needed, config.resolution, processes.device)
    backend.text = None
    return table


def base_samples(
    config: ResolvedConfig,
    backend: Backend,
    table: PromptTable,
    device: torch.device,
    prompts: Sequence[str],
    check: Callable[[], None],
) -> AnchorSet:
    """Pictures of the model as it is now, the anchor's data."""
    rollout = Rollout(backend, config.num_inference_steps, config.eval_guidance_scale, 0.0, check)
    uncond = table([config.negative_prompt]) if rollout.guidance > 1 else None
    size = config.resolution // backend.latent_factor
    captions = (list(prompts) * -(-config.anchor_samples // len(prompts)))[: config.anchor_samples]

    def sample(index: int) -> Tensor:
        noises = [SampleNoise(config.seed + 1, index)]
        noise = draw(noises, (backend.latent_channels, size, size), device)
        return rollout.sample(noise, table([captions[index]]), uncond, noises)[0]

    drawn = AnchorSet(captions, sample, len(backend.schedule))
    for index in range(len(captions)):
        drawn.latents(index)
    return drawn
