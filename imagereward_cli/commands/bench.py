"""`imagereward bench preference | models`: the paper's Tables 3 and 1 on your data, or on the public data."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from imagereward_core.errors import ConfigError
from imagereward_core.exit_codes import OK
from imagereward_core.printable import harmless
from imagereward_train.tables.judges import SCRIPTED, Judge, labels, load_judge
from imagereward_train.tables.scoring import World

from .train import ProgressLine

DEFAULT = "ImageReward-v1.0,CLIP,BLIP,Aesthetic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two tables and their flags."""
    tables = parser.add_subparsers(dest="table", required=True, metavar="preference | models")
    preference = tables.add_parser("preference", help="Table 3: agreement with human rankings")
    preference.add_argument(
        "--data",
        help="rankings or pairs: ImageRewardDB, HPD v2 and v3, Pick-a-Pic (also Parquet), CSV or JSONL of prompt with"
        " better,worse or chosen,rejected (docs/training.md); with --download the public test set is fetched",
    )
    preference.add_argument(
        "--images", default="", help="folder that its image names start from (default: where --data lies)"
    )
    preference.add_argument("--skip-missing", action="store_true", help="leave out prompts with missing images")
    models = tables.add_parser("models", help="Table 1: text-to-image models by mean score")
    models.add_argument(
        "--prompts", help="JSON list of {id, prompt} (benchmark-prompts.json); with --download it is fetched"
    )
    models.add_argument("--generations", help="folder of <model>/<prompt id>_<number>.png")
    models.add_argument(
        "--models", default="", help="comma-separated folders (default: the paper's six if there, else all)"
    )
    models.add_argument(
        "--wins",
        metavar="FILE",
        default="",
        help='how often people preferred each model, for Spearman: JSON {"model": 12, …} or CSV model,wins (default:'
        " the paper's)",
    )
    for table in (preference, models):
        table.add_argument(
            "--scorers",
            default=DEFAULT,
            help=f"comma-separated names or checkpoint paths, or {', '.join(SCRIPTED)} (default: {DEFAULT})",
        )
        table.add_argument(
            "--out", default="", help="folder for results.json, report.md, plot.png, scores/ (default: bench-TABLE)"
        )
        table.add_argument("--download", metavar="DIR", default="", help="fetch the public data into this folder first")
        table.add_argument("--resume", action="store_true", help="keep the scores that --out already holds")
        table.add_argument("--device", default=None)
        table.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "bf16"))
        table.add_argument("--download-root", default=None, help="folder of the weights")
        table.add_argument("--seed", type=int, default=0, help="of the bootstrap and the random scorer")
        table.add_argument("--bootstrap", type=int, default=1000, help="resamples for the intervals")


def _judges(args: argparse.Namespace) -> list[Callable[[World], Judge]]:
    names = [name.strip() for name in args.scorers.split(",") if name.strip()]
    if not names:
        raise ConfigError("--scorers is empty")

    def builder(name: str, label: str) -> Callable[[World], Judge]:
        options = {"download_root": args.download_root, "precision": args.precision, "seed": args.seed, "label": label}
        return lambda world: load_judge(name, device=args.device or world.device, **options)

    return [builder(name, label) for name, label in zip(names, labels(names))]


def run(args: argparse.Namespace) -> int:
    """Run one table and print its report; 0 on success."""
    from imagereward_train.tables import fetch, models, preference

    world = World(args.device)
    shared = {
        "resume": args.resume,
        "seed": args.seed,
        "repeats": args.bootstrap,
        "progress": ProgressLine(),
        "world": world,
    }
    out = args.out or f"bench-{args.table}"
    if args.table == "preference":
        data, images = args.data, args.images
        if args.download:
            if world.main:
                fetch.fetch_preference(args.download)
            world.wait()
            found = fetch.fetch_preference(args.download)
            data, images = data or found[0], images or found[1]
        if not data:
            raise ConfigError("--data is missing: the ranked data, or --download DIR to fetch the public test set")
        results = preference.run_preference(data, images, _judges(args), out, skip_missing=args.skip_missing, **shared)
        text = preference.markdown(results)
    else:
        prompts, folder = args.prompts, args.generations
        names = [name for name in args.models.split(",") if name]
        if args.download:
            if world.main:
                fetch.fetch_models(args.download, names)
            world.wait()
            found = fetch.fetch_models(args.download, names)
            prompts, folder = prompts or found[0], folder or found[1]
        if not prompts or not folder:
            raise ConfigError("--prompts and --generations are needed, or --download DIR to fetch the public ones")
        wins = models.read_wins(args.wins) if args.wins else None
        results = models.run_models(prompts, folder, _judges(args), out, models=names, wins=wins, **shared)
        text = models.markdown(results)
    if world.main:
        print(harmless(f"{text}\nwritten to {out}", keep="\n"))
    return OK
