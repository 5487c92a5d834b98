"""What a run needs before its first update: the model, encoded prompts, and pictures of the base model for the
anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .anchor import AnchorSet
from .backend import Backend, load_backend
from .config import ReFLConfig
from .data import PromptSet, sample_prompt
from .distributed import Processes
from .engine import PromptTable
from .errors import ConfigError
from .rollout import Rollout, SampleNoise, draw

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(config: ReFLConfig) -> Backend:
    """The configured checkpoint, frozen, on the CPU."""
    if not config.pretrained_model_name_or_path:
        raise ConfigError("no checkpoint was given: pretrained_model_name_or_path is empty")
    dtype = DTYPES[config.mixed_precision or "no"]
    return load_backend(
        config.pretrained_model_name_or_path,
        vae=config.vae,
        taesd=config.taesd,
        clip_bpe=config.clip_bpe,
        clip_skip=config.clip_skip,
        prediction_type=config.prediction_type,
        dtype=dtype,
        unet_dtype=torch.float32 if config.tune == "full" else dtype,
    )


def encode_prompts(
    config: ReFLConfig, backend: Backend, processes: Processes, prompts: PromptSet, *sets: AnchorSet | None
) -> PromptTable:
    """Encode every prompt this run can ask for, then drop the text encoders."""
    train, count = prompts.train, len(prompts.train)
    total = config.max_train_steps * config.samples_per_step * processes.count
    used = (
        {sample_prompt(config.seed or 0, count, sample) for sample in range(total)} if total < count else range(count)
    )
    needed = [train[index] for index in sorted(used)] + prompts.held_out + [config.negative_prompt]
    needed += train[: config.anchor_samples] if config.anchor == "samples" else []
    for captions in sets:
        needed += captions.captions if captions else []
    table = PromptTable(backend, needed, config.resolution or 512, processes.device)
    backend.text = None
    return table


def base_samples(
    config: ReFLConfig,
    backend: Backend,
    table: PromptTable,
    device: torch.device,
    prompts: Sequence[str],
    check: Callable[[], None],
) -> AnchorSet:
    """Pictures of the model as it is now, the anchor's data."""
    rollout = Rollout(backend, config.num_inference_steps or 20, config.eval_guidance_scale or 1.0, 0.0, check)
    uncond = table([config.negative_prompt]) if rollout.guidance > 1 else None
    size = (config.resolution or 512) // backend.latent_factor
    captions = (list(prompts) * -(-config.anchor_samples // len(prompts)))[: config.anchor_samples]

    def sample(index: int) -> Tensor:
        noises = [SampleNoise((config.seed or 0) + 1, index)]
        noise = draw(noises, (backend.latent_channels, size, size), device)
        return rollout.sample(noise, table([captions[index]]), uncond, noises)[0]

    drawn = AnchorSet(captions, sample, len(backend.schedule))
    for index in range(len(captions)):
        drawn.latents(index)
    return drawn
