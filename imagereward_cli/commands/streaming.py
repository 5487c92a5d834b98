"""`score` for many images: rows of a manifest or files of folders in, a line of results for each as it comes.

Chosen by --manifest, by an output that ends in .jsonl or .parquet, or by what only such a run can do (--resume,
--engine). Several processes share the rows: `torchrun --nproc_per_node 8 -m imagereward_core score …`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from imagereward_core.bulk import FORMS, Results, Row, form_of, read_rows, score_rows
from imagereward_core.errors import ConfigError
from imagereward_core.exit_codes import INTERRUPTED, OK, SOME_FAILED
from imagereward_core.image_files import find_images

from . import options, output, panel_choice

if TYPE_CHECKING:
    from imagereward_core.scorers.base import Scorer

STREAMED = (".jsonl", ".parquet")
# What needs all results at once, or the images themselves: those of a run that holds them.
WHOLE = ("write", "rescore", "sort", "min_score", "top", "remember", "form")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.set_defaults(refuse=parser.error)
    group = parser.add_argument_group("many images")
    group.add_argument(
        "--manifest",
        metavar="FILE",
        help="score what a .jsonl, .csv, .parquet (fields image, prompt, id) or .tar (WebDataset) lists; -o is needed",
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with the output of a run that was cut off (.jsonl, .csv, .parquet)"
    )
    group.add_argument(
        "--workers",
        type=options.positive,
        default=0,
        metavar="N",
        help="threads that decode and resize (default: one a core)",
    )
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: many machines, by Ray Data (pip install 'imagereward-webui[ray]'); a Parquet folder is the output",
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether these arguments ask for such a run. A command that names no image at all is refused with its usage."""
    asked = args.manifest or args.resume or args.engine != "local"
    streamed = str(args.output or "").lower().endswith(STREAMED)
    if not asked and not args.images:
        args.refuse("name images, folders or patterns, or a --manifest")
    return bool(asked or streamed)


def run(args: argparse.Namespace) -> int:
    """Score the rows; the exit code."""
    _check(args)
    job = options.job_of(args, args.prompt)
    if args.engine == "ray":
        return _by_ray(args, job.model)
    rank, count = placing()
    output.check_target(args.output)
    with Results(args.output, job.model, resume=args.resume, rank=rank, count=count) as results:
        outcome = _score(args, results)
        if outcome == INTERRUPTED:
            return outcome
        complete = results.finish()
    if not args.quiet and not complete:
        options.say(f"process {rank} of {count} is done; the last one joins the results")
    return SOME_FAILED if results.failed else OK


def _check(args: argparse.Namespace) -> None:
    if not args.output:
        raise ConfigError(f"-o FILE is needed for results that are written as they come ({', '.join(FORMS)})")
    if args.manifest and args.images:
        raise ConfigError("give images or a --manifest, not both")
    if panel_choice.names_of(args.model):
        raise ConfigError("such a run takes one scorer: run it once for each, into an output of its own")
    for name in WHOLE:
        if getattr(args, name, None):
            flag = "--" + name.replace("_", "-") if name != "form" else "--json or --csv"
            raise ConfigError(f"{flag} needs all results at once; leave it out, or give the images without --manifest")
    if args.engine == "local":
        form_of(args.output)


def _by_ray(args: argparse.Namespace, model: str) -> int:
    from imagereward_core.bulk.ray_engine import score_with_ray

    if not args.manifest:
        raise ConfigError("--engine ray scores a --manifest: a list of files is no list for many machines")
    how = {"batch_size": args.batch_size or 8, "actors": args.workers, "gpus": float(args.device == "cuda")}
    load = options.loader_of(args)
    total, failed = score_with_ray(
        args.manifest, args.output, load, model, prompt=args.prompt, resume=args.resume, **how
    )
    if not args.quiet:
        options.say(f"{total} rows are in {args.output}, {failed} with errors")
    return SOME_FAILED if failed else OK


def placing() -> tuple[int, int]:
    """(rank, count) of this process, as torchrun and `accelerate launch` tell it."""
    try:
        return int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE must be numbers, as torchrun sets them: {error}") from error


def rows_of(args: argparse.Namespace) -> Iterator[Row]:
    """The rows that these arguments name."""
    if args.manifest:
        yield from read_rows(args.manifest)
        return
    note = None if args.quiet else options.say
    paths = find_images(args.images, args.recursive, exclude=args.exclude, grids=args.include_grids, note=note)
    if not paths:
        raise ConfigError(f"no images in {', '.join(map(str, args.images))}")
    yield from (Row(os.fspath(path), os.fspath(path)) for path in paths)


def _score(args: argparse.Namespace, results: Results) -> int:
    from tqdm import tqdm

    start, count = time.monotonic(), 0
    with tqdm(unit="img", disable=True if args.quiet else None, file=sys.stderr, dynamic_ncols=True) as bar:
        try:
            rows = results.rows(rows_of(args))
            first = next(rows, None)  # nothing is loaded for a run that is done
            bar.update(results.done)
            if first is not None:
                for batch in _scored(args, first, rows):
                    for scored in batch:
                        results.add(scored)
                    results.flush()
                    count += len(batch)
                    bar.update(len(batch))
        except KeyboardInterrupt:
            options.say(f"interrupted after {results.done + count} rows; --resume goes on")
            return INTERRUPTED
    if not args.quiet:
        rate = f" ({count / max(time.monotonic() - start, 1e-9):.1f} img/s)" if count else ""
        told = f", {results.done} were done" if results.done else ""
        options.say(f"{count} rows scored{rate}{told}, {results.failed} with errors")
    return OK


def _scored(args: argparse.Namespace, first: Row, rows: Iterator[Row]) -> Iterator[list[Any]]:
    scorer: Scorer = options.loader_of(_on_its_device(args))()
    scorer.exif_transpose = args.exif_rotation

    def all_rows() -> Iterator[Row]:
        yield first
        yield from rows

    yield from score_rows(all_rows(), scorer, batch_size=args.batch_size, workers=args.workers, prompt=args.prompt)


def _on_its_device(args: argparse.Namespace) -> argparse.Namespace:
    """Of several processes on one machine each takes its own GPU, unless a device is named."""
    local = os.environ.get("LOCAL_RANK")
    if args.device is not None or local is None:
        return args
    import torch

    if not torch.cuda.is_available():
        return args
    return argparse.Namespace(**{**vars(args), "device": f"cuda:{int(local) % torch.cuda.device_count()}"})
