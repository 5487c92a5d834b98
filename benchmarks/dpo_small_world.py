"""Diffusion-DPO on the small world: does a model follow picks, and only picks that mean something?

    python benchmarks/dpo_small_world.py --out docs/refl
    python benchmarks/dpo_small_world.py --model tiny-flow --captions 25 --out docs/refl

A simulated user likes large subjects and chooses, not always rightly (Bradley-Terry), between pictures that the model
draws of captions that say nothing of size. `python -m refl train --algorithm dpo` learns from these picks. Two controls
learn from the same pairs: with the winner dealt by a coin, and with every pair in both directions, so that nothing in
the picks can tell large from small and what is measured then is training itself. The oracle, which no training has
seen, measures area and attributes on held-out captions with fixed seeds, before and after. What picks are worth is the
change of area minus the controls', over training seeds. Runs that the file holds already are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.over_seeds import over_seeds  # noqa: E402
from refl import ReFLConfig, Trainer  # noqa: E402
from refl.trainer import RunResult  # noqa: E402
from smallworld.demo import ORACLE  # noqa: E402
from smallworld.flow_pipeline import FLOW, MODELS, assemble, draw_with  # noqa: E402
from smallworld.oracle import Oracle, judge  # noqa: E402
from smallworld.pipeline import TINY_SD  # noqa: E402
from smallworld.teach import paired_interval  # noqa: E402
from smallworld.world import Scene, single_scenes  # noqa: E402

PICKS, CONTROL, BOTH = "picks", "shuffled picks", "both ways"
KINDS = (PICKS, CONTROL, BOTH)
EACH = 8  # pictures of a caption
TEMPERATURE = 0.02  # in shares of the picture: how large a difference the user sees
FIRST_SEED, JUDGED_SEED = 1_000, 90_000
STEPS, GUIDANCE = 12, 4.0
MEASURES = ("area", "every attribute right", "clutter")  # as a Reader returns them


def scenes(count: int, *, held_out: bool) -> list[Scene]:
    """Captions of one thing whose size is not told."""
    found = [scene for scene in single_scenes(held_out=held_out) if scene.things[0].size is None]
    order = np.random.default_rng(5).permutation(len(found))
    return [found[index] for index in order[:count]]


class Reader:
    """What the oracle sees."""

    def __init__(self) -> None:
        self.oracle = Oracle.load(ORACLE)

    def __call__(self, shown: list[Scene], pictures: list[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(area of the subject as a share of the picture, whether every attribute is right, clutter), each [N]."""
        readings = self.oracle.read(pictures)
        size = pictures[0].width * pictures[0].height
        area = np.array([reading.things[0].area / size if reading.things else 0.0 for reading in readings])
        right = [min(judge(scene, reading).values()) == 1.0 for scene, reading in zip(shown, readings, strict=True)]
        return area, np.array(right, float), np.array([reading.clutter for reading in readings])


def draw(checkpoint: Path, shown: list[Scene], first: int) -> list[Image.Image]:
    """One picture a scene, with seeds from `first` on."""
    prompts, seeds = [scene.caption for scene in shown], range(first, first + len(shown))
    return draw_with(checkpoint, prompts, seeds, steps=STEPS, guidance=GUIDANCE)


