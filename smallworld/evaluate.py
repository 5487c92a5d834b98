"""Measure the shipped weights: what the model cards state and the tests check comes from here, never from the cards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .flow_pipeline import assemble, generate_flow, load_flow
from .oracle import Oracle, Verdict, judge, summarise
from .pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, WEIGHTS, generate, load_pipeline
from .world import Scene, render, sample_scene, single_scenes

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from refl.backend import Backend

Say = Callable[[str], None]
SEEDS = 5  # of each held-out caption that tiny-flow is measured with


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
    flow = weights / "tiny-flow.safetensors"
    if flow.is_file():
        result[flow.stem] = measure_flow(flow, oracle, count=count, seed=seed)
        say(f"tiny-flow: {result['tiny-flow']}")
    result["tiny-imagereward"] = {
        "renders": pair_accuracy(scorer, count, seed),
        "through the autoencoder": pair_accuracy(scorer, count, seed, view=through_autoencoder(pipeline.vae)),
    }
    say(f"tiny-imagereward: {result['tiny-imagereward']}")
    return result


def measure_flow(weights: Path, oracle: Oracle, *, count: int = 100, seed: int = 9000) -> dict[str, Any]:
    """:func:`evaluate_flow` of tiny-flow's weights in a file."""
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_flow(load_flow(assemble(Path(folder) / weights.stem, weights)), oracle, count, seed)


def evaluate_flow(model: Backend, oracle: Oracle, count: int, seed: int) -> dict[str, Any]:
    """What the oracle reads in each held-out one-object caption drawn with five seeds, with the interval of "all right"
    over the held-out combinations of shape, colour and background; and in `count` captions of two objects.
    """
    scenes = [scene for scene in single_scenes(held_out=True) for _ in range(SEEDS)]
    one, right = _drawn(model, oracle, scenes, seed)
    pairs, _ = _drawn(model, oracle, held_out_scenes(count, seed, pair_share=1.0), seed)
    groups = [(scene.background, scene.things[0].colour, scene.things[0].shape) for scene in scenes]
    one["interval"] = interval_over(right, groups)
    one["combinations"] = len(set(groups))
    return {"one object": one, "two objects": pairs}


def _drawn(model: Backend, oracle: Oracle, scenes: Sequence[Scene], seed: int) -> tuple[dict[str, Any], np.ndarray]:
    prompts = [scene.caption for scene in scenes]
    readings = oracle.read(generate_flow(model, prompts, range(seed, seed + len(scenes))))
    right = [min(judge(scene, reading).values()) == 1.0 for scene, reading in zip(scenes, readings, strict=True)]
    return asdict(summarise(scenes, readings)), np.array(right, dtype=float)


def interval_over(values: np.ndarray, groups: Sequence[Any], *, draws: int = 4000, seed: int = 0) -> list[float]:
    """Bootstrap 95 % interval of the mean of values [N] of equally large groups: whole groups are drawn."""
    names = list(dict.fromkeys(groups))
    means = np.array([values[[group == name for group in groups]].mean() for name in names])
    drawn = np.random.default_rng(seed).choice(means, size=(draws, len(means)), replace=True).mean(axis=1)
    return [float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))]
