"""Does the reward model help? Best-of-four and ReFL on tiny-sd, judged by the oracle, which neither has ever seen.

    python benchmarks/smallworld_proof.py --out docs/smallworld

Captions are held out, seeds are fixed, intervals are bootstrapped over captions or pictures (95 %). The negative
control is a reward model trained on rankings dealt at random, made here from the shipped one's encoders. Writes
results.json, results.md and a before/after sheet. --seeds and --pictures make it shorter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import imagereward_core  # noqa: E402
from imagereward_core.hashing import file_digest  # noqa: E402
from smallworld.demo import ORACLE  # noqa: E402
from smallworld.evaluate import held_out_scenes  # noqa: E402
from smallworld.oracle import Oracle, judge  # noqa: E402
from smallworld.pipeline import TINY_REWARD, TINY_SD, generate, load_pipeline  # noqa: E402
from smallworld.report import Entry, Section, write_png  # noqa: E402
from smallworld.teach import (  # noqa: E402
    EVALUATION_SEED,
    Judged,
    TeachConfig,
    draw_and_judge,
    paired_interval,
    read_events,
    train_refl,
)
from smallworld.train_reward import RewardTraining, pair_accuracy, train_control  # noqa: E402

CANDIDATES = 4
CONTROL = RewardTraining(items=600, valid_items=100, updates=300, seed=909)


def best_of_four(captions: int, seed: int) -> dict[str, Any]:
    """The picture that the reward picks of four against a random one (the mean of the four), per held-out caption; and
    the oracle's own pick, which is the most that picking can give.
    """
    scenes = [scene for scene in held_out_scenes(captions, seed) for _ in range(CANDIDATES)]
    prompts = [scene.caption for scene in scenes]
    pictures = generate(load_pipeline(), prompts, range(seed, seed + len(scenes)))
    scores = np.array(imagereward_core.load(str(TINY_REWARD), device="cpu").score_pairs(prompts, pictures)).reshape(
        -1, CANDIDATES
    )
    judged = [
        list(judge(scene, reading).values()) for scene, reading in zip(scenes, Oracle.load(ORACLE).read(pictures))
    ]
    rows = np.arange(captions)
    result: dict[str, Any] = {"captions": captions}
    measures = {
        "every attribute right": np.array([min(values) == 1.0 for values in judged], float),
        "share of attributes right": np.array([np.mean(values) for values in judged]),
    }
    for name, values in measures.items():
        values = values.reshape(-1, CANDIDATES)
        gain = values[rows, scores.argmax(axis=1)] - values.mean(axis=1)
        result[name] = {
            "random": float(values.mean()),
            "picked": float(values[rows, scores.argmax(axis=1)].mean()),
            "lowest scored": float(values[rows, scores.argmin(axis=1)].mean()),
            "picked by the oracle": float(values.max(axis=1).mean()),
            "gain": float(gain.mean()),
            "gain 95 %": list(paired_interval(gain)),
        }
    return result


def compare(before: Judged, after: Judged) -> dict[str, Any]:
    """Change of one set of pictures, paired by caption and seed."""
    low, high = paired_interval(after.right.astype(float) - before.right.astype(float))
    return {
        "reward": [float(before.rewards.mean()), float(after.rewards.mean())],
        "every attribute right": [before.verdict.all_right, after.verdict.all_right],
        "change 95 %": [low, high],
        "clutter": [before.verdict.clutter, after.verdict.clutter],
        "accuracy": {name: [value, after.verdict.accuracy[name]] for name, value in before.verdict.accuracy.items()},
    }


def pooled_change(right: np.ndarray, reward: np.ndarray) -> dict[str, Any]:
    """Changes [N] per picture, averaged over the training seeds, as means with intervals over pictures."""
    return {
        "change": float(right.mean()),
        "change 95 %": list(paired_interval(right)),
        "reward": float(reward.mean()),
        "reward 95 %": list(paired_interval(reward)),
    }


def refl_evaluations(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The trainer's own evaluations: step, reward, diversity, denoising error, length of the output."""
    events = read_events(folder / "refl" / "events.jsonl")
    found = [event for event in events if "eps_mse" in event]
    return [
        {key: event[key] for key in ("step", "reward", "diversity", "eps_mse", "inflation", "verdict") if key in event}
        for event in found
    ]


@dataclasses.dataclass(frozen=True)
class Run:
    """One ReFL run: what it is called, its seed, the reward it follows."""

    name: str
    seed: int
    reward: pathlib.Path

    @property
    def folder(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.seed}"