def write_picks(
    model: Path, folder: Path, captions: int, seed: int, read: Reader
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """For each kind of run its picks, and what they say of size: the share in which the larger one won, and by how much
    of the picture winners are larger than losers.
    """
    shown = [scene for scene in scenes(captions, held_out=False) for _ in range(EACH)]
    paths = [folder / f"{index:04d}.png" for index in range(len(shown))]
    if not paths[-1].is_file():
        for path, picture in zip(paths, draw(model, shown, FIRST_SEED), strict=True):
            picture.save(path)
    area = read(shown, [Image.open(path).convert("RGB") for path in paths])[0]
    rng = np.random.default_rng([seed, 2])
    duels: dict[str, list[tuple[int, int]]] = {name: [] for name in KINDS}
    for first in range(0, len(shown), 2):
        pair = (first, first + 1)
        chance = 1 / (1 + np.exp((area[pair[1]] - area[pair[0]]) / TEMPERATURE))
        duels[PICKS].append(pair if rng.random() < chance else pair[::-1])
        duels[CONTROL].append(pair if rng.random() < 0.5 else pair[::-1])
        duels[BOTH] += [pair, pair[::-1]]
    found = {}
    for name, pairs in duels.items():
        file = folder / f"{name.replace(' ', '-')}-{seed}.jsonl"
        lines = (
            json.dumps({"winner": paths[winner].name, "loser": paths[loser].name, "prompt": shown[winner].caption})
            for winner, loser in pairs
        )
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        larger = np.array([area[winner] - area[loser] for winner, loser in pairs])
        facts = {"larger one won": float((larger >= 0).mean()), "winners larger by": float(larger.mean())}
        found[name] = (file, facts)
    return found


def settings(model: Path, picks: Path, seed: int, updates: int, out: Path) -> ReFLConfig:
    return ReFLConfig(
        pretrained_model_name_or_path=str(model),
        algorithm="dpo",
        picks=str(picks),
        dpo_beta=500.0,
        resolution=64,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        learning_rate=1e-3,
        lora_rank=16,
        lora_targets="attention",
        train_batch_size=8,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        vae_checkpointing=False,
        max_train_steps=updates,
        eval_steps=updates // 4,
        eval_seeds=2,
        held_out=8,
        checkpointing_steps=updates // 4,
        stop_rule="off",
        judges=["none"],
        output="diffusers" if model.is_dir() else "single-file",
        seed=seed,
        device="cpu",
        output_dir=str(out),
    )


def compare(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Means, and the paired change with its interval over captions."""
    change = (after - before).reshape(-1, EACH).mean(axis=1)
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "change": float(change.mean()),
        "change 95 %": list(paired_interval(change)),
        "relative": float(change.mean() / before.mean()),
    }


def less_controls(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By how much the area, as a share of the base's, changes over the training seeds of a kind, and by how much more
    with picks than with each control and with both. Intervals (95 %, Welch's t) are over seeds: what the held-out
    captions have in common drops out of a difference, while each deal of noise and each training goes its own way.
    """
    of = {name: np.array([run["area"]["relative"] for run in runs if run["name"] == name]) for name in KINDS}
    groups = {**of, "either control": np.concatenate([of[CONTROL], of[BOTH]])}
    found: dict[str, Any] = {}
    for name, values in of.items():
        if len(values) > 1:
            found[name] = over_seeds(values)
    for name in (CONTROL, BOTH, "either control"):
        if min(len(of[PICKS]), len(groups[name])) > 1:
            found[f"{PICKS} minus {name}"] = over_seeds(of[PICKS], groups[name])
    return found


def arguments(updates: int, kinds: Sequence[str], captions: str) -> argparse.ArgumentParser:
    """What every comparison on the same user can be told; `captions` says what is made of the training captions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--captions", type=int, default=50, help=f"training captions, {captions}")
    parser.add_argument("--judged", type=int, default=15, help="held-out captions, EACH pictures of each")
    parser.add_argument("--updates", type=int, default=updates)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=kinds, nargs="+", default=kinds, help="runs of these kinds")
    parser.add_argument("--work", type=Path, help="folder for pictures and runs; default one that is removed")
    parser.add_argument("--out", type=Path, required=True)
    return parser


class Judged:
    """The held-out captions, drawn by a model before and after its training and read by the oracle."""

    def __init__(self, model: Path, captions: int, read: Reader):
        self.read = read
        self.scenes = [scene for scene in scenes(captions, held_out=True) for _ in range(EACH)]
        self.before = read(self.scenes, draw(model, self.scenes, JUDGED_SEED))

    def run(self, trainer: Trainer) -> tuple[RunResult, dict[str, Any]]:
        """Train, and measure what was exported."""
        started = time.process_time()
        result = trainer.train()
        seconds = time.process_time() - started
        if result.exported is None:
            raise SystemExit(f"{trainer.asked.output_dir} left no result: {result.reason}")
        after = self.read(self.scenes, draw(result.exported, self.scenes, JUDGED_SEED))
        changes = {key: compare(b, a) for key, b, a in zip(MEASURES, self.before, after, strict=True)}
        evaluations = [item.summary() for item in result.evaluations]
        return result, {"seconds of CPU": round(seconds, 1), "evaluations": evaluations, **changes}


class Runs:
    """The file of a comparison. Runs that it holds are kept, by kind and seed."""

    def __init__(self, target: Path, kinds: Sequence[str]):
        self.target, self.kinds = target, list(kinds)
        self.rows = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []

    def __contains__(self, run: tuple[str, int]) -> bool:
        return run in {(row["name"], row["seed"]) for row in self.rows}

    def keep(self, run: dict[str, Any], over: Callable[[list[dict[str, Any]]], Any], **shared: Any) -> None:
        """Write one more, with what all of them say over their seeds and what they share."""
        self.rows = sorted([*self.rows, run], key=lambda row: (self.kinds.index(row["name"]), row["seed"]))
        document = {
            "machine": f"{platform.machine()}, one thread",
            "python": platform.python_version(),
            "torch": torch.__version__,
            **shared,
            "area over all seeds": over(self.rows),
            "runs": self.rows,
        }
        self.target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = arguments(120, KINDS, "half of EACH picks of each")
    parser.description = __doc__
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    flow = args.model == FLOW
    runs = Runs(args.out / ("dpo_tiny_flow.json" if flow else "dpo_small_world.json"), KINDS)
    read = Reader()
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        model = assemble(work / FLOW) if flow else TINY_SD
        judged = Judged(model, args.judged, read)
        for seed in args.seeds:
            for name, (picks, facts) in write_picks(model, work, args.captions, seed, read).items():
                if (name, seed) in runs or name not in args.only:
                    continue
                asked = settings(model, picks, seed, args.updates, work / f"{name.replace(' ', '-')}-{seed}")
                _, found = judged.run(Trainer(args=asked))
                run = {"name": name, "seed": seed, **facts, **found}
                runs.keep(
                    run,
                    less_controls,
                    settings=asked.shareable(),
                    picks=args.captions * EACH // 2,
                    judged=[args.judged, EACH],
                )
                print(row(run), flush=True)


def row(run: dict[str, Any], learnt_from: str = "") -> str:
    """A run as a row of a table in docs/findings.md, where what it has none of is a dash. In the second column stands
    by how much its winners are larger, or what it learnt from.
    """
    larger, foretold = run.get("winners larger by"), foretells(run)
    cells = [f"{run['name']}, seed {run['seed']}", learnt_from or ("–" if larger is None else f"{larger:+.2%}")]
    for key, digits, scale in (("area", 4, run["area"]["before"]), ("every attribute right", 3, 1.0)):
        found = run[key]
        low, high = (value / scale for value in found["change 95 %"])
        cells += [
            f"{found['before']:.{digits}f} → {found['after']:.{digits}f}",
            f"{found['change'] / scale:+.1%} ({low:+.1%} to {high:+.1%})",
        ]
    cells.append("–" if foretold is None else f"{foretold:.0%}")
    return f"| {' | '.join(cells)} |".replace("-", "−").replace("%", " %")


def foretells(run: dict[str, Any]) -> float | None:
    """The share of held-out picks that come true; None for a run that knows of no picks."""
    if "foretells" in run:
        return run["foretells"]
    shares = [item["pick_accuracy"] for item in run["evaluations"]]
    return None if None in shares else max(shares)


def over_row(name: str, found: dict[str, Any]) -> str:
    """A line of :func:`less_controls` as a row of the table there."""
    low, high = found["change 95 %"]
    seeds = " and ".join(map(str, found["seeds"]))
    return f"| {name} | {seeds} | {found['change']:+.1%} ({low:+.1%} to {high:+.1%}) |".replace("-", "−").replace(
        "%", " %"
    )


if __name__ == "__main__":
    main()
