"""Train tiny-imagereward with this project's own trainer, on rankings of the small world, and measure it per kind of
flaw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig, VisionConfig
from imagereward_core.model import RewardModel

from .preferences import PENALTIES, View, sample_pair, write_preferences
from .pretrain_reward import RewardPretraining, pretrain_reward
from .train_vae import Progress, to_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from imagereward_core.scorers.imagereward import ImageRewardScorer

# ImageReward's form at 64 pixels. BERT's vocabulary is kept whole, so that any prompt can be scored; at width 48 it is
# already three quarters of the file.
MODEL = ModelConfig(
    vision=VisionConfig(image_size=64, patch_size=8, width=80, depth=3, heads=4, stem="conv"),
    text=TextConfig(width=48, depth=4, heads=4, intermediate=192, max_positions=64),
    projection=32,
    head=(64, 32, 16),
)
LATENT_NOISE = 0.4
"""Most noise on the latents of the pictures it learns from, in standard deviations of the generator's latents."""


@dataclass(frozen=True)
class RewardTraining:
    """``items`` rankings of four pictures each; ``valid_items`` use captions that training never sees."""

    pretraining: RewardPretraining = field(default_factory=RewardPretraining)
    items: int = 4000
    valid_items: int = 200
    updates: int = 1200
    batch_size: int = 16
    learning_rate: float = 7e-4
    seed: int = 505


def through_autoencoder(vae: AutoencoderKL, *, noise: float = 0.0, seed: int = 0) -> View:
    """Redraws pictures the way the generator's decoder would; with up to ``noise`` standard deviations of Gaussian
    noise on the latents, a generator's wavering edges and mottled colours.
    """
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def view(pictures: list[Image.Image]) -> list[Image.Image]:
        redrawn: list[Image.Image] = []
        for start in range(0, len(pictures), 32):
            batch = to_tensor(np.stack([np.asarray(picture) for picture in pictures[start : start + 32]]))
            latents = vae.encode(batch).latent_dist.mode()
            level = noise * torch.rand(len(latents), 1, 1, 1, generator=generator) / vae.config.scaling_factor
            decoded = vae.decode(latents + level * torch.randn(latents.shape, generator=generator)).sample
            values = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            redrawn += [Image.fromarray(value) for value in values]
        return redrawn

    return view


def train_reward(config: RewardTraining, vae: AutoencoderKL | None, folder: Path, progress: Progress) -> Path:
    """Write the rankings, pre-train, run ``imagereward train``; returns ``folder/tiny-imagereward.safetensors``
    (fp16).
    """
    view = through_autoencoder(vae, noise=LATENT_NOISE, seed=config.seed) if vae is not None else None
    data = folder / "preferences"
    write_preferences(data, "train", config.items, config.seed, view=view)
    write_preferences(data, "valid", config.valid_items, config.seed + 1, held_out=True, view=view)
    pretrain_reward(config.pretraining, MODEL, folder, progress, view=view)
    return rank(config, folder, progress, resume=True)


def train_control(config: RewardTraining, reward: Path, folder: Path, progress: Progress) -> Path:
    """The negative control: the encoders of ``reward``, which can read pictures, a fresh head, and rankings dealt at
    random.

    What it prefers is arbitrary, so following it must improve nothing that anybody else measures.
    """
    random_head(reward, folder / "pretrained.safetensors", seed=config.seed)
    data = folder / "preferences"
    write_preferences(data, "train", config.items, config.seed, shuffled=True)
    write_preferences(data, "valid", config.valid_items, config.seed + 1, held_out=True, shuffled=True)
    return rank(config, folder, progress)


def random_head(reward: Path, target: Path, *, seed: int, mean: float = 0.0, std: float = 1.0) -> None:
    """Write the encoders of ``reward`` with a head of random numbers; its raw reward less ``mean``, over ``std``."""
    from imagereward_core.weights.find import read_state
    from imagereward_train.initial import initialise

    torch.manual_seed(seed)
    state, _ = read_state(reward)
    fresh = RewardModel(MODEL)
    initialise(fresh)
    state = {
        name: fresh.state_dict()[name] if name.startswith("mlp.") else value.to(fresh.state_dict()[name].dtype)
        for name, value in state.items()
    }
    save_file(state, target, {METADATA_KEY: replace(MODEL, mean=mean, std=std).to_json()})


def rank(config: RewardTraining, folder: Path, progress: Progress, *, resume: bool = False) -> Path:
    """Run this project's trainer on the rankings in ``folder``, from the pre-trained encoders there.

    ``resume`` goes on with a run that was cut off: for encoders that are the same whenever they are trained again.
    """
    from imagereward_train import TrainConfig, train

    best = train(
        TrainConfig(
            data=str(folder / "preferences" / "train.json"),
            valid=str(folder / "preferences" / "valid.json"),
            savepath=str(folder / "reward-run"),
            model=MODEL,
            init="random",
            preload_path=str(folder / "pretrained.safetensors"),
            fix_rate=0.0,
            dropout=0.1,
            train_iters=config.updates,
            batch_size=config.batch_size,
            total_batch=config.batch_size,
            lr=config.learning_rate,
            lr_decay_ratio=0.02,
            warmup=0.05,
            weight_decay=0.01,
            max_grad_norm=1.0,
            ema=0.995,
            valid_per_epoch=1,
            save_every=500,
            resume=resume,
            best_by="accuracy",
            seed=config.seed,
            device="cpu",
            workers=1,
            tensorboard=False,
            curve=False,
        ),
        progress=_forward(progress),
    )
    path = folder / "tiny-imagereward.safetensors"
    halve(best, path)
    return path


def _forward(progress: Progress) -> Callable[[str, int, int, float], None]:
    def report(stage: str, done: int, total: int, left: float) -> None:
        if done % 100 == 0 or done == total:
            progress(f"reward: {stage}", done, total, {"seconds_left": round(left)})

    return report


def halve(source: Path, target: Path) -> None:
    """Copy a safetensors file with its metadata, floating-point tensors in fp16."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    save_file(
        {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()},
        target,
        metadata,
    )


def pair_accuracy(scorer: ImageRewardScorer, pairs: int, seed: int, *, view: View | None = None) -> dict[str, float]:
    """Share of held-out pairs in which the flawless picture scores higher, per kind of flaw, and their mean as
    ``"all"``.
    """
    result = {}
    for number, flaw in enumerate(PENALTIES):
        rng = np.random.default_rng([seed, number])
        items = [sample_pair(flaw, rng, held_out=True) for _ in range(pairs)]
        pictures = [picture for item in items for picture in item.pictures]
        shown = view(pictures) if view is not None else pictures
        prompts = [item.scene.caption for item in items for _ in item.pictures]
        scores = np.array(scorer.score_pairs(prompts, shown)).reshape(-1, 2)
        result[flaw] = float(np.mean(scores[:, 0] > scores[:, 1]))
    return {**result, "all": float(np.mean(list(result.values())))}
