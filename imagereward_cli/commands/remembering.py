"""`--remember`: what a command scores goes into the library."""

from __future__ import annotations

import argparse
import re
from types import TracebackType

from imagereward_core.files import FileScore, ScoreJob
from imagereward_core.library import Record, Recorder, Score, library_place

from . import options

LAST = 60.0  # seconds that are waited for what is still to be written at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("library")
    group.add_argument(
        "--remember",
        action="store_true",
        help="keep scores, prompts and settings in the library (see `imagereward library`); no picture is copied",
    )
    group.add_argument(
        "--library",
        metavar="FILE",
        help="the library's file or its folder, with --remember (default: IMAGEREWARD_LIBRARY, else the user's data"
        " folder)",
    )


class Remembering:
    """Called with each result; does nothing without --remember. What goes wrong with the library is said once."""

    def __init__(self, args: argparse.Namespace, job: ScoreJob):
        self.job = job
        self.quiet = args.quiet
        self.recorder: Recorder | None = None
        if args.remember:
            self.recorder = Recorder(library_place(args.library), say=options.say)

    def __call__(self, result: FileScore) -> None:
        if self.recorder is None or result.score is None:
            return
        given = result.prompt if result.source == "given" and self.job.info.uses_prompt else None
        score = Score(self.job.model, result.score, _digest(self.job), given)
        self.recorder.wait_for_room()
        self.recorder.remember(Record(result.path, scores=(score,)))

    def __enter__(self) -> Remembering:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.recorder is None:
            return
        self.recorder.close(LAST)
        if not self.quiet and not self.recorder.trouble:
            options.say(f"{self.recorder.written} pictures remembered in {self.recorder.place}")


def _digest(job: ScoreJob) -> str:
    """What is known of the weights: the digest in the name of a model of one's own, else the registry's."""
    own = re.search(r"\[([0-9a-f]{10,64})\]", job.model)
    return own[1] if own else job.info.sources[0].sha256 or ""
