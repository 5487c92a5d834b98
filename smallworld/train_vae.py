"""Train tiny-sd's autoencoder: 64x64 RGB to 8x8x4 latents in Stable Diffusion's AutoencoderKL architecture.

Objects cover a tenth of a picture, so pixels that differ from the background weigh more in the loss. After
``encoder_steps`` the encoder is frozen and only the decoder goes on sharpening: the generator can already be trained
on the latents, which no longer change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from imagereward_core.atomic import replacing

from .architecture import build_vae
from .dataset import captioned_pictures

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Receives (stage, steps done, steps in all, measured values)."""


@dataclass(frozen=True)
class VaeTraining:
    """``decoder_steps`` follow ``encoder_steps``; the learning rate falls to a twentieth in each of the two phases."""

    encoder_steps: int = 4400
    decoder_steps: int = 0
    batch_size: int = 4
    learning_rate: float = 1.2e-3
    kl_weight: float = 5e-4
    l1_weight: float = 0.2
    foreground_weight: float = 4.0
    pictures: int = 12000
    seed: int = 101
    checkpoint_every: int = 200


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixel_weights(target: torch.Tensor, foreground_weight: float) -> torch.Tensor:
    """[B, 1, H, W]: ``foreground_weight`` where a pixel of [B, 3, H, W] differs from the border's median, 1
    elsewhere.
    """
    border = torch.cat([target[:, :, 0], target[:, :, -1], target[:, :, :, 0], target[:, :, :, -1]], dim=2)
    background = border.median(dim=2).values[:, :, None, None]
    differs = (target - background).square().sum(dim=1, keepdim=True) > 0.1
    return 1 + (foreground_weight - 1) * differs.float()


def train_vae(config: VaeTraining, folder: Path, progress: Progress, start: int = 0) -> AutoencoderKL:
    """Train and return the autoencoder, saving ``vae.safetensors`` in ``folder`` now and then; ``start`` > 0 resumes
    it.
    """
    torch.manual_seed(config.seed + start)
    generator = torch.Generator().manual_seed(config.seed + start)
    pictures = captioned_pictures(config.pictures, config.seed).pictures
    vae = build_vae()
    if start:
        vae.load_state_dict(load_file(folder / "vae.safetensors"))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    steps = config.encoder_steps + config.decoder_steps
    errors: list[float] = []
    for step in range(start, steps):
        train_encoder = step < config.encoder_steps
        vae.encoder.requires_grad_(train_encoder)
        vae.quant_conv.requires_grad_(train_encoder)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(config, step)
        index = torch.randint(0, config.pictures, (config.batch_size,), generator=generator).numpy()
        target = to_tensor(pictures[index])
        posterior = vae.encode(target).latent_dist
        difference = vae.decode(posterior.sample(generator)).sample - target
        weights = pixel_weights(target, config.foreground_weight)
        loss = (weights * (difference.square() + config.l1_weight * difference.abs())).mean()
        if train_encoder:
            loss = loss + config.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        errors.append(difference.detach().square().mean().item())
        done = step + 1
        if done % config.checkpoint_every == 0 or done in (config.encoder_steps, steps):
            save_atomically(vae, folder / "vae.safetensors")
            progress("vae", done, steps, {"mse": float(np.mean(errors[-config.checkpoint_every :]))})
    return vae


def save_atomically(model: torch.nn.Module, path: Path) -> None:
    """Write a model's tensors so that a reader never meets half a file."""
    with replacing(path) as temporary:
        save_file(model.state_dict(), temporary)


def _schedule(config: VaeTraining, step: int) -> float:
    """Warm-up over 50 steps, constant for 40 % of the encoder's phase, then linear; the decoder's phase starts at a
    half.
    """
    if step < config.encoder_steps:
        left = 1 - step / config.encoder_steps
        return min(1.0, (step + 1) / 50) * max(0.05, min(1.0, left / 0.6))
    return 0.5 * max(0.05, 1 - (step - config.encoder_steps) / config.decoder_steps)
