"""How well does a taste learn, and does it ever claim too much? Users with known tastes choose between pictures of the
small world; their duels go through the library and `taste fit`.

    python benchmarks/taste.py [--seeds 10] [--crowd 40] [--users NAME …] [--out benchmarks/results/taste.json]

A user's choices are noisy (Bradley-Terry). Accuracy is that on 2,000 duels of captions the user never saw; "ready" is
asked after 50, 100, 200, 400 and 1,000 duels, one after the other, as somebody would. Bars:

- who follows the crowd (the scorer): never worse than the scorer by more than 0.005 (mean), never told "ready";
- a strong other taste (0.15 to win): + 0.08 at 200 duels, and "ready" by then in 80 % of runs;
- a weak one: never worse by more than 0.005 (mean), "ready" only where the taste is better;
- calibration error <= 0.05 from 200 duels; a fit of 1,000 duels <= 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import imagereward_cli.main as cli  # noqa: E402
import imagereward_core as RM  # noqa: E402
from imagereward_core.library import Library, Record, find, marks, open_library, remember_now  # noqa: E402
from imagereward_core.library.records import Made  # noqa: E402
from imagereward_core.naming import own_model_name  # noqa: E402
from imagereward_core.taste import files, learning, place, verdict  # noqa: E402
from imagereward_core.taste.basis import Material  # noqa: E402
from imagereward_core.taste.head import sigmoid  # noqa: E402
from smallworld.oracle import Oracle  # noqa: E402
from smallworld.preferences import flawed_picture, possible_flaws  # noqa: E402
from smallworld.world import COLOURS, SHAPES, sample_scene  # noqa: E402

WEIGHTS = ROOT / "smallworld" / "weights"
CAPTIONS, EACH, SEEN = 750, 4, 500
DUELS = (10, 20, 50, 100, 200, 400, 1000)
ASKED = (50, 100, 200, 400, 1000)
TESTS = 2000
HARM, GAIN, STRONG, SHARE, ERROR, SECONDS = 0.005, 0.08, 0.15, 0.8, 0.05, 2.0
# What a user likes: (attribute, log odds by one standard deviation of it). "crowd" is the scorer itself.
USERS: dict[str, dict[str, float]] = {
    "follows the crowd": {"crowd": 1.5},
    "warm and soft": {"crowd": 0.3, "warm": 1.5, "sharp": -1.0},
    "grain": {"sharp": 1.5},
    "large and bright": {"crowd": 0.3, "bright": 1.2, "area": 1.5},
    "many things": {"crowd": 0.2, "things": 2.0},
    "low and to the left": {"crowd": 0.2, "right": -1.5, "down": 1.5},
    "purple, no specks": {"crowd": 0.2, "purple": 1.6, "clutter": -1.2},
    "weak: green": {"crowd": 1.0, "green": 0.5},
    "weak: circles": {"crowd": 1.0, "circle": 0.7},
    "weak: cold light": {"crowd": 1.2, "warm": -0.4},
}


@dataclass(frozen=True)
class World:
    """Pictures in a library, with features, and what an oracle sees in them. `groups`: pictures by caption."""

    library: Library
    base: place.Base
    material: Material
    numbers: np.ndarray
    groups: list[np.ndarray]
    attributes: dict[str, np.ndarray]

    def utility(self, user: str) -> np.ndarray:
        """What the user thinks of each picture, in log odds."""
        return sum(weight * self.attributes[name] for name, weight in USERS[user].items())  # type: ignore[return-value]


def world(folder: pathlib.Path) -> World:
    """Draw the pictures, put them into a library, and let the scorer look at each once."""
    rng = np.random.default_rng(2026)
    library = open_library(folder / "library.sqlite")
    pictures, numbers, groups = [], [], []
    for caption in range(CAPTIONS):
        scene = sample_scene(rng, held_out=bool(rng.random() < 0.5))
        groups.append(np.arange(len(pictures), len(pictures) + EACH))
        for picture in drawn(scene, rng):
            path = folder / f"{len(pictures):05}.png"
            picture.save(path, compress_level=1)
            numbers.append(remember_now(library, Record(path, made=Made(prompt=f"{scene.caption}, take {caption}"))))
            pictures.append(np.asarray(picture))
    weights = WEIGHTS / "tiny-imagereward.safetensors"
    base = place.Base(own_model_name(weights), str(weights))
    problems = learning.compute(library, base, numbers, lambda: RM.load(weights, device="cpu"), True, lambda *_: None)
    assert not problems, problems
    index, material = learning.material_of(library, base, numbers)
    assert [index[number] for number in numbers] == list(range(len(numbers)))
    return World(library, base, material, np.array(numbers), groups, seen(pictures, material.scores))


def drawn(scene, rng: np.random.Generator) -> list:
    """Pictures of a scene: a third of them flawless, the others with one or two flaws."""
    found: list = []
    while len(found) < EACH:
        flaws: tuple[str, ...] = ()
        if rng.random() > 0.35:
            flaws = tuple(sorted(map(str, rng.choice(possible_flaws(scene), int(rng.integers(1, 3)), replace=False))))
        picture = flawed_picture(scene, flaws, rng, degree=float(rng.choice([0.5, 1.0])))
        if picture is not None:
            found.append(picture)
    return found


def seen(pictures: Sequence[np.ndarray], scores: np.ndarray) -> dict[str, np.ndarray]:
    """Attributes by name, standardised: what the oracle reads, and a few of the pixels."""
    readings = Oracle.load(WEIGHTS / "oracle.safetensors").read(np.stack(pictures))
    mean = np.stack([picture.reshape(-1, 3).mean(0) for picture in pictures])
    grey = np.stack([picture.mean(2) for picture in pictures])
    steps = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))
    things = [reading.things for reading in readings]
    found = {
        "crowd": scores,
        "warm": mean[:, 0] - mean[:, 2],
        "bright": mean.mean(1),
        "sharp": np.log(1 + steps),
        "clutter": np.log1p([200 * reading.clutter for reading in readings]),
        "things": [len(each) for each in things],
        "area": [sum(thing.area for thing in each) for each in things],
        "right": [np.mean([thing.x for thing in each] or [32]) for each in things],
        "down": [np.mean([thing.y for thing in each] or [32]) for each in things],
        **{name: [sum(thing.colour == name for thing in each) for each in things] for name in COLOURS},
        **{name: [sum(thing.shape == name for thing in each) for each in things] for name in SHAPES},
    }
    return {name: (np.array(value, float) - np.mean(value)) / np.std(value) for name, value in found.items()}


def choices(rng: np.random.Generator, utility: np.ndarray, groups: Sequence[np.ndarray], count: int) -> np.ndarray:
    """[count, 2]: the picture the user took and the other, two of one caption each."""
    drawn_groups = rng.integers(0, len(groups), count)
    pairs = np.array([rng.choice(groups[group], 2, replace=False) for group in drawn_groups])
    first = rng.random(count) < sigmoid(utility[pairs[:, 0]] - utility[pairs[:, 1]])
    return np.where(first[:, None], pairs, pairs[:, ::-1])


def run(here: World, user: str, seed: int, counts: Sequence[int] = DUELS) -> dict:
    """One user's learning: by number of duels the taste's accuracy, its calibration error and what the user is told."""
    rng = np.random.default_rng(seed)
    utility = here.utility(user)
    order = rng.permutation(CAPTIONS)
    test = choices(rng, utility, [here.groups[caption] for caption in order[SEEN:]], TESTS)
    duels = choices(rng, utility, [here.groups[caption] for caption in order[:SEEN]], max(counts))
    name = f"user {list(USERS).index(user)} {seed}"
    scores = here.material.scores
    result: dict = {
        "scorer": share(scores[test[:, 0]] > scores[test[:, 1]]),
        "ceiling": share(utility[test[:, 0]] > utility[test[:, 1]]),
        "accuracy": {},
        "calibration_error": {},
        "state": {},
        "seconds": {},
    }
    done = 0
    for count in counts:
        for winner, loser in duels[done:count]:
            marks.add_duel(here.library, int(here.numbers[winner]), int(here.numbers[loser]), taste=name, when=done)
        done = count
        start = time.perf_counter()
        learnt = learning.learn(here.library, here.base, never, name)
        result["seconds"][count] = time.perf_counter() - start
        taste = files.read(place.path_of(name, here.library.place))
        features = taste.basis.features(here.material)
        p = taste.head.probability(features[test[:, 0]] - features[test[:, 1]])
        result["accuracy"][count] = share(p > 0.5)
        result["calibration_error"][count] = calibration_error(p)
        result["state"][count] = learnt.about.state
    learning.forget(here.library, name)
    return result


def never():
    """All features are there: nothing may be computed twice."""
    raise AssertionError("a picture's features were asked for again")


def share(right: np.ndarray) -> float:
    """The share of true ones."""
    return float(right.mean())


def calibration_error(p: np.ndarray) -> float:
    """Expected calibration error, five bins of confidence."""
    confidence, right = np.maximum(p, 1 - p), p > 0.5
    bins = np.digitize(confidence, np.linspace(0.5, 1, 6)[1:-1])
    parts = [(bins == index) for index in range(5) if (bins == index).any()]
    return float(sum(part.mean() * abs(confidence[part].mean() - right[part].mean()) for part in parts))


def summary(runs: list[dict]) -> dict:
    """Means over the runs; `gain` is by how much the taste is better than the scorer."""
    counts = list(runs[0]["accuracy"])
    scorer, ceiling = (float(np.mean([one[key] for one in runs])) for key in ("scorer", "ceiling"))
    gains = {count: [one["accuracy"][count] - one["scorer"] for one in runs] for count in counts}
    ready = {count: [one["state"][count] == verdict.READY for one in runs] for count in counts if count in ASKED}
    return {
        "runs": len(runs),
        "scorer": round(scorer, 4),
        "ceiling": round(ceiling, 4),
        "gain": {count: round(float(np.mean(values)), 4) for count, values in gains.items()},
        "worst_gain": {count: round(float(min(values)), 4) for count, values in gains.items()},
        "ready": {count: round(float(np.mean(values)), 3) for count, values in ready.items()},
        "false_ready": sum(
            any(told[index] and gains[count][index] <= 0 for count, told in ready.items()) for index in range(len(runs))
        ),
        "calibration_error": {
            count: round(float(np.mean([one["calibration_error"][count] for one in runs])), 4) for count in counts
        },
        "seconds": {count: round(float(np.median([one["seconds"][count] for one in runs])), 3) for count in counts},
    }


def missed(user: str, found: dict) -> list[str]:
    """The bars this user's runs do not meet."""
    bars = []
    strong = found["ceiling"] - found["scorer"] >= STRONG
    if strong:
        bars += [f"gain at 200 duels {found['gain']['200']:+.3f}"] * (found["gain"]["200"] < GAIN)
        bars += [f"ready at 200 duels in {found['ready']['200']:.0%}"] * (found["ready"]["200"] < SHARE)
    if not strong:
        bars += [f"gain {gain:+.4f} at {count} duels" for count, gain in found["gain"].items() if gain < -HARM]
    bars += [f"{found['false_ready']} times ready and not better"] * bool(found["false_ready"])
    if user == "follows the crowd":
        bars += [f"told ready: {found['ready']}"] * any(found["ready"].values())
    for count, error in found["calibration_error"].items():
        bars += [f"calibration error {error:.3f} at {count} duels"] * (int(count) >= 200 and error > ERROR)
    bars += [f"a fit of {count} duels takes {s:.2f} s" for count, s in found["seconds"].items() if s > SECONDS]
    return [f"{user}: {bar}" for bar in bars]


