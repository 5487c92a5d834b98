"""Train tiny-flow: a flow-matching transformer on tiny-sd's latents, with tiny-sd's text encoder and autoencoder.

Rectified flow (Liu et al. 2023) as Stable Diffusion 3 has it (Esser et al. 2024): x_σ = (1 − σ) x_0 + σ e, and the
network learns v = e − x_0, at noise levels σ that are drawn logit-normally and shifted towards noise.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from imagereward_core.atomic import replacing, write_json

from .architecture import FLOW_TOKENS, build_flow
from .dataset import captioned_pictures
from .errors import SmallWorldError
from .train_sd import encode_latents
from .train_vae import Progress, save_atomically

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer

NAME = "tiny-flow"
STATE, RECORD = "state.pt", "flow.json"


@dataclass(frozen=True)
class FlowTraining:
    """About 950 CPU seconds of one core. shift: of the noise levels; spread: see :func:`smallworld.world.place`."""

    steps: int = 4600
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: int = 100
    decay_share: float = 0.3
    weight_decay: float = 0.01
    empty_caption_share: float = 0.1
    ema_decay: float = 0.999
    shift: float = 1.5
    pictures: int = 16000
    spread: float = 0.3
    seed: int = 212
    checkpoint_every: int = 250


SHORT = FlowTraining(steps=4, batch_size=4, warmup=2, pictures=12, checkpoint_every=2)
"""A handful of steps: checks the recipe, not the quality."""


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Noise levels in [0, 1] moved towards noise for shift > 1 (Esser et al. 2024, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


@torch.no_grad()
def encode_prompts(text: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(contexts [N, 20, 96] of the last layer, pooled [N, 96]: its state at the end marker)."""
    contexts, pooled = [], []
    for start in range(0, len(texts), 128):
        ids = tokenizer(
            list(texts[start : start + 128]),
            padding="max_length",
            max_length=FLOW_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        state = text(ids).last_hidden_state
        end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        contexts.append(state)
        pooled.append(state[torch.arange(len(state)), end])
    return torch.cat(contexts), torch.cat(pooled)


@dataclass(frozen=True)
class FlowData:
    """Latents [N, 4, 8, 8] of unit variance, contexts and pooled features of the distinct captions, of which the first
    is none, and each picture's row in them [N].
    """

    latents: Tensor
    contexts: Tensor
    pooled: Tensor
    rows: Tensor

    @classmethod
    def make(cls, config: FlowTraining, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer) -> FlowData:
        """Drawn and encoded once."""
        made = captioned_pictures(config.pictures, config.seed, spread=config.spread)
        distinct = list(dict.fromkeys(["", *made.captions]))
        row = {caption: index for index, caption in enumerate(distinct)}
        latents = encode_latents(vae, made.pictures) * vae.config.scaling_factor
        rows = torch.tensor([row[caption] for caption in made.captions])
        return cls(latents, *encode_prompts(text, tokenizer, distinct), rows)


class FlowTrainer:
    """Holds the transformer, its moving average and the optimizer of one run."""

    def __init__(self, config: FlowTraining, data: FlowData) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.model = build_flow()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices, vectors = ([w for w in self.model.parameters() if (w.ndim > 1) is many] for many in (True, False))
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.step = 0

    def train_step(self) -> float:
        """One update on one random batch, a function of seed and step; returns the mean squared error of v."""
        config, data = self.config, self.data
        g = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        index = torch.randint(0, len(data.latents), (config.batch_size,), generator=g)
        dropped = torch.rand(config.batch_size, generator=g) < config.empty_caption_share
        row = data.rows[index].masked_fill(dropped, 0)
        x0, noise = data.latents[index], torch.randn(config.batch_size, *data.latents.shape[1:], generator=g)
        sigma = shifted(torch.sigmoid(torch.randn(config.batch_size, generator=g)), config.shift)
        level = sigma.view(-1, 1, 1, 1)
        predicted = velocity(self.model, (1 - level) * x0 + level * noise, sigma, data.contexts[row], data.pooled[row])
        loss = (predicted - (noise - x0)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    def learning_rate(self) -> float:
        """Linear warm-up, constant, and linear to zero over the last ``decay_share`` of the steps."""
        config = self.config
        left = (config.steps - self.step) / (config.decay_share * config.steps)
        return config.learning_rate * min(1.0, (self.step + 1) / config.warmup, left)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # ramped, as in train_sd
        for average, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(value, 1 - decay)

    def save(self, folder: Path, seconds: float) -> None:
        """Everything that training needs to go on, and the averaged weights."""
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
        with replacing(folder / STATE) as temporary:
            torch.save({**state, "step": self.step, "seconds": seconds}, temporary)
        half = copy.deepcopy(self.average).half()
        save_atomically(half, folder / f"{NAME}.safetensors")

    def restore(self, folder: Path) -> float:
        """Go on from what is saved there; returns the CPU seconds that it took."""
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return float(state["seconds"])


def velocity(model: SD3Transformer2DModel, x: Tensor, sigma: Tensor, contexts: Tensor, pooled: Tensor) -> Tensor:
    """The network's v [B, 4, 8, 8] at noisy latents x and noise levels sigma [B]."""
    return model(
        hidden_states=x, timestep=sigma * 1000, encoder_hidden_states=contexts, pooled_projections=pooled
    ).sample


def train_flow(config: FlowTraining, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train with one thread and leave ``tiny-flow.safetensors`` (averaged, fp16) and ``flow.json`` in ``folder``;
    returns the latter's content. Cut off, it goes on where it was saved last; finished, there is nothing left to do.
    Raises :class:`SmallWorldError` if the folder holds a training with other settings.
    """
    from .pipeline import load_pipeline

    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begun = time.process_time()
        record = _record(config, folder)
        if record.get("step") == config.steps:
            return record
        pipeline = load_pipeline()
        trainer = FlowTrainer(config, FlowData.make(config, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer))
        spent = trainer.restore(folder) if (folder / STATE).is_file() else 0.0
        errors: list[float] = []
        while trainer.step < config.steps:
            errors.append(trainer.train_step())
            if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
                seconds = spent + time.process_time() - begun
                trainer.save(folder, seconds)
                record |= {"step": trainer.step, "cpu_seconds": round(seconds), "v_mse": float(np.mean(errors))}
                write_json(folder / RECORD, record, indent=2)
                progress("flow", trainer.step, config.steps, {"v_mse": record["v_mse"], "cpu_seconds": seconds})
                errors = []
        return record
    finally:
        torch.set_num_threads(threads)


def _record(config: FlowTraining, folder: Path) -> dict[str, Any]:
    asked = json.loads(json.dumps(asdict(config)))
    path = folder / RECORD
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"config": asked}
    if found["config"] != asked:
        raise SmallWorldError(
            f"{folder} holds a training with other settings ({RECORD}): choose an empty folder, or remove it"
        )
    return {**found, "torch": torch.__version__}
