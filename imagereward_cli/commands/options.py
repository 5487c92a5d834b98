"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagereward_core import naming, registry
from imagereward_core.errors import ConfigError, ImageRewardError
from imagereward_core.files import ScoreJob
from imagereward_core.library import library_place
from imagereward_core.printable import harmless
from imagereward_core.taste import place as tastes

from . import scorer_choice

if TYPE_CHECKING:
    from imagereward_core.scorers.base import Scorer

DEFAULT_MODEL = registry.MODELS[0].name


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {text}")
    return value


def own_key(text: str) -> str:
    """The name of reward models' score in the files."""
    try:
        return registry.check_own_key(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, where and how."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        "--scorer",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_PATH",
        help=(
            f"{', '.join(registry.names())}, the name of a taste, the path of a reward model's file"
            f" ({', '.join(naming.MODEL_SUFFIXES)}), or package.module:function that makes a scorer; `score` and `rank`"
            " take several, A,B,C (default %(default)s)"
        ),
    )
    scorer_choice.add_arguments(group)
    group.add_argument(
        "--download-root", metavar="DIR", help="folder to look for weights in first, and to download them to"
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: cuda if there is one)")
    group.add_argument(
        "--precision",
        default="auto",
        help="auto, fp32, fp16, bf16, or int8 on the CPU (default %(default)s: fp16 on cuda, else fp32)",
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=0,
        metavar="N",
        help="images computed at once (default: what was measured to be fastest, 4 on a CPU, else 8)",
    )


def add_image_arguments(parser: argparse.ArgumentParser, needed: bool = True) -> None:
    """Which images, and how they are read. needed: there must be one, as nothing else names any."""
    count = "+" if needed else "*"
    parser.add_argument("images", nargs=count, help="image files, folders or patterns such as 'out/*.png'")
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with everything below them")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files and folders of this name, such as '*-old' or 'txt2img/2023-*'; may be repeated",
    )
    parser.add_argument(
        "--include-grids", action="store_true", help="also take grids (grid-*.png, *-grids folders), left out otherwise"
    )
    parser.add_argument(
        "--exif-rotation",
        action="store_true",
        help="turn photographs as the camera says (the published model was trained without)",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """In which form the result is given."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_const", const="json", dest="form", help="one JSON object instead of a table"
    )
    form.add_argument(
        "--csv", action="store_const", const="csv", dest="form", help="CSV with a header instead of a table"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write there instead of to the terminal; .json and .csv choose the form"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary")


def job_of(args: argparse.Namespace, prompt: str | None, **changes: Any) -> ScoreJob:
    """The job these arguments describe."""
    path = model_path(args.model, getattr(args, "library", None))
    former: frozenset[str] = frozenset()
    if chosen := scorer_choice.stored_as(args, path):
        info, name = chosen
    else:
        info = registry.describe(os.fspath(path)) if path else registry.get(args.model)
        name = naming.own_model_name(path) if path else info.name
        former = naming.former_names(path) if path else frozenset()
    if args.precision == "int8":
        # its scores differ by about a tenth: they must not pass for exact ones in a later run, nor those for these
        name, former = f"{name} int8", frozenset()
    job = ScoreJob(info, name, prompt, exif_transpose=args.exif_rotation, batch_size=args.batch_size, former=former)
    return dataclasses.replace(job, **changes)


def loader_of(args: argparse.Namespace, pool: Any = None) -> Callable[[], Scorer]:
    """A function that loads the model these arguments name; `pool` holds the backbones it shares with others."""

    def load() -> Scorer:
        from imagereward_core.scorers import load_scorer

        name: Any = model_path(args.model, getattr(args, "library", None)) or args.model
        places = {"device": args.device, "download_root": args.download_root, "precision": args.precision}
        try:
            return scorer_choice.own_scorer(args) or load_scorer(name, pool=pool, **places, **scorer_choice.given(args))
        except ImageRewardError:
            raise
        except (RuntimeError, AssertionError) as error:  # torch raises both for a device it does not have
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"cannot load {args.model} on {args.device or 'the default device'}: {reason}; choose another with"
                " --device"
            ) from error

    return load


def model_path(name: str, library: str | None = None) -> Path | None:
    """The file if `--model` names one, or a taste that lies beside the library; None if it is another scorer's name."""
    if name.lower() in (known.lower() for known in registry.names()):
        return None
    if (taste := tastes.find(name, library_place(library))) is not None:
        return taste
    looks_like_one = os.path.isfile(name) or name.lower().endswith(naming.MODEL_SUFFIXES)
    return Path(name) if looks_like_one else None


def say(text: str) -> None:
    """A message beside the result: to stderr, so that the output can be piped."""
    print(f"imagereward: {harmless(text)}", file=sys.stderr)
