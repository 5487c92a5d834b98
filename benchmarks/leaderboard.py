"""Does the leaderboard keep its word? Simulated libraries, fixed seeds: nothing here touches a model or a file.

    python benchmarks/leaderboard.py [--libraries 500] [--trials 2000] [--out benchmarks/results/leaderboard.json]

Every image's score is checkpoint + prompt + prompt × checkpoint + seed; people use one to three of eight checkpoints
per prompt and make about a dozen images with each. The worlds differ in what a textbook would not allow: heavy tails,
spreads that differ between checkpoints and grow with the prompt, favourites, people who stop when they like a picture.
Also printed: what simpler procedures make of the same libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from imagereward_core.library.leaderboard import Cells, Leaderboard, cells_of, leaderboard  # noqa: E402

CHECKPOINTS = 8
PROMPT, INTERACTION, SEED = 0.7, 0.25, 0.55  # standard deviations, in units of a score whose own is about 0.93
BATCH = 12  # images per prompt and checkpoint, on average
LIKED = 0.7  # the score at which somebody stops
PATIENCE = 40  # images after which everybody stops
ENOUGH, TRIES = 0.9, 12  # with a favourite: the score that ends the search, and images per checkpoint before the next


@dataclass(frozen=True)
class World:
    """One way a library comes about. `rare`: prompts that the last checkpoint is used with (0: like all others)."""

    name: str
    prompts: int = 60
    tails: str = "normal"
    unequal_spread: bool = False
    unequal_use: bool = False
    stop: bool = False
    delete: bool = False
    rare: int = 0
    best: float = 0.0  # by how much the first checkpoint is better
    favourite_first: bool = False  # the others are tried only where the first checkpoint did not please
    variants: bool = False  # four prompts each are variants of one another and share their interactions
    promised: bool = True  # whether the bars count it: habits bias a history, which is why it is labelled as one


WORLDS = (
    World("60 prompts"),
    World("30 prompts", prompts=30),
    World("heavy tails", tails="heavy"),
    World("heteroscedastic", unequal_spread=True),
    World("unequal use", unequal_use=True),
    World("stop when liked", stop=True),
    World("stop when liked, delete the rest", stop=True, delete=True),
    World("a checkpoint with 3 prompts", rare=3),
    World("one at +0.6", best=0.6),
    World("favourite first, 60 prompts", favourite_first=True, promised=False),
    World("favourite first, 200 prompts", prompts=200, favourite_first=True, promised=False),
    World("variants of prompts, 200 prompts", prompts=200, variants=True, promised=False),
)


def noise(rng: np.random.Generator, tails: str, size: int | tuple[int, ...]) -> np.ndarray:
    """Values of variance 1."""
    return rng.standard_t(3, size) / np.sqrt(3) if tails == "heavy" else rng.normal(size=size)


def usage(rng: np.random.Generator, world: World) -> np.ndarray:
    """[prompts, checkpoints]: which checkpoints a prompt is used with."""
    popularity = 1 / np.arange(1, CHECKPOINTS + 1) if world.unequal_use else np.ones(CHECKPOINTS)
    used = np.zeros((world.prompts, CHECKPOINTS), bool)
    for prompt in range(world.prompts):
        chosen = rng.choice(CHECKPOINTS, rng.integers(1, 4), replace=False, p=popularity / popularity.sum())
        used[prompt, chosen] = True
    if world.rare:
        used[:, -1] = False
        others = np.flatnonzero(used.any(1))
        used[rng.choice(others, world.rare, replace=False), -1] = True
        for prompt in np.flatnonzero(~used.any(1)):
            used[prompt, rng.integers(CHECKPOINTS - 1)] = True
    return used


def library(rng: np.random.Generator, world: World) -> tuple[Cells, list[np.ndarray]]:
    """The cells of a library, and every image's (prompt, checkpoint, score)."""
    of_prompt = PROMPT * noise(rng, world.tails, world.prompts)
    together = INTERACTION * noise(rng, world.tails, (world.prompts, CHECKPOINTS))
    if world.variants:
        together = together + INTERACTION * rng.normal(size=together.shape)[np.arange(world.prompts) // 4]
    spread = np.full((world.prompts, CHECKPOINTS), SEED)
    if world.unequal_spread:
        together = together * np.linspace(0.4, 2.4, CHECKPOINTS)
        spread = SEED * np.linspace(0.4, 2.2, CHECKPOINTS) * np.exp(0.4 * of_prompt / PROMPT)[:, None]
    expected = of_prompt[:, None] + together + truth(world)
    if world.favourite_first:
        return collected(list(search(rng, expected)))
    rows = []
    for prompt, checkpoint in zip(*np.nonzero(usage(rng, world))):
        images = PATIENCE if world.stop else int(rng.geometric(1 / batch(world, checkpoint)))
        scores = expected[prompt, checkpoint] + spread[prompt, checkpoint] * noise(rng, world.tails, images)
        if world.stop:
            scores = until_liked(rng, scores, world.delete)
        rows.append((prompt, checkpoint, scores))
    return collected(rows)


def search(rng: np.random.Generator, expected: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """The first checkpoint, then others, up to four in all, until a picture pleases."""
    for prompt in range(len(expected)):
        order = np.append(0, rng.permutation(np.arange(1, CHECKPOINTS)))
        for checkpoint in order[:4]:
            scores = expected[prompt, checkpoint] + SEED * rng.normal(size=TRIES)
            pleasing = np.flatnonzero(scores > ENOUGH)
            if len(pleasing):
                yield prompt, checkpoint, scores[: pleasing[0] + 1]
                break
            yield prompt, checkpoint, scores


def collected(rows: list[tuple[int, int, np.ndarray]]) -> tuple[Cells, list[np.ndarray]]:
    """(cells, columns) of (prompt, checkpoint, scores)."""
    lengths = [len(scores) for _, _, scores in rows]
    prompt = np.repeat([prompt for prompt, _, _ in rows], lengths)
    checkpoint = np.repeat([checkpoint for _, checkpoint, _ in rows], lengths)
    score = np.concatenate([scores for _, _, scores in rows])
    return cells_of(prompt, checkpoint, score), [prompt, checkpoint, score]


def truth(world: World) -> np.ndarray:
    effect = np.zeros(CHECKPOINTS)
    effect[0] = world.best
    return effect


def batch(world: World, checkpoint: int) -> float:
    return 60 / (checkpoint + 1) + 1.5 if world.unequal_use else BATCH


def until_liked(rng: np.random.Generator, scores: np.ndarray, delete: bool) -> np.ndarray:
    """The images up to the first that is liked; most of the others are deleted if `delete`."""
    liked = np.flatnonzero(scores > LIKED)
    if len(liked):
        scores = scores[: liked[0] + 1]
    if delete:
        scores = scores[np.append(rng.random(len(scores) - 1) < 0.15, True)]
    return scores


@dataclass
class Tally:
    """Counts over libraries. An interval is of a checkpoint's effect against the mean of those in its table."""

    libraries: int = 0
    silent: int = 0
    any_claimed: int = 0
    wrong: int = 0
    intervals: int = 0
    covered: int = 0
    last_intervals: int = 0
    last_covered: int = 0
    naive_claimed: int = 0

    def add(self, world: World, table: Leaderboard | None) -> None:
        self.libraries += 1
        if table is None:
            self.silent += 1
            return
        effect = truth(world)
        shown = [row.level for row in table.effects]
        mean = effect[shown].mean()
        for row in table.effects:
            inside = bool(row.low <= effect[row.level] - mean <= row.high)
            self.intervals += 1
            self.covered += inside
            if row.level == CHECKPOINTS - 1:
                self.last_intervals += 1
                self.last_covered += inside
        claimed = [pair for pair in table.pairs if pair.claimed]
        self.any_claimed += bool(claimed)
        self.wrong += any(
            np.sign(pair.difference) != np.sign(effect[pair.first] - effect[pair.second]) for pair in claimed
        )

    def figures(self) -> dict[str, float]:
        return {
            "libraries": self.libraries,
            "nothing said": self.silent,
            "any pair claimed": self.any_claimed / self.libraries,
            "wrong pair claimed": self.wrong / self.libraries,
            "coverage": self.covered / max(self.intervals, 1),
            "coverage, last checkpoint": self.last_covered / max(self.last_intervals, 1),
            "simpler: mean per image, any pair claimed": self.naive_claimed / self.libraries,
        }


def naive_claims(columns: list[np.ndarray]) -> bool:
    """Mean ± standard error per image, Bonferroni over pairs: what a table without prompts would claim."""
    _, checkpoint, score = columns
    groups = [score[checkpoint == level] for level in np.unique(checkpoint)]
    groups = [group for group in groups if len(group) > 1]
    pairs = len(groups) * (len(groups) - 1) / 2
    limit = NormalDist().inv_cdf(1 - 0.025 / max(pairs, 1))
    means = np.array([group.mean() for group in groups])
    errors = np.array([group.var(ddof=1) / len(group) for group in groups])
    z = np.abs(means[:, None] - means) / np.sqrt(errors[:, None] + errors + 1e-12)
    return bool((z > limit).any())


def simulate(world: World, libraries: int, seed: int) -> dict[str, float]:
    """One world, many libraries; each has a seed of its own."""
    tally = Tally()
    for number in range(libraries):
        cells, columns = library(np.random.default_rng([seed, number]), world)
        tally.add(world, leaderboard(cells))
        tally.naive_claimed += naive_claims(columns)
    return tally.figures()


def paired(difference: float, prompts: int, trials: int, seed: int) -> float:
    """How often a difference is claimed with that many prompts, one image each with both checkpoints, of the same seed:
    half of a seed's noise is then common to both. Claims of the wrong sign do not count for a true difference.
    """
    claims = 0
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        of_prompt = rng.normal(0, PROMPT, prompts)
        together = rng.normal(0, INTERACTION, (2, prompts))
        common = rng.normal(0, SEED, prompts) * 0.5
        own = rng.normal(0, SEED * np.sqrt(0.75), (2, prompts))
        scores = of_prompt + together + common + own + np.array([[difference], [0.0]])
        table = leaderboard(cells_of(np.tile(np.arange(prompts), 2), np.repeat([0, 1], prompts), scores.ravel()))
        pair = table.pairs[0] if table else None
        claims += bool(pair and pair.claimed and (pair.difference > 0 or not difference))
    return claims / trials


def speed(images: int = 100_000, checkpoints: int = 50, prompts: int = 5_000) -> dict[str, float]:
    """Seconds from one row per image to the table; the best of three, wall clock and processor."""
    rng = np.random.default_rng(0)
    prompt, checkpoint = rng.integers(0, prompts, images), rng.integers(0, checkpoints, images)
    score = rng.normal(size=images) + rng.normal(0, PROMPT, prompts)[prompt]
    wall, processor = [], []
    for _ in range(3):
        start, used = time.perf_counter(), time.process_time()
        leaderboard(cells_of(prompt, checkpoint, score))
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return {
        "images": images,
        "checkpoints": checkpoints,
        "prompts": prompts,
        "wall_s": min(wall),
        "cpu_s": min(processor),
    }


def bars(report: dict) -> dict[str, bool]:
    """What is promised, and whether it holds."""
    promised = [world for world in WORLDS if world.promised]
    equal = [world.name for world in promised if not world.best]
    worlds = report["worlds"]
    held = {
        "any pair of 8 equal checkpoints claimed in <= 6 %": all(
            worlds[name]["any pair claimed"] <= 0.06 for name in equal
        ),
        "intervals cover >= 93 %": all(worlds[world.name]["coverage"] >= 0.93 for world in promised),
        "a checkpoint with 3 prompts covered >= 93 %": (
            worlds["a checkpoint with 3 prompts"]["coverage, last checkpoint"] >= 0.93
        ),
        "one at +0.6: wrong claims <= 6 %": worlds["one at +0.6"]["wrong pair claimed"] <= 0.06,
        "+0.3 with 40 paired prompts found in >= 65 %": report["paired"]["+0.3, 40 prompts"] >= 0.65,
        "100,000 images in <= 2 s": report["speed"]["wall_s"] <= 2,
    }
    return {name: bool(holds) for name, holds in held.items()}


def show(name: str, figures: object) -> None:
    print(f"{name}: {json.dumps(figures)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", type=int, default=500)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    report: dict = {"machine": f"{platform.machine()}, numpy {np.__version__}, Python {platform.python_version()}"}
    report["speed"] = speed()
    show("speed", report["speed"])
    report["worlds"] = {}
    for world in WORLDS:
        report["worlds"][world.name] = simulate(world, args.libraries, args.seed)
        show(world.name, report["worlds"][world.name])
    report["paired"] = {
        "+0.3, 40 prompts": paired(0.3, 40, args.trials, args.seed),
        "+0.2, 80 prompts": paired(0.2, 80, args.trials, args.seed),
        "no difference, 40 prompts": paired(0.0, 40, args.trials, args.seed),
    }
    show("paired", report["paired"])
    report["bars"] = bars(report)
    show("bars", report["bars"])
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(report["bars"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
