"""Pre-train tiny-sd's text encoder on captions alone, as Stable Diffusion starts from a pre-trained CLIP.

From the end marker and from every padding position after it, one linear layer has to tell all attributes of the
caption. The causal encoder thus writes a summary of the caption there, which the denoiser's cross-attention reads from
its first step on; the encoder is frozen afterwards, so each caption is encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .architecture import TEXT_WIDTH, build_text_encoder
from .tokenizer import MAX_LENGTH
from .train_vae import Progress, save_atomically
from .world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Scene, sample_scene

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

_NONE = ("none",)
FIELDS: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS),
    "relation": _NONE + RELATIONS,
    "shape 1": SHAPES,
    "colour 1": tuple(COLOURS),
    "size 1": _NONE + ("small", "large"),
    "shape 2": _NONE + SHAPES,
    "colour 2": _NONE + tuple(COLOURS),
    "size 2": _NONE + ("small", "large"),
}
"""What a caption says, as classification targets."""


@dataclass(frozen=True)
class TextTraining:
    steps: int = 400
    batch_size: int = 48
    learning_rate: float = 2e-3
    seed: int = 404


def targets(scene: Scene) -> list[int]:
    """Class index per entry of :data:`FIELDS`."""
    values = {"background": scene.background, "relation": scene.relation or "none"}
    for number in (1, 2):
        thing = scene.things[number - 1] if number <= len(scene.things) else None
        values[f"shape {number}"] = thing.shape if thing else "none"
        values[f"colour {number}"] = thing.colour if thing else "none"
        values[f"size {number}"] = (thing.size if thing else None) or "none"
    return [FIELDS[name].index(values[name]) for name in FIELDS]


def train_text(config: TextTraining, tokenizer: CLIPTokenizer, folder: Path, progress: Progress) -> CLIPTextModel:
    """Train on captions of the training side, save ``text.safetensors`` in ``folder`` and return the frozen encoder."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    encoder = build_text_encoder()
    probe = nn.Linear(TEXT_WIDTH, sum(len(values) for values in FIELDS.values()))
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *probe.parameters()], lr=config.learning_rate, weight_decay=1e-3
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    sizes = [len(values) for values in FIELDS.values()]
    recent: list[float] = []
    for step in range(config.steps):
        scenes = [sample_scene(rng, pair_share=0.5) for _ in range(config.batch_size)]
        batch = tokenizer(
            [scene.caption for scene in scenes], padding="max_length", max_length=MAX_LENGTH, return_tensors="pt"
        )
        lengths = batch.attention_mask.sum(dim=1)
        wanted = torch.tensor([targets(scene) for scene in scenes])
        hidden = encoder(batch.input_ids).last_hidden_state
        # The end marker itself and three random places of the padding behind it.
        places = torch.stack(
            [lengths - 1, *((lengths + torch.rand(len(scenes)) * (MAX_LENGTH - lengths)).long() for _ in range(3))]
        )
        states = hidden[torch.arange(len(scenes)), places]  # [4, B, W]
        loss = torch.zeros(())
        correct = torch.ones(places.shape, dtype=torch.bool)
        for index, logits in enumerate(probe(states).split(sizes, dim=-1)):
            expected = wanted[:, index].expand(len(places), -1)
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), expected.flatten())
            correct &= logits.argmax(dim=-1) == expected
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(correct.float().mean().item())
        if (step + 1) % 50 == 0 or step + 1 == config.steps:
            progress(
                "text", step + 1, config.steps, {"loss": loss.item(), "captions_read": float(np.mean(recent[-50:]))}
            )
    save_atomically(encoder, folder / "text.safetensors")
    return encoder.eval().requires_grad_(False)