def teach(run: Run, updates: int, work: pathlib.Path) -> pathlib.Path:
    """The checkpoint of a run: trained, or found finished in ``work``. Runs are processes of their own, so several can
    go side by side.
    """
    out = work / run.folder
    config = TeachConfig(out=out, updates=updates, seed=run.seed, reward=run.reward)
    finished = out / "refl" / "tiny-sd-taught.safetensors"
    if finished.is_file():
        return finished
    out.mkdir(parents=True, exist_ok=True)
    return train_refl(config, lambda line: print(f"{run.name} {run.seed}: {line}", flush=True))


def negative_control(folder: pathlib.Path) -> pathlib.Path:
    """A reward model trained on rankings dealt at random: made, or found finished in ``folder``."""
    found = folder / "tiny-imagereward.safetensors"
    if not found.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train_control(CONTROL, TINY_REWARD, folder, _progress)
    return found


def sheet(
    path: pathlib.Path, scenes: list[Any], before: Judged, after: Judged, work: pathlib.Path, shown: int = 12
) -> None:
    """Before above after, the first captions in order, not chosen."""
    sections = []
    for name, judged in (("Before ReFL", before), ("After ReFL", after)):
        folder = work / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        entries = []
        for index in range(shown):
            judged.pictures[index].save(folder / f"{index}.png")
            entries.append(Entry(folder / f"{index}.png", scenes[index].caption, float(judged.rewards[index])))
        sections.append(Section(name, tuple(entries)))
    write_png(path, sections)


