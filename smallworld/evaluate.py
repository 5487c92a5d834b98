"""Measure the shipped weights: what the model cards state and the tests check comes from here, never from the cards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .oracle import Oracle, Verdict, summarise
from .pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, WEIGHTS, generate, load_pipeline
from .world import Scene, render, sample_scene, single_scenes

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Say = Callable[[str], None]


def held_out_scenes(count: int, seed: int, *, pair_share: float = 0.25) -> list[Scene]:
    """Scenes whose captions no training has seen: with ``pair_share`` 0 every one-object scene in turn, shuffled."""
    rng = np.random.default_rng(seed)
    if pair_share:
        return [sample_scene(rng, held_out=True, pair_share=pair_share) for _ in range(count)]
    scenes = list(single_scenes(held_out=True))
    order = [int(index) for _ in range(-(-count // len(scenes))) for index in rng.permutation(len(scenes))]
    return [scenes[index] for index in order[:count]]


def evaluate_oracle(oracle: Oracle, count: int, seed: int) -> dict[str, Verdict]:
    """The oracle on fresh renders, where the truth is known: clean, and with clutter."""
    verdicts = {}
    for name, clutter in (("clean", False), ("cluttered", True)):
        rng = np.random.default_rng([seed, int(clutter)])
        scenes = [sample_scene(rng, held_out=index % 2 == 0) for index in range(count)]
        pictures = np.stack([np.asarray(render(scene, rng, clutter=clutter)) for scene in scenes])
        verdicts[name] = summarise(scenes, oracle.read(pictures))
    return verdicts


def evaluate_generator(
    pipeline: StableDiffusionPipeline,
    oracle: Oracle,
    scenes: Sequence[Scene],
    seed: int,
    *,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
) -> Verdict:
    """Draw one picture per scene and let the oracle read it."""
    pictures = generate(
        pipeline, [scene.caption for scene in scenes], range(seed, seed + len(scenes)), steps=steps, guidance=guidance
    )
    return summarise(scenes, oracle.read(pictures))


@torch.no_grad()
def evaluate_autoencoder(pipeline: StableDiffusionPipeline, oracle: Oracle, count: int, seed: int) -> dict[str, Any]:
    """Reconstruction error in [-1, 1] units, and what the oracle still reads: the ceiling of the generator."""
    from .train_vae import to_tensor

    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    pictures = np.stack([np.asarray(render(scene, rng)) for scene in scenes])
    target = to_tensor(pictures)
    decoded = torch.cat(
        [pipeline.vae.decode(pipeline.vae.encode(part).latent_dist.mode()).sample for part in target.split(32)]
    )
    values = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return {"mse": float((decoded - target).square().mean()), **asdict(summarise(scenes, oracle.read(values)))}


def evaluate_all(say: Say, *, count: int = 200, seed: int = 9000, weights: Path = WEIGHTS) -> dict[str, Any]:
    """Every number of the model cards; about five minutes on one core at the default ``count``."""
    import imagereward_core

    from .train_reward import pair_accuracy, through_autoencoder

    oracle = Oracle.load(weights / "oracle.safetensors")
    result: dict[str, Any] = {"oracle": {name: asdict(v) for name, v in evaluate_oracle(oracle, count, seed).items()}}
    say(f"oracle, clean: {result['oracle']['clean']['accuracy']}")
    pipeline = load_pipeline(weights / "tiny-sd.safetensors")
    result["autoencoder"] = evaluate_autoencoder(pipeline, oracle, count, seed)
    say(f"autoencoder: {result['autoencoder']}")
    result["tiny-sd"] = {}
    for name, pair_share in (("one object", 0.0), ("two objects", 1.0)):
        verdict = evaluate_generator(pipeline, oracle, held_out_scenes(count, seed, pair_share=pair_share), seed)
        result["tiny-sd"][name] = asdict(verdict)
        say(f"tiny-sd, {name}: {result['tiny-sd'][name]}")
    scorer = imagereward_core.load(str(weights / "tiny-imagereward.safetensors"), device="cpu")
    result["tiny-imagereward"] = {
        "renders": pair_accuracy(scorer, count, seed),
        "through the autoencoder": pair_accuracy(scorer, count, seed, view=through_autoencoder(pipeline.vae)),
    }
    say(f"tiny-imagereward: {result['tiny-imagereward']}")
    return result
