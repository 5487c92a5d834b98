"""My taste as ReFL's reward, beside DPO: two ways from the same picks to a model that draws what its user likes.

    python benchmarks/dpo_taste.py --out docs/refl

The user, the pictures, the picks, the held-out captions and the seeds are those of dpo_small_world.py. Here
`taste fit` learns a personal scorer from the picks, on tiny-imagereward, and `python -m refl train` follows it. A
control follows tiny-imagereward itself, which knows nothing of the picks: what it changes is ReFL's doing, not the
taste's. Both are run as a user runs them, with the stop rule on, and once more to the end, with the rule off. Runs that
the file holds already are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import imagereward_core  # noqa: E402
from benchmarks import dpo_small_world as dpo  # noqa: E402
from benchmarks.over_seeds import over_seeds  # noqa: E402
from imagereward_core.library import open_library  # noqa: E402
from imagereward_core.naming import own_model_name  # noqa: E402
from imagereward_core.taste import learning, place  # noqa: E402
from imagereward_core.taste.duels import add_file  # noqa: E402
from refl import ReFLConfig, Trainer  # noqa: E402
from smallworld.pipeline import TINY_REWARD, TINY_SD  # noqa: E402

TASTE, SCORER = "my taste as reward", "its scorer as reward"
RULE_OFF = ", rule off"
KINDS = (TASTE, SCORER, TASTE + RULE_OFF, SCORER + RULE_OFF)
BATCH, OFTEN = 8, 5  # pictures of an update; updates between two evaluations where the rule is on


def fitted(picks: Path, folder: Path, seed: int) -> tuple[Path, place.About]:
    """(file of the taste that is learnt from these picks, what is said of it)."""
    base = place.Base(own_model_name(TINY_REWARD), str(TINY_REWARD))
    name = f"picks {seed}"
    library = open_library(folder / "library.sqlite")
    try:
        add_file(library, picks, name)
        learnt = learning.learn(library, base, lambda: imagereward_core.load(str(TINY_REWARD), device="cpu"), name)
        return place.path_of(name, library.place), learnt.about
    finally:
        library.close()


def settings(model: Path, reward: Path, captions: int, seed: int, updates: int, out: Path, rule: bool) -> ReFLConfig:
    """A run on a reward: DPO's settings, less the picks. The anchor and the rule's limits are the default ones, and
    nobody judges, as DPO's runs have no judge either.
    """
    of_picks = dpo.settings(model, Path(""), seed, updates, out)
    watched = {"stop_rule": "stop", "eval_steps": OFTEN, "checkpointing_steps": OFTEN} if rule else {}
    return dataclasses.replace(
        of_picks,
        **watched,
        algorithm="refl+",
        picks="",
        prompts=[scene.caption for scene in dpo.scenes(captions, held_out=False)],
        rewards=[str(reward)],
        train_batch_size=BATCH,
    )


def worth(runs: list[dict[str, Any]], of_picks: list[dict[str, Any]]) -> dict[str, Any]:
    """By how much the area, as a share of the base's, changes over the training seeds of each kind, and how the taste's
    way differs from its control's and from DPO's runs. Intervals (95 %, Welch's t) are over seeds.
    """
    of = {name: _changes(runs, name) for name in KINDS} | {dpo.PICKS: _changes(of_picks, dpo.PICKS)}
    found = {name: over_seeds(of[name]) for name in KINDS if len(of[name]) > 1}
    for one, other in ((TASTE, SCORER), (TASTE, dpo.PICKS), (TASTE + RULE_OFF, SCORER + RULE_OFF)):
        if min(len(of[one]), len(of[other])) > 1:
            label = "picks by DPO" if other == dpo.PICKS else other
            found[f"{one} minus {label}"] = over_seeds(of[one], of[other])
    return found


def _changes(runs: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([run["area"]["relative"] for run in runs if run["name"] == name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=50, help="training captions, half of EACH picks of each")
    parser.add_argument("--judged", type=int, default=15, help="held-out captions, EACH pictures of each")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS, help="runs of these kinds")
    parser.add_argument("--work", type=Path, help="folder for pictures and runs; default one that is removed")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target, beside = args.out / "dpo_taste.json", args.out / "dpo_small_world.json"
    runs: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []
    of_picks = json.loads(beside.read_text(encoding="utf-8"))["runs"] if beside.is_file() else []
    done = {(run["name"], run["seed"]) for run in runs}
    read = dpo.Reader()
    judged = [scene for scene in dpo.scenes(args.judged, held_out=True) for _ in range(dpo.EACH)]
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        before = read(judged, dpo.draw(TINY_SD, judged, dpo.JUDGED_SEED))
        for seed in args.seeds:
            picks, facts = dpo.write_picks(TINY_SD, work, args.captions, seed, read)[dpo.PICKS]
            for name in args.only:
                if (name, seed) in done:
                    continue
                taste, about = fitted(picks, work, seed) if name.startswith(TASTE) else (TINY_REWARD, None)
                told = {} if about is None else {**facts, "foretells": about.accuracy, "state": about.state}
                out, rule = work / f"reward-{KINDS.index(name)}-{seed}", not name.endswith(RULE_OFF)
                asked = settings(TINY_SD, taste, args.captions, seed, args.updates, out, rule)
                started = time.process_time()
                result = Trainer(args=asked).train()
                seconds = time.process_time() - started
                if result.exported is None:
                    raise SystemExit(f"{name} {seed} left no result: {result.reason}")
                after = read(judged, dpo.draw(result.exported, judged, dpo.JUDGED_SEED))
                run = {
                    "name": name,
                    "seed": seed,
                    **told,
                    "ended": result.state,
                    "updates": result.step,
                    "why": result.reason,
                    "seconds of CPU": round(seconds, 1),
                    "evaluations": [item.summary() for item in result.evaluations],
                    **{key: dpo.compare(b, a) for key, b, a in zip(dpo.MEASURES, before, after, strict=True)},
                }
                runs = sorted([*runs, run], key=lambda run: (KINDS.index(run["name"]), run["seed"]))
                document = {
                    "machine": f"{platform.machine()}, one thread",
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "settings": asked.shareable(),
                    "picks": args.captions * dpo.EACH // 2,
                    "judged": [args.judged, dpo.EACH],
                    "area over all seeds": worth(runs, of_picks),
                    "runs": runs,
                }
                target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                print(dpo.row(run), flush=True)


if __name__ == "__main__":
    main()
