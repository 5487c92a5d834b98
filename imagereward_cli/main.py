"""The command line: `imagereward COMMAND …`. Each command is a module with `add_arguments(parser)` and `run(args) ->
int`; it is imported only when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from imagereward_core import __version__
from imagereward_core.errors import (
    DownloadError,
    ImageRewardError,
    ModelNotFoundError,
    ScoreError,
    TrainingError,
    WeightsError,
)
from imagereward_core.exit_codes import INTERRUPTED, MODEL, OK, PIPE_CLOSED, USAGE
from imagereward_core.log import logger
from imagereward_core.printable import harmless

LAYOUT = "\n\t"  # of messages that are lists
# name → (module, one line of help). The one place to add a command.
COMMANDS = {
    "score": ("imagereward_cli.commands.score", "score images against a prompt or their own"),
    "rank": ("imagereward_cli.commands.rank", "rank several images for one prompt, best first"),
    "library": ("imagereward_cli.commands.library", "the memory of everything scored: find, compare, export"),
    "taste": ("imagereward_cli.commands.taste", "a scorer that learns what you like, from duels"),
    "train": ("imagereward_cli.commands.train", "train a reward model on rankings or pairs"),
    "dataset": (
        "imagereward_cli.commands.dataset",
        "check, split and cache preference data, or download ImageRewardDB",
    ),
    "bench": ("imagereward_cli.commands.bench", "reproduce the paper's tables with any scorer"),
    "fetch": ("imagereward_cli.commands.fetch", "download models ahead of time"),
    "doctor": ("imagereward_cli.commands.doctor", "check this installation and say how to fix what is wrong"),
}

EPILOG = """exit codes:
  0    done
  1    done, but some images could not be scored or written (they are named; all others were)
  2    the command line or a setting is wrong, or there are no images
  3    a model cannot be found, downloaded, loaded, run or trained; doctor found a problem
  130  interrupted; what was done until then is printed
  141  the program that read the output ended early

`imagereward COMMAND --help` explains a command."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; only `command` gets its arguments, the others stay names with one line of help."""
    parser = argparse.ArgumentParser(
        prog="imagereward",
        description="Human-preference scores for generated images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"imagereward {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, about) in COMMANDS.items():
        described = importlib.import_module(module) if name == command else None
        sub = commands.add_parser(
            name,
            help=about,
            description=described.__doc__ if described else about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("-v", "--verbose", action="store_true", help="log what is done")
        if described:
            described.add_arguments(sub)
            sub.set_defaults(run=described.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that lacks a character gets an escape, not a crash
            stream.reconfigure(errors="backslashreplace")
    command = next((word for word in argv if not word.startswith("-")), None)
    try:
        args = build_parser(command if command in COMMANDS else None).parse_args(argv)
        _log_to_stderr(args.verbose)
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse's way to end after --help or an error
        return int(stop.code or OK)
    except ImageRewardError as error:
        print(f"imagereward: {harmless(str(error), keep=LAYOUT)}", file=sys.stderr)
        return (
            MODEL
            if isinstance(error, (ModelNotFoundError, WeightsError, DownloadError, ScoreError, TrainingError))
            else USAGE
        )
    except KeyboardInterrupt:
        print("imagereward: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
        return PIPE_CLOSED


def _log_to_stderr(verbose: bool) -> None:
    """Warnings always, what is done with --verbose; once, also when several commands run in one process."""
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("imagereward: %(message)s"))
        logger.addHandler(handler)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record), keep=LAYOUT)


if __name__ == "__main__":
    raise SystemExit(main())
