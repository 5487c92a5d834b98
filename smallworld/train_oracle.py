"""Train the oracle's region classifier on renders alone, blurred, dimmed and noised so that it also reads soft
pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch.nn import functional

from .oracle import Oracle, RegionClassifier, crop, segment
from .train_vae import Progress
from .world import COLOURS, SHAPES, draw, place, sample_scene


@dataclass(frozen=True)
class OracleTraining:
    pictures: int = 9000
    epochs: int = 14
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    seed: int = 303


def labelled_crops(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Crops [M, 3, 24, 24] of objects in ``count`` renders of either side of the split, shape ids [M], colour ids
    [M].
    """
    rng = np.random.default_rng(seed)
    crops, shapes, colours = [], [], []
    for index in range(count):
        scene = sample_scene(rng, held_out=index % 5 == 0)
        placed = place(scene, rng)
        picture = _soften(draw(scene.background, placed, rng, clutter=rng.random() < 0.4), rng)
        for region in segment(picture).objects:
            rows, columns = np.nonzero(region)
            nearest = min(placed, key=lambda item: (item.x - columns.mean()) ** 2 + (item.y - rows.mean()) ** 2)
            crops.append(crop(picture, region))
            shapes.append(SHAPES.index(nearest.thing.shape))
            colours.append(list(COLOURS).index(nearest.thing.colour))
    return torch.stack(crops), torch.tensor(shapes), torch.tensor(colours)


def _soften(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.8))))
    values = np.asarray(picture).astype(np.float32)
    if rng.random() < 0.5:
        values = 128 + (values - 128) * rng.uniform(0.8, 1.05) + rng.normal(0, rng.uniform(0, 8), values.shape)
    return values.clip(0, 255).astype(np.uint8)


def train_oracle(config: OracleTraining, folder: Path, progress: Progress) -> Oracle:
    """Train on labels only and write ``oracle.safetensors`` (fp16) into ``folder``."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    crops, shapes, colours = labelled_crops(config.pictures, config.seed)
    classifier = RegionClassifier()
    steps_per_epoch = len(crops) // config.batch_size
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * steps_per_epoch
    )
    for epoch in range(config.epochs):
        order = torch.randperm(len(crops), generator=generator)
        losses = []
        for step in range(steps_per_epoch):
            index = order[step * config.batch_size : (step + 1) * config.batch_size]
            shape_logits, colour_logits = classifier(crops[index])
            loss = functional.cross_entropy(shape_logits, shapes[index]) + functional.cross_entropy(
                colour_logits, colours[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        progress("oracle", epoch + 1, config.epochs, {"loss": float(np.mean(losses))})
    save_file({name: value.half() for name, value in classifier.state_dict().items()}, folder / "oracle.safetensors")
    return Oracle(classifier)
