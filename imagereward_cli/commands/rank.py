"""Rank several images for one prompt: 1 is the best. Without --prompt, the images must all have been made from the same
one.

Scores are always computed, not taken from the files, where they are rounded."""

from __future__ import annotations

import argparse
import os

from imagereward_core.errors import ConfigError
from imagereward_core.panel.files import PanelFiles

from . import options, output, panel_choice
from .score import Outcome, record, score_all, score_by_panel, score_of, select, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_image_arguments(parser)
    parser.add_argument("-p", "--prompt", help="the prompt (default: the images' own)")
    options.add_output_arguments(parser)
    options.add_model_arguments(parser)
    panel_choice.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    panel: PanelFiles | None = None
    if names := panel_choice.names_of(args.model):
        panel = panel_choice.panel_of(args, names, args.prompt, rescore=True)
        by = panel_choice.summary_of(panel)
        outcome = score_by_panel(args, panel)
    else:
        job = options.job_of(args, args.prompt, rescore=True)
        by = {"model": job.model}
        outcome = score_all(args, job, options.loader_of(args))
    _one_prompt(outcome)
    best = select(outcome.scored, "best", None, None)
    rows, records = [], []
    for rank, result in enumerate(best, start=1):
        rows.append(
            (
                str(rank),
                f"{score_of(result):.4f}",
                f"{score_of(result) - score_of(best[0]):.4f}",
                *shown(result),
                os.fspath(result.path),
            )
        )
        records.append({"rank": rank, **record(result, panel)})
    summary = {
        **by,
        "prompt": best[0].prompt if best else args.prompt,
        "interrupted": outcome.interrupted,
        "failed": [{"file": os.fspath(result.path), "error": result.error} for result in outcome.failed],
    }
    output.emit(
        output.form_of(args.form, args.output),
        args.output,
        ("rank", "score", "to best", *(("disagreement", *panel.jobs) if panel else ()), "file"),
        rows,
        records,
        summary,
    )
    return outcome.finish()


def _one_prompt(outcome: Outcome) -> None:
    prompts = {result.prompt for result in outcome.scored}
    if len(prompts) > 1:
        raise ConfigError(
            f"the images were made from {len(prompts)} different prompts; choose one with --prompt to rank them"
        )