def markdown(result: dict[str, Any]) -> str:
    """The tables of results.md."""
    best = result["best of four"]
    lines = [
        "# Does the reward model help? Measured on the small world",
        "",
        (
            "Made by `python benchmarks/smallworld_proof.py`; the judge is the oracle, which no training has seen. All"
            " captions are held out."
        ),
        "",
        "## Best of four",
        "",
        f"{best['captions']} captions, four pictures each.",
        "",
        (
            "| | random pick | picked by the reward | lowest scored | picked by the oracle itself | gain of the"
            " reward's pick (95 % interval) |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for name, row in best.items():
        if name != "captions":
            low, high = row["gain 95 %"]
            lines.append(
                f"| {name} | {row['random']:.3f} | {row['picked']:.3f} | {row['lowest scored']:.3f} |"
                f" {row['picked by the oracle']:.3f} | {row['gain']:+.3f} ({low:+.3f} to {high:+.3f}) |"
            )
    lines.append("")
    return "\n".join(lines + (refl_tables(result) if "pooled" in result else [])) + "\n"


def refl_tables(result: dict[str, Any]) -> list[str]:
    """One row per run, then accuracy per attribute."""
    lines = [
        "## ReFL",
        "",
        (
            f"{result['updates']} updates of 16 pictures per run; {result['pictures']} held-out pictures with fixed"
            " seeds before and after."
        ),
        "",
        (
            "| run | reward | every attribute right | change (95 % interval) | clutter, % of pixels | diversity |"
            " denoising error |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for run in result["refl"] + result["shuffled"]:
        low, high = run["change 95 %"]
        change = run["every attribute right"][1] - run["every attribute right"][0]
        first, last = run["evaluations"][0], run["evaluations"][-1]
        lines.append(
            f"| {run['name']} {run['seed']} | {run['reward'][0]:+.3f} → {run['reward'][1]:+.3f} |"
            f" {run['every attribute right'][0]:.3f} → {run['every attribute right'][1]:.3f} | {change:+.3f}"
            f" ({low:+.3f} to {high:+.3f}) | {100 * run['clutter'][0]:.2f} → {100 * run['clutter'][1]:.2f} |"
            f" {first['diversity']:.3f} → {last['diversity']:.3f} | {first['eps_mse']:.4f} → {last['eps_mse']:.4f} |"
        )
    if result["shuffled"]:
        lines += [
            "",
            (
                "The control, a reward model trained on rankings dealt at random, orders"
                f" {result['control pair accuracy']['all']:.1%} of held-out pairs rightly."
            ),
        ]
    changes = [run["every attribute right"][1] - run["every attribute right"][0] for run in result["refl"]]
    rewards = [run["reward"][1] - run["reward"][0] for run in result["refl"]]
    clutter = [run["clutter"][1] / run["clutter"][0] - 1 for run in result["refl"]]
    pooled = result["pooled"]
    spread = lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")  # noqa: E731
    lines += [
        "",
        (
            f"Over {len(changes)} training seeds (mean ± standard deviation): reward {np.mean(rewards):+.3f} ±"
            f" {spread(rewards):.3f}, every attribute right {np.mean(changes):+.3f} ± {spread(changes):.3f}, clutter"
            f" {np.mean(clutter):+.0%} ± {spread(clutter):.0%}."
        ),
        (
            f"The same pictures averaged over the training seeds: every attribute right {pooled['change']:+.3f}, 95 %"
            f" interval {pooled['change 95 %'][0]:+.3f} to {pooled['change 95 %'][1]:+.3f}; reward"
            f" {pooled['reward']:+.3f}, {pooled['reward 95 %'][0]:+.3f} to {pooled['reward 95 %'][1]:+.3f}."
        ),
        "",
        "| attribute | " + " | ".join(f"seed {run['seed']}" for run in result["refl"]) + " |",
        "|---|" + "---|" * len(result["refl"]),
    ]
    for name in result["refl"][0]["accuracy"]:
        cells = [f"{run['accuracy'][name][0]:.3f} → {run['accuracy'][name][1]:.3f}" for run in result["refl"]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help=(
            "ReFL training seeds; 0 measures best-of-four alone; what the file holds of the other is kept while the"
            " weights are the same"
        ),
    )
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--parallel", type=int, default=2, help="ReFL runs side by side, one thread each")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--captions", type=int, default=600, help="captions of best-of-four")
    parser.add_argument(
        "--work",
        type=pathlib.Path,
        help="folder for the runs; finished ones in it are not trained again (default: a temporary folder)",
    )
    parser.add_argument("--no-control", action="store_true", help="leave the negative control out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the runs, which are processes of their own
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"updates": 0, "pictures": 0, "refl": [], "shuffled": []}
    hashes = {path.name: file_digest(path) for path in (TINY_SD, TINY_REWARD, ORACLE)}
    held = options.out / "results.json"
    if held.is_file() and (found := json.loads(held.read_text(encoding="utf-8")))["sha256"] == hashes:
        # the same weights: with seeds, best-of-four is kept and ReFL measured anew; without, the other way round
        result = {**found, "refl": [], "shuffled": []} if options.seeds else found
    result |= {
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}, one thread",
        "sha256": hashes,
    }
    if options.seeds:
        result |= {"updates": options.updates, "pictures": options.pictures}
    scenes = held_out_scenes(options.pictures, EVALUATION_SEED)
    oracle, scorer = Oracle.load(ORACLE), imagereward_core.load(str(TINY_REWARD), device="cpu")
    # diffusers imports its parts when they are first named, and two threads naming them at once break it
    load_pipeline()
    runs = [Run("seed", seed, TINY_REWARD) for seed in range(options.seeds)]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.parallel) as pool:
        work = options.work or pathlib.Path(temporary)
        if options.seeds and not options.no_control:
            control = negative_control(work / "control")
            result["control pair accuracy"] = pair_accuracy(
                imagereward_core.load(str(control), device="cpu"), 100, 9100
            )
            runs.append(Run("shuffled labels", 0, control))
        drawn = pool.submit(draw_and_judge, TINY_SD, scenes, scorer, oracle) if runs else None
        taught = {
            pool.submit(lambda run: draw_and_judge(teach(run, options.updates, work), scenes, scorer, oracle), run): run
            for run in runs
        }
        if "best of four" not in result or not runs:
            result["best of four"] = best_of_four(options.captions, 90_000)
            _write(options.out, result)
        if drawn is None:
            return 0
        before = drawn.result()
        result["base"] = dataclasses.asdict(before.verdict)
        right, reward = [], []  # change of every picture, one row per training seed
        for future in as_completed(taught):
            run = taught[future]
            after = future.result()
            facts = {"name": run.name, "seed": run.seed, **compare(before, after)}
            facts["evaluations"] = refl_evaluations(work / run.folder)
            group = result["refl" if run.reward == TINY_REWARD else "shuffled"]
            group.append(facts)
            if run.reward == TINY_REWARD:
                right.append(after.right.astype(float) - before.right)
                reward.append(after.rewards - before.rewards)
                result["pooled"] = pooled_change(np.mean(right, axis=0), np.mean(reward, axis=0))
            group.sort(key=lambda entry: entry["seed"])
            if run.seed == 0 and run.reward == TINY_REWARD:
                sheet(options.out / "before-after.png", scenes, before, after, work)
            _write(options.out, result)
    print(f"wrote {options.out / 'results.md'}")
    return 0


def _progress(stage: str, done: int, total: int, values: dict[str, float]) -> None:
    print(f"control, {stage} {done}/{total}", flush=True)


def _write(out: pathlib.Path, result: dict[str, Any]) -> None:
    (out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(result), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
