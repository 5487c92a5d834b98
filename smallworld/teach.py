"""Teach: a short ReFL run on tiny-sd or tiny-flow with tiny-imagereward, judged before and after by the oracle, which
it never sees.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imagereward_core.runs import EventKind, Name, RunDamaged, free_name, read_events, read_status, taken_names

from .demo import ORACLE
from .errors import SmallWorldError
from .evaluate import held_out_scenes
from .flow_pipeline import FLOW, MODELS, TINY_FLOW, assemble, draw_with
from .oracle import Oracle, Verdict, judge, summarise
from .pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, TINY_REWARD, TINY_SD
from .report import Entry, Section, write_html, write_png
from .world import Scene, sample_scene

if TYPE_CHECKING:
    from imagereward_core.scorers import Scorer

Say = Callable[[str], None]
SHOWN = 18
EVALUATION_SEED = 70_000
"""First seed of the judged pictures, far from every seed that trains."""


@dataclass(frozen=True)
class TeachConfig:
    """``pictures`` held-out captions with fixed seeds are drawn before and after. ``refl`` overrides settings of the
    run. model: "tiny-sd", or "tiny-flow", whose captions are of one object, as it hardly draws two, and
    whose weights are `flow`.
    """

    out: Path
    model: str = MODELS[0]
    flow: Path = TINY_FLOW
    updates: int = 40
    seed: int = 0
    pictures: int = 96
    prompts: int = 400
    reward: Path = TINY_REWARD
    refl: dict[str, Any] = field(default_factory=dict)

    @property
    def is_flow(self) -> bool:
        """Whether the model is a flow-matching one."""
        return self.model == FLOW

    @property
    def checkpoint(self) -> Path:
        """What is taught."""
        return self.out / FLOW if self.is_flow else TINY_SD

    @property
    def pair_share(self) -> float:
        """Share of captions with two objects."""
        return 0.0 if self.is_flow else 0.25


@dataclass(frozen=True)
class Judged:
    """A set of pictures with their rewards [N] and the oracle's verdict; ``right[i]`` says whether picture i is
    flawless.
    """

    pictures: list[Image.Image]
    rewards: np.ndarray
    right: np.ndarray
    verdict: Verdict


@dataclass(frozen=True)
class Outcome:
    """Before and after, on the same captions and seeds."""

    before: Judged
    after: Judged
    report: Path
    checkpoint: Path

    def table(self) -> list[str]:
        """The comparison as text, one measure per line."""
        rows = [("reward", float(self.before.rewards.mean()), float(self.after.rewards.mean()))]
        rows += [
            (name, value, self.after.verdict.accuracy[name]) for name, value in self.before.verdict.accuracy.items()
        ]
        rows += [
            ("every attribute", self.before.verdict.all_right, self.after.verdict.all_right),
            ("clutter", self.before.verdict.clutter, self.after.verdict.clutter),
        ]
        low, high = paired_interval(self.after.right.astype(float) - self.before.right.astype(float))
        lines = [f"{'':16} {'before':>8} {'after':>8}"] + [
            f"{name:16} {old:8.3f} {new:8.3f}" for name, old, new in rows
        ]
        return [
            *lines,
            f"change of 'every attribute': 95 % interval {low:+.3f} to {high:+.3f} ({len(self.after.right)} pictures)",
        ]


def paired_interval(differences: np.ndarray, *, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean of paired differences [N]."""
    rng = np.random.default_rng(seed)
    means = rng.choice(differences, size=(draws, len(differences)), replace=True).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def run_teach(config: TeachConfig, say: Say) -> Outcome:
    """Draw, train with ReFL in a process of its own, draw again, and write the report."""
    import imagereward_core

    config.out.mkdir(parents=True, exist_ok=True)
    scenes = held_out_scenes(config.pictures, EVALUATION_SEED, pair_share=config.pair_share)
    scorer = imagereward_core.load(str(config.reward), device="cpu")
    oracle = Oracle.load(ORACLE)
    if config.is_flow:
        assemble(config.checkpoint, config.flow)
    say(f"drawing {len(scenes)} held-out captions with {config.model} as it is")
    before = draw_and_judge(config.checkpoint, scenes, scorer, oracle)
    checkpoint = train_refl(config, say)
    say("drawing them again with the taught model")
    after = draw_and_judge(checkpoint, scenes, scorer, oracle)
    return Outcome(before, after, _write_report(config, scenes, before, after), checkpoint)


def draw_and_judge(checkpoint: Path, scenes: Sequence[Scene], scorer: Scorer, oracle: Oracle) -> Judged:
    """One picture per scene with fixed seeds, its reward and the oracle's reading. checkpoint: a file of tiny-sd, or an
    assembled folder of tiny-flow.
    """
    prompts, seeds = [scene.caption for scene in scenes], range(EVALUATION_SEED, EVALUATION_SEED + len(scenes))
    pictures = draw_with(checkpoint, prompts, seeds)
    readings = oracle.read(pictures)
    right = np.array(
        [min(judge(scene, reading).values()) == 1.0 for scene, reading in zip(scenes, readings, strict=True)]
    )
    return Judged(pictures, np.array(scorer.score_pairs(prompts, pictures)), right, summarise(scenes, readings))


