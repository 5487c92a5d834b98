"""`--scorer A,B,C`: several scorers as one, and what their scores are standardised by."""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagereward_core import panel
from imagereward_core.errors import ConfigError
from imagereward_core.files import ScoreJob
from imagereward_core.panel.files import PanelFiles, check_names

from . import options, scorer_choice

if TYPE_CHECKING:
    from imagereward_core.scorers.base import Scorer

REGISTRY, LIBRARY = "registry", "library"
RANKS = "ranks within the prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a panel."""
    group = parser.add_argument_group("panel", "several scorers as one: --scorer ImageReward-v1.0,PickScore,HPSv2.1")
    group.add_argument(
        "--standardise",
        default=REGISTRY,
        metavar="BY",
        help="what the scorers' values are standardised by: registry (the authors' mean and SD; ranks within the prompt"
        " where a scorer has none), library (those of your own scores), or a JSON file of"
        ' {"NAME": {"mean": …, "std": …}}, such as a former result of --json (default %(default)s)',
    )
    group.add_argument(
        "--panel-memory",
        default="auto",
        choices=panel.POLICIES,
        help="whether all scorers are loaded at once (default %(default)s: if they fit into the memory that is free)",
    )


def names_of(model: str) -> list[str]:
    """The scorers that `--scorer A,B,C` names; none where it names one, which may be a file with a comma in its
    name.
    """
    if "," not in model or os.path.exists(model):
        return []
    return [name.strip() for name in model.split(",") if name.strip()]


def panel_of(args: argparse.Namespace, names: Sequence[str], prompt: str | None, **changes: Any) -> PanelFiles:
    """The panel these arguments describe. Raises ConfigError, ModelNotFoundError, LibraryError."""
    if scorer_choice.given(args):
        raise ConfigError(
            "--weights and --scorer-config are of one scorer; in a panel name the file itself, with a JSON of the same"
            ' name beside it that says {"scorer": "NAME"}'
        )
    single = {name: _alone(args, name) for name in names}
    found = [(name, options.job_of(single[name], prompt, **changes)) for name in names]
    check_names([job.model for _, job in found])
    jobs = {job.model: job for _, job in found}
    called = {job.model: name for name, job in found}

    def load(wanted: Sequence[str]) -> list[Scorer]:
        from imagereward_core.scorers.loading import Pool

        pool = Pool()  # backbones that these share
        return [options.loader_of(single[called[model]], pool)() for model in wanted]

    return PanelFiles(jobs, load, _batches(args, called), _given(args.standardise, jobs))


def _alone(args: argparse.Namespace, name: str) -> argparse.Namespace:
    single = copy.copy(args)
    single.model, single.own_scorer = name, None
    return single


def _batches(args: argparse.Namespace, called: Mapping[str, str]) -> list[list[str]]:
    """The stored names in groups that are in memory together."""
    names = list(called.values())
    sizes = {"device": args.device, "precision": args.precision}
    together = args.panel_memory == "together" or (args.panel_memory == "auto" and panel.fits(names, sizes))
    model = {name: stored for stored, name in called.items()}
    return [[model[name] for name in batch] for batch in ([names] if together else panel.by_backbone(names))]


def _given(by: str, jobs: Mapping[str, ScoreJob]) -> dict[str, panel.Constants]:
    if by == REGISTRY:
        return {}
    if by == LIBRARY:
        return panel.from_library({name: name for name in jobs})
    if not Path(by).is_file():
        raise ConfigError(f"--standardise takes {REGISTRY}, {LIBRARY} or a JSON file; there is no file {by}")
    return panel.read(by)


def refuse_limit(chosen: PanelFiles) -> None:
    """ConfigError where no limit can be set: the values are ranks."""
    if not chosen.constants:
        raise ConfigError(
            f"--min-score needs values that mean the same in every job; no mean and SD are published of"
            f" {', '.join(chosen.unknown)}: give --standardise library, or a JSON file. --top and --sort work without"
        )


def summary_of(chosen: PanelFiles) -> dict[str, Any]:
    """What is recorded with a result: the scorers, and the constants or that ranks count."""
    constants = {
        name: {"mean": found.mean, "std": found.std, "source": found.source} for name, found in chosen.constants.items()
    }
    by = "constants" if constants else RANKS
    return {"panel": list(chosen.jobs), "standardised_by": by, "constants": constants}
