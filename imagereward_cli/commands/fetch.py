"""Download models ahead of time, verified and resumable, so that scoring needs no network. What is here already is
kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from imagereward_core import registry, weights
from imagereward_core.exit_codes import OK

from . import options, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"{', '.join(registry.names())} (default {options.DEFAULT_MODEL})"
    )
    parser.add_argument("--all", action="store_true", help="every model")
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the models, their sizes and licences, and which are here; download nothing",
    )
    parser.add_argument(
        "--download-root",
        metavar="DIR",
        help="folder to put them in (default: IMAGEREWARD_HOME, else ~/.cache/ImageReward)",
    )
    parser.add_argument("--convert", choices=("fp32", "fp16"), help="also make the safetensors copy that loads fast")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    if args.list:
        print(_listing(args.download_root))
        return OK
    wanted = registry.names() if args.all else args.models or [options.DEFAULT_MODEL]
    for info in [registry.get(name) for name in wanted]:  # a misspelt name is an error before anything is downloaded
        with _Bar(info.name, args.quiet) as progress:
            paths = weights.fetch(info, download_root=args.download_root, progress=progress, convert=args.convert)
        for path in dict.fromkeys(paths):
            print(os.fspath(path))
    return OK


def _listing(download_root: str | None) -> str:
    rows = []
    for info in registry.MODELS:
        size = sum(source.size or source.about for source in info.sources)
        rows.append((info.name, f"{size / 1e9:.2f} GB", info.licence, _where(info, download_root), info.description))
    return output.table(("model", "size", "licence", "here", "about"), rows)


def _where(info: registry.ModelInfo, download_root: str | None) -> str:
    """How many of the model's files are on this machine."""
    count = len(info.sources) - len(weights.missing(info, download_root=download_root))
    return "yes" if count == len(info.sources) else f"{count} of {len(info.sources)} files" if count else "no"


class _Bar:
    """A progress bar that `weights.fetch` can call with (bytes done, bytes in total)."""

    def __init__(self, name: str, quiet: bool):
        from tqdm import tqdm

        self._bar = tqdm(
            desc=name,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=True if quiet else None,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Callable[[int, int | None], None]:
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _update(self, done: int, total: int | None) -> None:
        self._bar.total = total
        self._bar.n = done
        self._bar.refresh()
