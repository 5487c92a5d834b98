"""Pre-train tiny-imagereward's encoders, as ImageReward starts from BLIP: does this caption fit this picture, and where
not?

From rankings alone a randomly initialised network of this size learns that noise is ugly and little else. Here every
patch has to tell what covers it, the class token what the picture holds, and the text encoder's first token, after
attending to the picture, what picture and caption say, where the objects lie that the caption names, where the two
differ, and what is wrong with the picture. The places are what "above" is learnt from:
without them relations stay at chance. The probes are thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from imagereward_core.config import METADATA_KEY, ModelConfig
from imagereward_core.model import RewardModel
from imagereward_core.preprocess import tensor_to_pixels
from imagereward_core.tokenizer import tokenize

from .annotated import FLAWS, Annotated, annotated_pictures
from .preferences import View
from .train_text import FIELDS, targets
from .train_vae import Progress
from .world import COLOURS, ERROR_TYPES, SHAPES, Scene, corrupt_scene

KINDS = (*ERROR_TYPES, *FLAWS)
"""What the first token has to tell of caption and picture together."""


@dataclass(frozen=True)
class RewardPretraining:
    pictures: int = 16000
    steps: int = 6000
    batch_size: int = 48
    learning_rate: float = 1.5e-3
    seed: int = 606


def mismatches(shown: Scene, described: Scene) -> list[int]:
    """One bit per kind of error: 1 where ``described`` differs from ``shown``; both have the same number of objects."""
    bits = {
        "background": shown.background != described.background,
        "relation": shown.relation != described.relation,
    }
    for name in ("colour", "shape", "size"):
        bits[name] = any(
            getattr(one, name) != getattr(other, name)
            for one, other in zip(shown.things, described.things, strict=True)
        )
    return [int(bits[error]) for error in ERROR_TYPES]


class Pretrainer(nn.Module):
    """A reward model with the probes of its pre-training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = RewardModel(config)
        self.sizes = [len(values) for values in FIELDS.values()]
        self.patch_probe = nn.Linear(config.vision.width, len(SHAPES) + 1 + len(COLOURS) + 1)
        self.picture_probe = nn.Linear(config.vision.width, sum(self.sizes))
        self.fused_probe = nn.Linear(config.text.width, 2 * sum(self.sizes))
        self.centre_probe = nn.Linear(config.text.width, 4)
        self.kind_probe = nn.Sequential(
            nn.Linear(config.text.width, 2 * config.text.width), nn.GELU(), nn.Linear(2 * config.text.width, len(KINDS))
        )

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits: ``patches`` [B, 64, 12], ``fields`` [B, 3 F] (by the vision tower, then picture and caption by the
        first token), ``kinds`` [B, 10]; ``centres`` [B, 2, 2] in [-1, 1].
        """
        tokens = self.model.encode_image(pixels)
        fused = self.model.features(ids, mask, tokens)
        return {
            "patches": self.patch_probe(tokens[:, 1:]),
            "fields": torch.cat([self.picture_probe(tokens[:, 0]), self.fused_probe(fused)], dim=1),
            "centres": self.centre_probe(fused).view(-1, 2, 2),
            "kinds": self.kind_probe(fused),
        }


@dataclass(frozen=True)
class Batch:
    """Captions for some pictures, with what is true of the two together; what cannot be said is NaN."""

    captions: list[str]
    read: torch.Tensor  # [B, F]
    kinds: torch.Tensor  # [B, 10]
    centres: torch.Tensor  # [B, 2, 2]


def describe(data: Annotated, index: np.ndarray, rng: np.random.Generator) -> Batch:
    """A right or wrong caption for each picture."""
    described = [_describe(data.scenes[i], rng) for i in index]
    shares = data.degrees[index, None]
    one, other = (
        np.array([mismatches(scenes[i], scene) for i, scene in zip(index, described, strict=True)])
        for scenes in (data.scenes, data.others)
    )
    kinds = np.concatenate([(1 - shares) * one + shares * other, data.flaws[index]], axis=1)
    names = list(KINDS)
    missing = data.flaws[index, list(FLAWS).index("missing")] > 0
    # Of an object that is not there nothing can be wrong; the autoencoder softens what it redraws and takes noise away.
    kinds[np.ix_(missing, [names.index(name) for name in ("colour", "shape", "size", "relation")])] = np.nan
    kinds[np.ix_(data.redrawn[index], [names.index("blur"), names.index("noise")])] = np.nan
    centres = data.centres[index].copy()
    for row, (i, scene) in enumerate(zip(index, described, strict=True)):
        for number, (drawn, named) in enumerate(zip(data.scenes[i].things, scene.things, strict=True)):
            if (drawn.colour, drawn.shape) != (named.colour, named.shape):  # what the caption names is nowhere
                centres[row, number] = np.nan
    return Batch(
        [scene.caption for scene in described],
        torch.tensor([targets(scene) for scene in described]),
        torch.from_numpy(kinds.astype(np.float32)),
        torch.from_numpy(centres),
    )


def losses(
    found: dict[str, torch.Tensor], batch: Batch, data: Annotated, index: np.ndarray, sizes: list[int]
) -> dict[str, torch.Tensor]:
    """The terms of the loss, each a mean over what is known."""
    known = ~torch.isnan(batch.kinds)
    placed = ~torch.isnan(batch.centres)
    shapes, colours = found["patches"].split([len(SHAPES) + 1, len(COLOURS) + 1], dim=2)
    # Where an object is missing, the picture shows something else than its scene; the fields of the picture are then
    # not asked for.
    shown = data.shown[index].clone()
    shown[torch.from_numpy(data.flaws[index, list(FLAWS).index("missing")] > 0)] = -100
    wanted = torch.cat([shown, shown, batch.read], dim=1)
    fields = [
        functional.cross_entropy(logits, wanted[:, field])
        for field, logits in enumerate(found["fields"].split(3 * sizes, dim=1))
    ]
    return {
        "kinds": 2 * functional.binary_cross_entropy_with_logits(found["kinds"][known], batch.kinds[known]),
        "fields": 0.15 * torch.stack(fields).sum(),
        "centres": 2 * functional.mse_loss(found["centres"][placed], batch.centres[placed]),
        "patches": functional.cross_entropy(shapes.flatten(0, 1), torch.from_numpy(data.shapes[index]).flatten())
        + functional.cross_entropy(colours.flatten(0, 1), torch.from_numpy(data.colours[index]).flatten()),
    }


def pretrain_reward(
    config: RewardPretraining, model: ModelConfig, folder: Path, progress: Progress, *, view: View | None = None
) -> Path:
    """Train and write ``folder/pretrained.safetensors``, a reward model whose head is still untrained."""
    from imagereward_train.initial import initialise

    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    data = annotated_pictures(config.pictures, config.seed, view=view)
    trainer = Pretrainer(replace(model, mean=0.0, std=1.0))
    initialise(trainer.model)
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    path = folder / "pretrained.safetensors"
    recent: list[list[float]] = []
    for step in range(config.steps):
        index = rng.integers(0, config.pictures, size=config.batch_size)
        batch = describe(data, index, rng)
        ids, mask = tokenize(batch.captions, model.max_tokens)
        images = torch.from_numpy(data.pictures[index]).permute(0, 3, 1, 2).float() / 255
        found = trainer(tensor_to_pixels(images, model.vision.image_size), ids, mask)
        terms = losses(found, batch, data, index, trainer.sizes)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right = torch.where(torch.isnan(batch.kinds), torch.nan, ((found["kinds"] > 0) == (batch.kinds > 0.5)).float())
        recent.append([*(term.item() for term in terms.values()), *right.nanmean(dim=0).tolist()])
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            values = np.nanmean(recent[-100:], axis=0).tolist()
            progress("reward: pre-training", step + 1, config.steps, dict(zip((*terms, *KINDS), values, strict=True)))
        if (step + 1) % 1000 == 0 or step + 1 == config.steps:
            save_file(trainer.model.state_dict(), path, {METADATA_KEY: trainer.model.config.to_json()})
    return path


def _describe(scene: Scene, rng: np.random.Generator) -> Scene:
    """A caption for a picture: right in three of ten, else with one or two errors; never a combination that is held
    out.
    """
    described = scene
    kinds, chances = (
        (ERROR_TYPES, [0.15, 0.15, 0.15, 0.15, 0.4]) if scene.relation is not None else (ERROR_TYPES[:4], None)
    )
    for _ in range(int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2]))):
        changed = corrupt_scene(described, str(rng.choice(kinds, p=chances)), rng)
        if changed is not None and changed.held_out == scene.held_out:
            described = changed
    return described
