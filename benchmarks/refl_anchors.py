"""What holds a model near its base, compared: the anchors kl, samples and pretrain, none, and early steps by the base.

    python benchmarks/refl_anchors.py --out docs/refl

Each run follows tiny-imagereward from tiny-sd. What is measured are the same held-out captions and seeds before and
after: the reward, the oracle's share of right attributes and of pictures with every attribute right, clutter, and the
distance between pictures of one caption. A run whose early steps the base made in training is measured twice: drawn by
the trained model alone, as users draw, and drawn in the same mixed way (ImageReFL's). Runs that the file holds already
are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
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

from benchmarks import refl_inflation  # noqa: E402
from benchmarks.over_seeds import over_seeds  # noqa: E402
from benchmarks.refl_small_world import Cleanliness  # noqa: E402
from refl import ReFLConfig, Trainer  # noqa: E402
from refl.metrics import MIXED, diversity  # noqa: E402
from refl.rewards import load_rewards  # noqa: E402
from smallworld.dataset import captioned_pictures  # noqa: E402
from smallworld.demo import ORACLE, TINY_REWARD  # noqa: E402
from smallworld.oracle import Oracle, judge  # noqa: E402
from smallworld.teach import paired_interval  # noqa: E402
from smallworld.world import parse_caption  # noqa: E402

CAPTIONS, SEEDS = 24, 2
PICTURES = 400  # of the generator's own training data, for the anchor pretrain
STEPS = {"num_inference_steps": 10, "min_step": 4, "max_step": 8}  # half of refl_inflation's
BASE_STEPS = 4  # all before the gradient
KL, NONE, EARLY, MIXED_DRAWING = "kl", "none", "early steps by the base", "early steps by the base, drawn so too"
RUNS: dict[str, dict[str, Any]] = {
    KL: {"anchor": "kl"},
    "samples": {"anchor": "samples"},
    "pretrain": {"anchor": "pretrain"},
    EARLY: {"anchor": "none", "base_steps": BASE_STEPS},
    NONE: {"anchor": "none"},
}


class Seen:
    """A judge of the oracle's: whether every attribute of the caption is right, or which share of them."""

    def __init__(self, oracle: Oracle, name: str, every: bool):
        self.oracle, self.name, self.every = oracle, name, every

    def differentiable(self, prompts: Sequence[str], images: torch.Tensor) -> torch.Tensor:
        pictures = [
            Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()) for image in images
        ]
        found = []
        for prompt, reading in zip(prompts, self.oracle.read(pictures), strict=True):
            values = list(judge(parse_caption(prompt), reading).values())
            found.append(float(min(values) == 1.0) if self.every else float(np.mean(values)))
        return torch.tensor(found)

    def to(self, device: Any) -> Seen:
        return self


class Spread:
    """A judge of each picture's distance to the others of its caption, as refl.metrics.diversity; batches hold whole
    captions.
    """

    name = "diversity"

    def differentiable(self, prompts: Sequence[str], images: torch.Tensor) -> torch.Tensor:
        rows = images.split(SEEDS)
        return torch.tensor([diversity(row, SEEDS) for row in rows for _ in range(SEEDS)])

    def to(self, device: Any) -> Spread:
        return self


