"""Rank several images for one prompt: 1 is the best. Without --prompt, the images must all have been made from the same
one.

Scores are always computed, not taken from the files, where they are rounded."""

from __future__ import annotations

import argparse
import os

from imagereward_core.errors import ConfigError

from . import options, output
from .score import Outcome, record, score_all, score_of, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_image_arguments(parser)
    parser.add_argument("-p", "--prompt", help="the prompt (default: the images' own)")
    options.add_output_arguments(parser)
    options.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    job = options.job_of(args, args.prompt, rescore=True)
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
                os.fspath(result.path),
            )
        )
        records.append({"rank": rank, **record(result)})
    summary = {
        "model": job.model,
        "prompt": best[0].prompt if best else args.prompt,
        "interrupted": outcome.interrupted,
        "failed": [{"file": os.fspath(result.path), "error": result.error} for result in outcome.failed],
    }
    output.emit(
        output.form_of(args.form, args.output),
        args.output,
        ("rank", "score", "to best", "file"),
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
