"""My taste as ReFL's reward, beside DPO: two ways from the same picks to a model that draws what its user likes.

    python benchmarks/dpo_taste.py --out docs/refl

The user, the pictures, the picks, the held-out captions and the seeds are those of dpo_small_world.py. Here
`taste fit` learns a personal scorer from the picks, on tiny-imagereward, and `python -m refl train` follows it. A
control follows tiny-imagereward itself, which knows nothing of the picks: what it changes is ReFL's doing, not the
taste's. Both are run as a user runs them, with the stop rule on, and once more to the end, with the rule off. Runs that
the file holds already are kept.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
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
    parser = dpo.arguments(60, KINDS, "half of EACH picks of each")
    parser.description = __doc__
    args = parser.parse_args()
    torch.set_num_threads(1)
    beside = args.out / "dpo_small_world.json"
    of_picks = json.loads(beside.read_text(encoding="utf-8"))["runs"] if beside.is_file() else []
    runs = dpo.Runs(args.out / "dpo_taste.json", KINDS)
    read = dpo.Reader()
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        judged = dpo.Judged(TINY_SD, args.judged, read)
        for seed in args.seeds:
            picks, facts = dpo.write_picks(TINY_SD, work, args.captions, seed, read)[dpo.PICKS]
            for name in args.only:
                if (name, seed) in runs:
                    continue
                taste, about = fitted(picks, work, seed) if name.startswith(TASTE) else (TINY_REWARD, None)
                told = {} if about is None else {**facts, "foretells": about.accuracy, "state": about.state}
                out, rule = work / f"reward-{KINDS.index(name)}-{seed}", not name.endswith(RULE_OFF)
                asked = settings(TINY_SD, taste, args.captions, seed, args.updates, out, rule)
                result, found = judged.run(Trainer(args=asked))
                ended = {"ended": result.state, "updates": result.step, "why": result.reason}
                run = {"name": name, "seed": seed, **told, **ended, **found}
                runs.keep(
                    run,
                    lambda rows: worth(rows, of_picks),
                    settings=asked.shareable(),
                    picks=args.captions * dpo.EACH // 2,
                    judged=[args.judged, dpo.EACH],
                )
                print(dpo.row(run), flush=True)


if __name__ == "__main__":
    main()
