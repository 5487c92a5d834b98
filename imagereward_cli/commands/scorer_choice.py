"""Which scorer a command line asks for beyond a name of the registry or a reward model's path: own code, given weights,
settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagereward_core import registry
from imagereward_core.errors import ConfigError
from imagereward_core.hashing import file_digest
from imagereward_core.registry import ModelInfo

if TYPE_CHECKING:
    from imagereward_core.scorers.base import Scorer


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """The flags."""
    group.add_argument("--weights", metavar="FILE", help="weights of the scorer to load instead of the published ones")
    group.add_argument(
        "--scorer-config",
        metavar="JSON",
        help="file with sizes that the weights do not tell and with settings (antialias, threshold, backbone …)",
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What these flags add to the loader's options."""
    found = {"weights": getattr(args, "weights", None), "config": getattr(args, "scorer_config", None)}
    return {name: value for name, value in found.items() if value is not None}


def stored_as(args: argparse.Namespace, path: Path | None = None) -> tuple[ModelInfo, str] | None:
    """(entry, name that is stored beside a score); None where name or path alone say it. Own code is loaded for it, and
    of a `path` the JSON beside it is read.
    """
    if ":" in args.model:
        scorer = own_scorer(args)
        if scorer is not None:
            return scorer.info, scorer.name
    if not given(args):
        if path is None or not path.with_suffix(".json").is_file():
            return None
        from imagereward_core.scorers import entry_of

        return entry_of(path)
    from imagereward_core.scorers.loading import read_config, settings_of

    info = registry.get(args.model)
    name = registry.labelled(info, settings_of(info, read_config(args.scorer_config)))
    if args.weights is None:
        return info, name
    try:
        return info, f"{name} [{file_digest(Path(args.weights))[:10]}]"  # two files of one scorer differ
    except OSError as error:
        raise ConfigError(f"--weights {args.weights} cannot be read: {error.strerror or error}") from error


def own_scorer(args: argparse.Namespace) -> Scorer | None:
    """The scorer of `package.module:function`, loaded once; None for another name."""
    from imagereward_core.scorers import load_scorer, own

    if not own.is_spec(args.model) or Path(args.model).exists():
        return None
    if getattr(args, "own_scorer", None) is None:
        places = {"device": args.device, "download_root": args.download_root, "precision": args.precision}
        args.own_scorer = load_scorer(args.model, own_code=True, **places, **given(args))
    return args.own_scorer
