"""Train tiny-sd's denoiser on the latents of captioned pictures (v-prediction), with the text encoder frozen."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from imagereward_core.atomic import write_json

from .architecture import SCHEDULE, build_unet
from .dataset import captioned_pictures
from .tokenizer import MAX_LENGTH
from .train_vae import Progress, save_atomically, to_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class GeneratorTraining:
    """One stage. ``spread`` scales how far objects scatter in the pictures (see :func:`smallworld.world.place`)."""

    steps: int = 4500
    batch_size: int = 32
    learning_rate: float = 8e-4
    warmup: int = 100
    empty_caption_share: float = 0.1
    ema_decay: float = 0.999
    pictures: int = 12000
    spread: float = 0.3
    seed: int = 212
    checkpoint_every: int = 200


STAGES: tuple[GeneratorTraining, ...] = (
    GeneratorTraining(steps=2800, warmup=200, pictures=16000, spread=1.0, seed=202),
    GeneratorTraining(),
)
"""Widely scattered objects first: colours, backgrounds and sizes are learnt there. Shapes are, within an hour of one
core, only where the objects scatter less.
"""


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pictures: np.ndarray, batch_size: int = 64) -> torch.Tensor:
    """The unscaled posterior means [N, 4, 8, 8] of uint8 pictures [N, 64, 64, 3]."""
    parts = [
        vae.encode(to_tensor(pictures[start : start + batch_size])).latent_dist.mode()
        for start in range(0, len(pictures), batch_size)
    ]
    return torch.cat(parts)


def alphas_cumprod() -> torch.Tensor:
    """The cumulative signal level of each of the 1000 steps, [1000], as DDIM/DDPM schedulers define it."""
    roots = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, SCHEDULE["num_train_timesteps"])
    return torch.cumprod(1 - roots.square(), dim=0)


@torch.no_grad()
def encode_captions(
    text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts of the distinct captions [C, 77, 96], the empty one first, and each caption's row in them [N]."""
    distinct = list(dict.fromkeys(["", *captions]))
    rows = {caption: row for row, caption in enumerate(distinct)}
    parts = []
    for start in range(0, len(distinct), 64):
        ids = tokenizer(
            distinct[start : start + 64], padding="max_length", max_length=MAX_LENGTH, return_tensors="pt"
        ).input_ids
        parts.append(text(ids).last_hidden_state)
    return torch.cat(parts), torch.tensor([rows[caption] for caption in captions])


class GeneratorTrainer:
    """Holds the denoiser, its moving average and the optimizer of one run."""

    def __init__(
        self, config: GeneratorTraining, latents: torch.Tensor, contexts: torch.Tensor, rows: torch.Tensor
    ) -> None:
        """``latents`` [N, 4, 8, 8] have unit variance; ``contexts[rows]`` [N, 77, 96] are their captions, row 0 is
        none.
        """
        torch.manual_seed(config.seed)
        self.config, self.latents, self.contexts, self.rows = config, latents, contexts, rows
        self.generator = torch.Generator().manual_seed(config.seed)
        self.unet = build_unet()
        self.average = copy.deepcopy(self.unet)
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3
        )
        self.signal = alphas_cumprod()
        self.step = 0

    def train_step(self) -> float:
        """One update on one random batch; returns the mean squared error of v."""
        config, g = self.config, self.generator
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self._schedule()
        index = torch.randint(0, len(self.latents), (config.batch_size,), generator=g)
        dropped = torch.rand(config.batch_size, generator=g) < config.empty_caption_share
        context = self.contexts[self.rows[index].masked_fill(dropped, 0)]
        x0 = self.latents[index]
        timestep = torch.randint(0, len(self.signal), (config.batch_size,), generator=g)
        noise = torch.randn(x0.shape, generator=g)
        alpha = self.signal[timestep].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - self.signal[timestep]).sqrt().view(-1, 1, 1, 1)
        predicted = self.unet(alpha * x0 + sigma * noise, timestep, encoder_hidden_states=context).sample
        loss = (predicted - (alpha * noise - sigma * x0)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    def _schedule(self) -> float:
        progress = self.step / self.config.steps
        return min(1.0, (self.step + 1) / self.config.warmup) * (
            0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * progress)))
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        # Ramped as in the usual EMA implementations, so that the average forgets the initialisation early on.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.average.parameters(), self.unet.parameters(), strict=True):
            average.lerp_(value, 1 - decay)


def train_generator(
    config: GeneratorTraining,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    progress: Progress,
    *,
    resume: bool = False,
) -> GeneratorTrainer:
    """Encode pictures and captions once, train, and leave ``unet.safetensors`` (averaged) and ``latents.json`` in
    ``folder``.

    ``resume`` goes on from the weights and the latent scale that an earlier stage left there.
    """
    data = captioned_pictures(config.pictures, config.seed, spread=config.spread)
    latents = encode_latents(vae, data.pictures)
    scale_file = folder / "latents.json"
    if not resume:
        write_json(scale_file, {"scaling_factor": round(1 / latents.std().item(), 5)})
    scale = float(json.loads(scale_file.read_text(encoding="utf-8"))["scaling_factor"])
    contexts, rows = encode_captions(text, tokenizer, data.captions)
    trainer = GeneratorTrainer(config, latents * scale, contexts, rows)
    if resume:
        for model in (trainer.unet, trainer.average):
            model.load_state_dict(load_file(folder / "unet.safetensors"))
    errors: list[float] = []
    while trainer.step < config.steps:
        errors.append(trainer.train_step())
        if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
            save_atomically(trainer.average, folder / "unet.safetensors")
            progress(
                "generator", trainer.step, config.steps, {"v_mse": float(np.mean(errors[-config.checkpoint_every :]))}
            )
    return trainer
