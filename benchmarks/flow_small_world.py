"""ReFL on tiny-flow, the small world's flow-matching model: three training seeds and a control, judged by the oracle.

    python benchmarks/flow_small_world.py --out docs/refl

Each run is `python -m refl train` as `smallworld teach --model tiny-flow` starts it, with the stop rule on but for the
length of the output, which is only recorded. Measured are the 45 held-out captions of one object with five fixed seeds
each, before and after: reward, every attribute right, size where the caption names one, clutter; intervals (95 %) are
bootstrapped over the held-out combinations of shape, colour and background. The control follows the reward model's
encoders under a head of random numbers, standardised on the base's pictures: it prefers something, but nothing that
anybody meant. Runs that the file holds already are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import imagereward_core  # noqa: E402
from benchmarks.smallworld_proof import Run, refl_evaluations  # noqa: E402
from imagereward_core.hashing import file_digest  # noqa: E402
from imagereward_core.runs import read_status  # noqa: E402
from smallworld.demo import ORACLE  # noqa: E402
from smallworld.evaluate import SEEDS, interval_over  # noqa: E402
from smallworld.flow_pipeline import FLOW, TINY_FLOW, assemble, draw_with  # noqa: E402
from smallworld.oracle import Oracle, judge  # noqa: E402
from smallworld.pipeline import TINY_REWARD  # noqa: E402
from smallworld.teach import EVALUATION_SEED, TeachConfig, train_refl  # noqa: E402
from smallworld.train_reward import random_head  # noqa: E402
from smallworld.world import Scene, single_scenes  # noqa: E402

SOUND, CONTROL = "refl+", "control"
MAX_INFLATION = 2.0  # only recorded: the limit of flow-matching models is read from these runs
MEASURES = ("reward", "every attribute right", "size", "clutter")


def combination(scene: Scene) -> tuple[str, str, str]:
    """What is held out together."""
    return scene.background, scene.things[0].colour, scene.things[0].shape


class Measure:
    """The same captions and seeds each time."""

    def __init__(self, base: Path) -> None:
        self.scenes = [scene for scene in single_scenes(held_out=True) for _ in range(SEEDS)]
        self.prompts = [scene.caption for scene in self.scenes]
        self.oracle, self.base = Oracle.load(ORACLE), self.draw(base)

    def draw(self, checkpoint: Path) -> list[Image.Image]:
        """A picture of each caption and seed."""
        return draw_with(checkpoint, self.prompts, range(EVALUATION_SEED, EVALUATION_SEED + len(self.prompts)))

    def score(self, reward: Path, pictures: list[Image.Image]) -> np.ndarray:
        """[N] rewards."""
        return np.array(imagereward_core.load(str(reward), device="cpu").score_pairs(self.prompts, pictures))

    def __call__(self, reward: Path, pictures: list[Image.Image]) -> dict[str, np.ndarray]:
        """[N] of each measure; size is NaN where the caption names none."""
        readings = self.oracle.read(pictures)
        judged = [judge(scene, reading) for scene, reading in zip(self.scenes, readings, strict=True)]
        values = (
            self.score(reward, pictures),
            [min(item.values()) == 1.0 for item in judged],
            [item.get("size", np.nan) for item in judged],
            [reading.clutter for reading in readings],
        )
        return {name: np.array(value, float) for name, value in zip(MEASURES, values, strict=True)}

    def by_combination(self, values: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Means of each measure in each held-out combination, of which all have as many pictures."""
        groups = np.unique([" ".join(combination(scene)) for scene in self.scenes], return_inverse=True)[1]
        return {
            name: [round(float(np.nanmean(values[name][groups == group])), 5) for group in range(groups.max() + 1)]
            for name in MEASURES
        }


