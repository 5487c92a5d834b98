"""Pre-train tiny-imagereward's encoders, as ImageReward starts from BLIP: does this caption fit this picture, and where not?

From rankings alone a randomly initialised network of this size learns that noise is ugly and little else. Here the class
token of the vision tower has to tell what the picture holds; the text encoder's first token, after attending to the
picture, has to tell what picture and caption say and where they differ. The probes are thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from imagereward_core.config import METADATA_KEY, ModelConfig
from imagereward_core.model import RewardModel
from imagereward_core.preprocess import tensor_to_pixels
from imagereward_core.tokenizer import tokenize

from .train_text import FIELDS, targets
from .train_vae import Progress
from .world import ERROR_TYPES, Scene, corrupt_scene, render, sample_scene


@dataclass(frozen=True)
class RewardPretraining:
    pictures: int = 10000
    steps: int = 5400
    batch_size: int = 48
    learning_rate: float = 1e-3
    seed: int = 606


def canonical(scene: Scene) -> Scene:
    """The same picture described from the top or from the left, so that a picture has one set of labels."""
    opposite = {"below": "above", "right of": "left of"}
    if scene.relation in opposite:
        return Scene(scene.background, scene.things[::-1], opposite[scene.relation])
    return scene


def mismatches(shown: Scene, described: Scene) -> list[int]:
    """One bit per kind of error: 1 where ``described`` differs from ``shown``; both have the same number of objects."""
    bits = {
        "background": shown.background != described.background,
        "relation": shown.relation != described.relation,
    }
    for name in ("colour", "shape", "size"):
        bits[name] = any(getattr(one, name) != getattr(other, name) for one, other in zip(shown.things, described.things, strict=True))
    return [int(bits[error]) for error in ERROR_TYPES]


def _soften(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Blur or grain on half of the pictures, so that attributes are also found in what a generator draws."""
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 2.0))))
    values = np.asarray(picture).astype(np.float32)
    if rng.random() < 0.25:
        values = values + rng.normal(0, rng.uniform(5, 25), values.shape)
    return values.clip(0, 255).astype(np.uint8)


class Pretrainer(nn.Module):
    """A reward model with the probes of its pre-training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = RewardModel(config)
        self.sizes = [len(values) for values in FIELDS.values()]
        self.picture_probe = nn.Linear(config.vision.width, sum(self.sizes))
        self.fused_probe = nn.Linear(config.text.width, 2 * sum(self.sizes))
        self.match_probe = nn.Sequential(
            nn.Linear(config.text.width, 2 * config.text.width), nn.GELU(), nn.Linear(2 * config.text.width, len(ERROR_TYPES))
        )

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attribute logits [B, 3 F] (picture by the vision tower, picture and caption by the fused token), mismatch logits [B, 5]."""
        tokens = self.model.encode_image(pixels)
        fused = self.model.features(ids, mask, tokens)
        return torch.cat([self.picture_probe(tokens[:, 0]), self.fused_probe(fused)], dim=1), self.match_probe(fused)


def pretrain_reward(config: RewardPretraining, model: ModelConfig, folder: Path, progress: Progress, *, resume: bool = False) -> Path:
    """Train and write ``folder/pretrained.safetensors``, a reward model whose head is still untrained; ``resume`` goes on from it."""
    from imagereward_core.training.initial import initialise

    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    scenes = [sample_scene(rng, pair_share=0.35) for _ in range(config.pictures)]
    pictures = np.stack([_soften(render(scene, rng, clutter=rng.random() < 0.3), rng) for scene in scenes])
    seen = torch.tensor([targets(canonical(scene)) for scene in scenes])
    trainer = Pretrainer(replace(model, mean=0.0, std=1.0))
    initialise(trainer.model)
    path = folder / "pretrained.safetensors"
    if resume:
        trainer.model.load_state_dict(load_file(path))
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1)
    recent: list[list[float]] = []
    for step in range(config.steps):
        index = rng.integers(0, config.pictures, size=config.batch_size)
        described = [_describe(scenes[i], rng) for i in index]
        wrong = torch.tensor([mismatches(scenes[i], scene) for i, scene in zip(index, described, strict=True)], dtype=torch.float32)
        ids, mask = tokenize([scene.caption for scene in described], model.max_tokens)
        images = torch.from_numpy(pictures[index]).permute(0, 3, 1, 2).float() / 255
        found, mismatch = trainer(tensor_to_pixels(images, model.vision.image_size), ids, mask)
        loss = 2 * functional.binary_cross_entropy_with_logits(mismatch, wrong)
        read = torch.tensor([targets(scene) for scene in described])
        wanted = torch.cat([seen[index], seen[index], read], dim=1)
        for field, logits in enumerate(found.split(3 * trainer.sizes, dim=1)):
            loss = loss + 0.15 * functional.cross_entropy(logits, wanted[:, field])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append([loss.item(), *((mismatch > 0) == (wrong > 0.5)).float().mean(dim=0).tolist()])
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            values = np.mean(recent[-100:], axis=0).tolist()
            progress("reward: pre-training", step + 1, config.steps, dict(zip(("loss", *ERROR_TYPES), values, strict=True)))
    save_file({name: value.contiguous() for name, value in trainer.model.state_dict().items()}, path, {METADATA_KEY: trainer.model.config.to_json()})
    return path


def _describe(scene: Scene, rng: np.random.Generator) -> Scene:
    """A caption for a picture: right in three of ten, else with one or two errors."""
    described = scene
    for _ in range(int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2]))):
        changed = corrupt_scene(described, str(rng.choice(ERROR_TYPES)), rng)
        if changed is not None:
            described = changed
    return described
