"""`imagereward dataset build | download`: check and cache preference data, or fetch ImageRewardDB."""

from __future__ import annotations

import argparse
import os

from imagereward_core.exit_codes import OK
from imagereward_train.formats import FORMATS

from . import output
from .train import ProgressLine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two actions and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="build | download")
    build = actions.add_parser("build", help="validate, split by prompt and cache")
    build.add_argument("--data", required=True, help="JSON, JSONL, CSV, TSV, or a folder of folders")
    build.add_argument(
        "--images", default="", help="folder that relative image names start from (default: where the data lies)"
    )
    build.add_argument(
        "--out", required=True, help="folder for train.json, valid.json, test.json, cache/ and manifest.json"
    )
    build.add_argument("--format", choices=FORMATS, default="auto")
    build.add_argument("--valid-fraction", type=float, default=0.1)
    build.add_argument("--test-fraction", type=float, default=0.0)
    build.add_argument("--seed", type=int, default=1234)
    build.add_argument("--size", type=int, default=224, help="image side in pixels, that of the model to train")
    build.add_argument("--skip-bad", action="store_true", help="leave out what is damaged instead of stopping")
    build.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    build.add_argument(
        "--features",
        default="",
        metavar="MODEL",
        help="also cache this reward model's features (blip: BLIP-large's), for train --fix_base",
    )
    download = actions.add_parser("download", help="fetch THUDM/ImageRewardDB from the Hugging Face hub")
    download.add_argument("--out", required=True, help="folder to put it in")
    download.add_argument("--subset", choices=("1k", "2k", "4k", "8k"), default="8k", help="number of training prompts")
    download.add_argument("--splits", default="train,validation,test", help="comma-separated")


def run(args: argparse.Namespace) -> int:
    """0 on success; prints the manifest, or the folder."""
    if args.action == "download":
        from imagereward_train.download import download_imagerewarddb

        print(download_imagerewarddb(args.out, args.subset, args.splits.split(","), progress=ProgressLine()))
        return OK
    from imagereward_train.dataset import build_dataset

    manifest = build_dataset(
        args.data,
        args.out,
        args.images,
        format=args.format,
        valid_fraction=args.valid_fraction,
        test_fraction=args.test_fraction,
        seed=args.seed,
        size=args.size,
        skip_bad=args.skip_bad,
        workers=args.workers,
        features=args.features,
        progress=ProgressLine(),
    )
    print(output.as_json(manifest, indent=1))
    return OK