def refl_settings(config: TeachConfig) -> dict[str, Any]:
    """The ReFL run's configuration: the tab's defaults, with the sizes of a 64-pixel model."""
    rng = np.random.default_rng([config.seed, 1])
    captions = (sample_scene(rng, pair_share=config.pair_share).caption for _ in range(config.prompts))
    prompts = list(dict.fromkeys(captions))
    return {
        "pretrained_model_name_or_path": str(config.checkpoint),
        "prompts": prompts,
        "rewards": [str(config.reward)],
        "resolution": 64,
        "num_inference_steps": DEFAULT_STEPS,
        "guidance_scale": DEFAULT_GUIDANCE,
        "min_step": 8,
        "max_step": 17,
        "learning_rate": 1e-3,
        "lora_rank": 16,
        "lora_targets": "attention+ff" if config.is_flow else "all",
        "train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "max_train_steps": config.updates,
        "gradient_checkpointing": False,
        "vae_checkpointing": False,
        "eval_steps": max(10, config.updates // 2),
        "held_out": 16,
        "checkpointing_steps": config.updates,
        "output_dir": str(config.out / "refl"),
        "output": "diffusers" if config.is_flow else "single-file",
        "output_name": free_name(f"{config.model}-taught", taken_names(config.out / "refl")),
        "device": "cpu",
        "seed": config.seed,
        **config.refl,
    }


def train_refl(config: TeachConfig, say: Say) -> Path:
    """Run ``python -m refl`` and return the taught checkpoint. Raises SmallWorldError with the end of its log if it
    fails.
    """
    settings = config.out / "refl.json"
    settings.write_text(json.dumps(refl_settings(config), indent=1) + "\n", encoding="utf-8")
    say(f"teaching: {config.updates} ReFL updates of 16 pictures")
    command = [sys.executable, "-m", "refl", "train", "--config", str(settings)]
    # The child must find the packages where this one does, installed or not.
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    log = config.out / "refl.log"
    folder = config.out / "refl"
    with (
        open(log, "wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        shown = 0
        while process.poll() is None:
            time.sleep(1)
            shown = _report_progress(folder / Name.EVENTS, shown, config.updates, say)
    # 3 is the stop rule: it ends a run early and still exports the best weights.
    result = _result(folder) if process.returncode in (0, 3) else None
    if result is None:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise SmallWorldError("the ReFL run failed; the end of its log:\n" + "\n".join(tail))
    return result


def _result(folder: Path) -> Path | None:
    """The file or folder that the run in this folder says it wrote; its name differs where an earlier one exists."""
    try:
        status = read_status(folder)
    except RunDamaged as error:
        raise SmallWorldError(f"the ReFL run ended, but {error}") from error
    return Path(status.result) if status and status.result and Path(status.result).exists() else None


def _report_progress(events: Path, shown: int, updates: int, say: Say, every: int = 5) -> int:
    """Say how far the run is, once per ``every`` updates; returns the last update that was said."""
    steps = [event for event in read_events(events) if event["type"] == EventKind.STEP and "reward" in event]
    steps = [event for event in steps if event["step"] >= shown + every]
    if not steps:
        return shown
    last = steps[-1]
    seconds = (updates - last["step"]) * last["seconds_per_update"]
    say(f"  update {last['step']} of {updates}, reward {last['reward']:+.2f}, about {seconds:.0f} s left")
    return int(last["step"])


def _write_report(config: TeachConfig, scenes: Sequence[Scene], before: Judged, after: Judged) -> Path:
    sections = []
    for name, judged in (("before", before), ("after", after)):
        folder = config.out / name
        folder.mkdir(exist_ok=True)
        entries = []
        for index, (scene, picture) in enumerate(zip(scenes[:SHOWN], judged.pictures, strict=False)):
            path = folder / f"{index:03d}.png"
            picture.save(path)
            entries.append(
                Entry(
                    path,
                    scene.caption,
                    float(judged.rewards[index]),
                    "all right" if judged.right[index] else "not all right",
                )
            )
        sections.append(Section(name.capitalize(), tuple(entries)))
    report = config.out / "report.html"
    outcome = Outcome(before, after, report, config.out)
    (config.out / "result.json").write_text(
        json.dumps(
            {
                name: {"reward": float(j.rewards.mean()), **dataclasses.asdict(j.verdict)}
                for name, j in (("before", before), ("after", after))
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    facts = [(line[:16].strip() or "measure", line[16:].strip()) for line in outcome.table()[:-1]]
    write_html(report, "Taught with ReFL", [*facts, ("95 % interval", outcome.table()[-1])], sections)
    write_png(config.out / "report.png", sections)
    return report
