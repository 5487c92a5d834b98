"""`--remember`: what a command scores goes into the library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import TracebackType

from imagereward_core.files import FileScore, ScoreJob
from imagereward_core.library import Record, Recorder, Score, library_place
from imagereward_core.panel.files import PanelFile
from imagereward_core.registry import weights_digest

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

    def __init__(self, args: argparse.Namespace, jobs: Sequence[ScoreJob]):
        self.jobs = {job.model: job for job in jobs}
        self.quiet = args.quiet
        self.recorder: Recorder | None = None
        if args.remember:
            self.recorder = Recorder(library_place(args.library), say=options.say)

    def __call__(self, result: FileScore) -> None:
        if self.recorder is None:
            return
        values = result.by_scorer if isinstance(result, PanelFile) else {next(iter(self.jobs)): result.score}
        scores = [
            Score(
                name,
                value,
                weights_digest(self.jobs[name].model, self.jobs[name].info),
                self._given_prompt(result, self.jobs[name]),
            )
            for name, value in values.items()
            if value is not None
        ]
        if scores:
            self.recorder.wait_for_room()
            self.recorder.remember(Record(result.path, scores=tuple(scores)))

    def _given_prompt(self, result: FileScore, job: ScoreJob) -> str | None:
        return result.prompt if result.source == "given" and job.info.uses_prompt else None

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
