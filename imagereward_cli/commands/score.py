"""Score images against a prompt, or each against the prompt it was made from (in its metadata or a .txt file beside
it).

Web UI syntax in an image's own prompt (weights, <lora:...>) is resolved to plain words; --prompt is taken as it is.
With --write the score goes into the image's metadata, and the next run skips images that have a score of the same model
for the same prompt. Bad images are named and skipped. With several scorers (--scorer A,B,C) each one's own value, their
common value and their disagreement are given.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagereward_core.errors import ConfigError, ImageRewardError
from imagereward_core.exit_codes import INTERRUPTED, OK, SOME_FAILED
from imagereward_core.files import FileScore, ScoreJob, score_files
from imagereward_core.image_files import find_images, natural
from imagereward_core.metadata.formats import NAMES
from imagereward_core.panel import to_text
from imagereward_core.panel.files import PanelFile, PanelFiles

from . import options, output, panel_choice, remembering, streaming

if TYPE_CHECKING:
    from imagereward_core.scorers.base import Scorer

Source = Callable[["list[Path]", Callable[[], object]], "Iterator[FileScore]"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_image_arguments(parser, needed=False)
    streaming.add_arguments(parser)
    parser.add_argument("-p", "--prompt", help="the prompt for all images (default: each image's own)")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"put the score into the image's metadata ({NAMES}; pixels stay as they are)",
    )
    parser.add_argument("--rescore", action="store_true", help="compute again what has a score already")
    parser.add_argument(
        "--key",
        type=options.own_key,
        metavar="NAME",
        help="the score's name in the metadata, for reward models (default ImageReward; other scorers keep their own)",
    )
    chosen = parser.add_argument_group("result")
    chosen.add_argument(
        "--sort",
        nargs="?",
        const="best",
        choices=("best", "worst", "name", "given"),
        help="order (default: as given; best first with --top)",
    )
    chosen.add_argument("--min-score", type=float, metavar="X", help="list only images with at least this score")
    chosen.add_argument("--top", type=options.positive, metavar="K", help="list only the K best")
    remembering.add_arguments(parser)
    options.add_output_arguments(parser)
    options.add_model_arguments(parser)
    panel_choice.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if streaming.wanted(args):
        return streaming.run(args)
    changes = {"write": args.write, "rescore": args.rescore, "key": args.key or ""}
    if names := panel_choice.names_of(args.model):
        return _run_panel(args, panel_choice.panel_of(args, names, args.prompt, **changes))
    job = options.job_of(args, args.prompt, **changes)
    with remembering.Remembering(args, [job]) as remember:
        outcome = score_all(args, job, options.loader_of(args), remember)
    listed = select(outcome.scored, args.sort, args.min_score, args.top)
    report(args, {"model": job.model}, outcome, listed)
    return outcome.finish()


def _run_panel(args: argparse.Namespace, panel: PanelFiles) -> int:
    if args.min_score is not None:
        panel_choice.refuse_limit(panel)
    with remembering.Remembering(args, list(panel.jobs.values())) as remember:
        outcome = score_by_panel(args, panel, remember)
    listed = select(outcome.scored, args.sort, args.min_score, args.top)
    report(args, panel_choice.summary_of(panel), outcome, listed, panel)
    return outcome.finish()


@dataclass
class Outcome:
    """What became of all files. `fatal` ended the run early: an error of the model, which no other image would
    escape.
    """

    results: list[FileScore] = field(default_factory=list)
    interrupted: bool = False
    fatal: ImageRewardError | None = None
    seconds: float = 0.0

    @property
    def scored(self) -> list[FileScore]:
        return [result for result in self.results if result.score is not None]

    @property
    def failed(self) -> list[FileScore]:
        return [result for result in self.results if result.error]

    def finish(self) -> int:
        """The exit code, once what is done is printed. Raises what ended the run."""
        if self.fatal is not None:
            raise self.fatal
        return INTERRUPTED if self.interrupted else SOME_FAILED if self.failed else OK


def score_all(
    args: argparse.Namespace,
    job: ScoreJob,
    load: Callable[[], Scorer],
    each: Callable[[FileScore], object] = lambda result: None,
) -> Outcome:
    """Score every image these arguments name, with a progress bar; Ctrl-C keeps what is done. Results in the order
    given; `each` gets them as they come.
    """

    def source(paths: list[Path], tick: Callable[[], object]) -> Iterator[FileScore]:
        for result in score_files(paths, job, load):
            tick()
            yield result

    return _all(args, source, 1, each)


def score_by_panel(
    args: argparse.Namespace, panel: PanelFiles, each: Callable[[FileScore], object] = lambda result: None
) -> Outcome:
    """The same with several scorers; the bar counts each image once per batch of scorers."""
    return _all(args, panel.score, len(panel.batches), each)


def _all(args: argparse.Namespace, source: Source, times: int, each: Callable[[FileScore], object]) -> Outcome:
    from tqdm import tqdm

    output.check_target(args.output)
    paths = find_images(args.images, args.recursive, exclude=args.exclude, grids=args.include_grids, note=options.say)
    if not paths:
        raise ConfigError(
            f"no images in {', '.join(map(str, args.images))}"
            + ("" if args.recursive else "; --recursive also looks in the folders below")
        )
    outcome, start = Outcome(), time.monotonic()
    with tqdm(
        total=len(paths) * times, unit="img", disable=True if args.quiet else None, file=sys.stderr, dynamic_ncols=True
    ) as bar:
        try:
            for result in source(paths, bar.update):
                outcome.results.append(result)
                each(result)
                if result.error:
                    with bar.external_write_mode(sys.stderr):
                        options.say(
                            result.error if os.fspath(result.path) in result.error else f"{result.path}: {result.error}"
                        )
        except KeyboardInterrupt:
            outcome.interrupted = True
        except ImageRewardError as error:
            if not outcome.results:
                raise
            outcome.fatal = error
    outcome.seconds = time.monotonic() - start
    order = {path: index for index, path in enumerate(paths)}
    outcome.results.sort(key=lambda result: order[result.path])
    if not args.quiet:
        options.say(_summary(outcome, len(paths)))
    return outcome


def _summary(outcome: Outcome, total: int) -> str:
    computed = sum(not result.stored for result in outcome.scored)
    rate = f", {computed / outcome.seconds:.1f} img/s" if computed and outcome.seconds else ""
    parts = [
        f"{computed} scored",
        f"{len(outcome.scored) - computed} had a score",
        f"{len(outcome.failed)} with errors",
    ]
    ended = "interrupted: " if outcome.interrupted else "ended early: " if outcome.fatal else ""
    return ended + f"{', '.join(parts)}, of {total} images in {outcome.seconds:.1f} s{rate}"


def select(scored: Sequence[FileScore], sort: str | None, min_score: float | None, top: int | None) -> list[FileScore]:
    """The results to list, in the order to list them."""
    kept = [result for result in scored if min_score is None or score_of(result) >= min_score]
    best = sorted(kept, key=score_of, reverse=True)[:top]
    sort = sort or ("best" if top else "given")
    if sort == "best":
        return best
    if sort == "worst":
        return best[::-1]
    chosen = set(map(id, best))
    kept = [result for result in kept if id(result) in chosen]
    return sorted(kept, key=lambda result: natural(result.path)) if sort == "name" else kept


def score_of(result: FileScore) -> float:
    """The score of a result that has one."""
    return float("-inf") if result.score is None else result.score


def report(
    args: argparse.Namespace,
    by: dict[str, Any],
    outcome: Outcome,
    listed: Sequence[FileScore],
    panel: PanelFiles | None = None,
) -> None:
    """Print the listed results in the form asked for. `by`: what is recorded of the scorer, or the panel."""
    rows = [
        (f"{score_of(result):.4f}", *shown(result), os.fspath(result.path), result.prompt or "") for result in listed
    ]
    records = [record(result, panel) for result in listed]
    summary = {
        **by,
        "interrupted": outcome.interrupted,
        "failed": [{"file": os.fspath(result.path), "error": result.error} for result in outcome.failed],
    }
    header = ("score", *(("disagreement", *panel.jobs) if panel else ()), "file", "prompt")
    output.emit(output.form_of(args.form, args.output), args.output, header, rows, records, summary)


def shown(result: FileScore) -> tuple[str, ...]:
    """A panel's cells of the table."""
    if not isinstance(result, PanelFile):
        return ()
    return f"{result.disagreement or 0.0:.4f}", *(f"{value:.4f}" for value in result.by_scorer.values())


def record(result: FileScore, panel: PanelFiles | None = None) -> dict[str, Any]:
    """A result as JSON and CSV hold it: the score at full precision, and of a panel each scorer's own."""
    made: dict[str, Any] = {"file": os.fspath(Path(result.path)), "score": result.score}
    if panel is not None and isinstance(result, PanelFile):
        made["disagreement"] = result.disagreement
        made["by_scorer"] = {name: result.by_scorer.get(name) for name in panel.jobs}
        made["standardised_by"] = to_text(panel.constants) or panel_choice.RANKS
    return {
        **made,
        "prompt": result.prompt,
        "prompt_source": result.source,
        "stored": result.stored,
        "written": result.written,
    }