def by_command_line(here: World, folder: pathlib.Path) -> dict:
    """One user's 200 duels through the commands themselves: the same verdict, the same order of the test pictures."""
    user, rng = "warm and soft", np.random.default_rng(99)
    utility = here.utility(user)
    duels = choices(rng, utility, here.groups[:SEEN], 200)
    lines = []
    for pair in duels:
        winner, loser = (find.by_id(here.library, int(here.numbers[picture])) for picture in pair)
        assert winner is not None and loser is not None
        lines.append(json.dumps({"winner": winner.path, "loser": loser.path, "prompt": winner.made.prompt}))
    (folder / "duels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    where, name = ["--library", str(here.library.place)], ["--name", "by-command"]
    model = ["--scorer", here.base.source, "--device", "cpu"]
    assert cli.main(["taste", "add", str(folder / "duels.jsonl"), *where, *name, "--json"]) == 0
    assert cli.main(["taste", "fit", "-q", "--json", *where, *name, *model]) == 0
    told = place.about(place.existing("by-command", here.library.place))
    assert told is not None
    scorer = RM.load_score(str(place.existing("by-command", here.library.place)), device="cpu")
    test = choices(rng, utility, here.groups[SEEN:], 200)
    pictures = sorted(set(test.ravel().tolist()))
    known = {picture: find.by_id(here.library, int(here.numbers[picture])) for picture in pictures}
    found = scorer.score_pairs([known[p].made.prompt for p in pictures], [known[p].path for p in pictures])
    score = dict(zip(pictures, found))
    right = np.array([score[winner] > score[loser] for winner, loser in test.tolist()])
    by_base = here.material.scores[test[:, 0]] > here.material.scores[test[:, 1]]
    return {"state": told.state, "accuracy": told.accuracy, "test": share(right), "test_scorer": share(by_base)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each user")
    parser.add_argument("--crowd", type=int, default=40, help="runs of the user who follows the crowd")
    parser.add_argument("--users", nargs="+", choices=list(USERS), default=list(USERS), metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, help="results; users that are not run keep what the file says")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = world(pathlib.Path(folder))
        users = {}
        for user in args.users:
            times = args.crowd if user == "follows the crowd" else args.seeds
            users[user] = summary([run(here, user, seed) for seed in range(times)])
            print(user, json.dumps(users[user]), flush=True)
        commands = by_command_line(here, pathlib.Path(folder))
        here.library.close()
    if args.out and args.out.is_file():
        users = {**json.loads(args.out.read_text(encoding="utf-8"))["users"], **users}
    users = {user: json.loads(json.dumps(users[user])) for user in USERS if user in users}  # keys as a file has them
    bars = [bar for user, found in users.items() for bar in missed(user, found)]
    result = {"users": users, "by_command_line": commands, "missed": bars, "machine": machine()}
    print("\n".join(bars) or "all bars are met")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def machine() -> dict:
    """What the numbers were made on."""
    return {"python": platform.python_version(), "numpy": np.__version__, "processor": platform.processor()}


if __name__ == "__main__":
    main()