def write_pictures(folder: Path) -> Path:
    """The generator's own training data, as files with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = captioned_pictures(PICTURES, seed=4_242)
    for number, (pixels, caption) in enumerate(zip(data.pictures, data.captions, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(caption, encoding="utf-8")
    return folder


def settings(changes: dict[str, Any], seed: int, updates: int, pictures: Path, out: Path) -> ReFLConfig:
    """The run of refl_inflation in half the denoising steps, evaluated at its end on more captions."""
    data = {"anchor_data": str(pictures)} if changes.get("anchor") == "pretrain" else {}
    return dataclasses.replace(
        refl_inflation.settings(seed, updates, out),
        eval_steps=updates,
        held_out=CAPTIONS,
        eval_seeds=SEEDS,
        **{**STEPS, **changes, **data},
    )


def compare(before: dict[str, list[float]], after: dict[str, list[float]]) -> dict[str, Any]:
    """For each measure the means and the paired change with its interval over captions."""
    found = {}
    for name in before:
        if name == str(TINY_REWARD):
            continue
        old, new = (np.array(scores[name]).reshape(-1, SEEDS).mean(axis=1) for scores in (before, after))
        found["reward" if name == MIXED else name] = {
            "before": float(old.mean()),
            "after": float(new.mean()),
            "change": float((new - old).mean()),
            "change 95 %": list(paired_interval(new - old)),
        }
    return found


def watching(oracle: Oracle) -> list[Any]:
    """The judges of a run: what no run is trained on."""
    return [
        Seen(oracle, "attributes right", every=False),
        Seen(oracle, "every attribute right", every=True),
        Cleanliness(),
        Spread(),
    ]


def measured(name: str, config: ReFLConfig, oracle: Oracle) -> list[dict[str, Any]]:
    """One run, as one or two rows."""
    seed = config.seed
    started = time.process_time()
    trainer = Trainer(args=config, rewards=load_rewards([str(TINY_REWARD)], "cpu"), judges=watching(oracle))
    result = trainer.train()
    seconds = round(time.process_time() - started, 1)
    base, last = trainer.base, result.evaluations[-1]
    of_base = [name for name in base.scores if name == MIXED or name in base.judges]
    before = {name: base.scores[name] for name in of_base}
    rows = [{"name": name, "seed": seed, "seconds of CPU": seconds, **compare(before, last.scores)}]
    if name == EARLY:
        evaluator = trainer.evaluator
        evaluator.rollout.base_steps, evaluator.rollout.base_model = BASE_STEPS, trainer.engine.base_model
        with trainer.engine.averaged():
            images, _ = evaluator.draw()
            scores = evaluator.evaluate(last.step, images, evaluator.score(images)).scores
        rows.append({"name": MIXED_DRAWING, "seed": seed, **compare(before, scores)})
    return rows


MEASURES = (("reward", 2), ("attributes right", 3), ("every attribute right", 3), ("cleanliness", 4), ("diversity", 4))


def row(run: dict[str, Any]) -> str:
    """A run as a row of the table in docs/findings.md: the change of each measure with its interval."""
    cells = [f"{run['name']}, seed {run['seed']}" if "seed" in run else run["name"]]
    for name, digits in MEASURES:
        low, high = run[name]["change 95 %"]
        told = f"{run[name]['change']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
        cells.append(told.replace("-", "−"))
    return f"| {' | '.join(cells)} |"


def less_first(rows: list[dict[str, Any]], first: str) -> dict[str, dict[str, Any]]:
    """For each kind of run but `first` and each measure: its change less that of `first` with the same training seed,
    with its interval over seeds.
    """
    of = {(one["name"], one["seed"]): one for one in rows}
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(one["name"] for one in rows if one["name"] != first):
        seeds = [seed for kind, seed in of if kind == name and (first, seed) in of]
        if len(seeds) > 1:
            found[name] = {
                measure: over_seeds(
                    [of[name, seed][measure]["change"] - of[first, seed][measure]["change"] for seed in seeds]
                )
                for measure, _ in MEASURES
            }
    return found


def less_row(name: str, first: str, found: dict[str, Any]) -> str:
    """A kind of run less the first one as a row of a table in docs/findings.md."""
    return row({"name": f"{name} less {first}", **found})


def compared(runs: dict[str, dict[str, Any]], target: Path, seeds: Sequence[int], updates: int) -> None:
    """Every run by every seed that the file does not hold yet, each written down as it ends."""
    rows: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []
    done = {(one["name"], one["seed"]) for one in rows}
    oracle = Oracle.load(ORACLE)
    with tempfile.TemporaryDirectory() as work:
        pictures = write_pictures(Path(work) / "pictures")
        shared = settings({}, 0, updates, pictures, Path(work))
        for seed in seeds:
            for number, (name, changes) in enumerate(runs.items()):
                if (name, seed) in done:
                    continue
                config = settings(changes, seed, updates, pictures, Path(work) / f"run-{number}-{seed}")
                fresh = measured(name, config, oracle)
                rows += fresh
                document = {
                    "machine": f"{platform.machine()}, one thread",
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "settings": {**shared.shareable(), "prompts": len(shared.prompts)},
                    "changes": runs,
                    "less the first, over all seeds": less_first(rows, next(iter(runs))),
                    "runs": rows,
                }
                target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                for one in fresh:
                    print(row(one), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=tuple(RUNS), help="runs of one kind")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = RUNS if args.only is None else {args.only: RUNS[args.only]}
    compared(runs, args.out / "refl_anchors.json", args.seeds, args.updates)


if __name__ == "__main__":
    main()