def compare(before: dict[str, list[float]], afters: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """Means before and after, the latter over training seeds, and the change's interval over combinations."""
    found = {}
    for name in MEASURES:
        old, new = np.array(before[name]), np.mean([values[name] for values in afters], axis=0)
        found[name] = {
            "before": float(old.mean()),
            "after": float(new.mean()),
            "change 95 %": interval_over(new - old, range(len(old))),
        }
    return found


def row(name: str, found: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> str:
    """A row of the table in docs/findings.md: each measure before and after with its change's interval, and diversity
    and flow loss of the run's last evaluation over its first.
    """
    cells = [name]
    for measure, scale, digits, unit in (("reward", 1, 2, ""), *((key, 100, 1, " %") for key in MEASURES[1:])):
        values = found[measure]
        digits += measure == "clutter"
        low, high = (scale * value for value in values["change 95 %"])
        means = f"{scale * values['before']:.{digits}f} → {scale * values['after']:.{digits}f}{unit}"
        cells.append(f"{means} ({low:+.{digits}f} to {high:+.{digits}f})".replace("-", "−"))
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        cells += [f"{last[key] / first[key]:.2f} ×" for key in ("diversity", "eps_mse")]
    else:
        cells += ["", ""]
    return f"| {' | '.join(cells)} |"


def random_reward(target: Path, measure: Measure, seed: int = 909) -> Path:
    """The control's reward, of mean 0 and standard deviation 1 on the base's pictures."""
    random_head(TINY_REWARD, target, seed=seed)
    raw = measure.score(target, measure.base)
    random_head(TINY_REWARD, target, seed=seed, mean=float(raw.mean()), std=float(raw.std()))
    return target


def teach(run: Run, updates: int, work: Path) -> tuple[Path, dict[str, Any]]:
    """(the run's result, what it says of itself)."""
    out = work / run.folder
    config = TeachConfig(
        out=out,
        model=FLOW,
        updates=updates,
        seed=run.seed,
        reward=run.reward,
        refl={
            "dial": False,
            "judges": ["none"],
            "eval_steps": max(1, updates // 3),
            "max_inflation": MAX_INFLATION,
        },
    )
    out.mkdir(parents=True, exist_ok=True)
    assemble(config.checkpoint)
    started = time.monotonic()
    result = train_refl(config, lambda line: print(f"{run.name} {run.seed}: {line}", flush=True))
    status = read_status(out / "refl")
    return result, {
        "state": str(status.state) if status else None,
        "message": status.message if status else None,
        "seconds": round(time.monotonic() - started, 1),
        "evaluations": refl_evaluations(out),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="folder for the runs, which then go on; default one that is removed")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = args.out / "refl_tiny_flow.json"
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, one thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tiny-flow": file_digest(TINY_FLOW)[:10],
        "updates": args.updates,
    }
    runs: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []
    done = {(run["name"], run["seed"]) for run in runs}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        measure = Measure(assemble(work / FLOW))
        for name, reward, seeds in (
            (SOUND, lambda: TINY_REWARD, args.seeds),
            (CONTROL, lambda: random_reward(work / "random-head.safetensors", measure), args.seeds[:1]),
        ):
            for seed in seeds:
                if (name, seed) in done:
                    continue
                run = Run(name, seed, reward())
                checkpoint, facts = teach(run, args.updates, work)
                shown = (measure.base, measure.draw(checkpoint))
                before, after = (measure.by_combination(measure(run.reward, pictures)) for pictures in shown)
                kept = {"before": before, "after": after}
                runs.append({"name": name, "seed": seed, **facts, **compare(before, [after]), "combinations": kept})
                parts = [run["combinations"] for run in runs if run["name"] == SOUND]
                pooled = compare(parts[0]["before"], [part["after"] for part in parts])
                found = {**document, "over the seeds": {"seeds": len(parts), **pooled}, "runs": runs}
                target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(row(f"{name}, seed {seed}", runs[-1], runs[-1]["evaluations"]), flush=True)
        if found:
            print(row("over the seeds", found["over the seeds"], []), flush=True)


if __name__ == "__main__":
    main()
