"""Evaluation on held-out prompts with fixed seeds: the same pictures are drawn at every evaluation, so that scores pair
up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from imagereward_core import atomic

from .anchor import AnchorSet
from .backend import Backend
from .conditioning import Conditioning
from .errors import SaveError
from .judges import Judge
from .metrics import MIXED, Evaluation, contrast, diversity, saturation
from .preference import HeldOutPicks
from .resolved import ResolvedConfig
from .rewards import RewardMix
from .rollout import Rollout, SampleNoise, draw

EVAL_STREAM = 5_555_555_555  # evaluation noise is the same for every training seed and never used in training
PROBE_LEVELS = 8


@dataclass
class Probe:
    """Held-out latents with captions, timesteps and noise on which the denoising error is measured."""

    x0: Tensor
    captions: list[str]
    t: Tensor
    noise: Tensor

    @classmethod
    def of(cls, x0: Tensor, captions: Sequence[str], timesteps: int) -> Probe:
        """Each picture at a timestep of its own, spread evenly over the schedule."""
        levels = (torch.arange(len(x0)) % PROBE_LEVELS + 0.5) / PROBE_LEVELS
        noise = torch.stack([SampleNoise(0, EVAL_STREAM + index).normal(x0.shape[1:]) for index in range(len(x0))])
        return cls(x0, list(captions), (levels * timesteps).long(), noise)


class Evaluator:
    """Draws held-out pictures with the full sampler and the real VAE, and scores them."""

    def __init__(
        self,
        config: ResolvedConfig,
        backend: Backend,
        table: Callable[[Sequence[str]], Conditioning],
        prompts: Sequence[str],
        rewards: RewardMix,
        judges: Sequence[Judge],
        device: torch.device,
        check: Callable[[], None] | None = None,
    ):
        guidance = config.eval_guidance_scale
        self.config, self.backend, self.table, self.device = config, backend, table, device
        self.prompts = [
            prompt for prompt in prompts for _ in range(config.eval_seeds)
        ]  # all seeds of a prompt in a row
        self.rewards, self.judges = rewards, list(judges)
        self.rollout = Rollout(backend, config.num_inference_steps, guidance, 0.0, check)
        self.uncond = table([config.negative_prompt]) if guidance > 1 else None
        self.batch = max(config.train_batch_size, 4)
        self.check = self.rollout.check
        self.progress: Callable[[int, int], None] = _silent  # (pictures drawn, of how many)
        self.probe: Probe | None = None
        self.base_lengths: Tensor | None = None
        self.picks: HeldOutPicks | None = None  # in a run that learns from picks

    @torch.no_grad()
    def draw(self) -> tuple[Tensor, Tensor]:
        """(pictures [N, 3, H, W] in [0, 1], latents [N, 4, h, w]) on the CPU."""
        size = self.config.resolution // self.backend.latent_factor
        shape = (self.backend.latent_channels, size, size)
        images, latents = [], []
        for start in range(0, len(self.prompts), self.batch):
            part = self.prompts[start : start + self.batch]
            noises = [SampleNoise(0, EVAL_STREAM * 2 + start + index) for index in range(len(part))]
            x = self.rollout.sample(draw(noises, shape, self.device), self.table(part), self.uncond, noises)
            latents.append(x.cpu())
            images.append(torch.cat([self.backend.decode(row[None]).clamp(0, 1).cpu() for row in x]))
            self.progress(start + len(part), len(self.prompts))
        return torch.cat(images), torch.cat(latents)

    def hold_out(self, latents: Tensor, images: AnchorSet | None) -> None:
        """Fix what the denoising error is measured on: held-out pictures of the user, else the base model's own."""
        if images is not None:
            x0, captions = torch.stack([images.latents(index) for index in range(len(images))]), images.captions
            repeats = -(-PROBE_LEVELS // len(x0))
            x0, captions = x0.repeat(repeats, 1, 1, 1), captions * repeats
        else:
            x0, captions = latents, self.prompts
        self.probe = Probe.of(x0, captions, len(self.backend.schedule))
        self.base_lengths = None

    def score(self, images: Tensor) -> dict[str, Tensor]:
        """Scores of every reward and judge: name → [N]."""
        parts: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch):
                self.check()
                block, prompts = (
                    images[start : start + self.batch].to(self.device),
                    self.prompts[start : start + self.batch],
                )
                scores = self.rewards.raw(prompts, block)
                scores.update({judge.name: judge.score(prompts, block) for judge in self.judges})
                parts.append(scores)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def ask_probe(self) -> tuple[float, float]:
        """(mean squared error of the network's prediction on the probe, mean length of its output there as velocity
        over the base model's). The first answer after `hold_out` is the base model's.
        """
        if self.probe is None:
            raise ValueError("hold_out was not called")
        probe, schedule, errors, lengths = self.probe, self.backend.schedule, [], []
        for start in range(0, len(probe.x0), self.batch):
            self.check()
            rows = slice(start, start + self.batch)
            x0, noise, t = probe.x0[rows].to(self.device), probe.noise[rows].to(self.device), probe.t[rows]
            x = schedule.add_noise(x0, noise, t)
            output = self.backend.predict(x, t, self.table(probe.captions[rows]))
            errors.append((output - schedule.target(x0, noise, t)).square().mean(dim=(1, 2, 3)).cpu())
            lengths.append(schedule.velocity(x, output, t).flatten(1).norm(dim=1).cpu())
        found = torch.cat(lengths)
        if self.base_lengths is None:
            self.base_lengths = found
        return float(torch.cat(errors).mean()), float((found / self.base_lengths).mean())

    def evaluate(self, step: int, images: Tensor, scores: dict[str, Tensor]) -> Evaluation:
        """All metrics of drawn and scored pictures."""
        accuracy = math.nan
        if self.picks is None:
            mixed = self.rewards.mix(scores)
        else:
            mixed, accuracy = self.picks.score()
        error, inflation = self.ask_probe()
        trained_on = {part.name for part in self.rewards.components}
        return Evaluation(
            step=step,
            reward=float(mixed.mean()),
            reward_std=float(mixed.std(unbiased=False)),
            diversity=diversity(images, self.config.eval_seeds),
            saturation=saturation(images),
            contrast=contrast(images),
            eps_mse=error,
            inflation=inflation,
            pick_accuracy=accuracy,
            scores={**{name: values.tolist() for name, values in scores.items()}, MIXED: mixed.tolist()},
            judges={name: float(values.mean()) for name, values in scores.items() if name not in trained_on},
        )


def _silent(done: int, total: int) -> None:
    """Where nobody is told."""


def save_sheet(images: Tensor, seeds: int, path: Path, cell: int = 256) -> None:
    """A contact sheet: one row per prompt, one column per seed. SaveError if it cannot be written."""
    from PIL import Image

    rows, size = len(images) // seeds, min(cell, images.shape[-1])
    sheet = Image.new("RGB", (seeds * size, rows * size))
    for index, image in enumerate((images.clamp(0, 1) * 255).round().byte()):
        tile = Image.fromarray(image.permute(1, 2, 0).numpy())
        if tile.width != size:
            tile = tile.resize((size, size), Image.Resampling.LANCZOS)
        sheet.paste(tile, (index % seeds * size, index // seeds * size))
    try:
        with atomic.replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
    except OSError as error:
        raise SaveError(f"cannot write {path}: {error}") from error
