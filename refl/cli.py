"""`python -m refl train | branch | estimate | export | control`: parse, make a config, call one function."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imagereward_core.exit_codes import FAILED, INTERRUPTED, OK, STOP_RULE, USAGE
from imagereward_core.interrupts import Interrupts
from imagereward_core.runs import COMMANDS as RUN_COMMANDS
from imagereward_core.runs import Name, State

from .config import ReFLConfig
from .errors import ReFLError
from .log import FORM, logger
from .options import add_options, config_from_namespace

if TYPE_CHECKING:
    from .trainer import Trainer

COMMANDS = ("train", "branch", "estimate", "export", "control")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 error, 2 wrong usage, 3 stopped by the stop rule, 130 or 143
    saved and stopped by a signal).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0] not in COMMANDS and argv[0] not in ("-h", "--help")):
        argv.insert(0, "train")  # `accelerate launch -m refl --config run.json`
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format=FORM, stream=sys.stderr)
    try:
        return args.run(args)
    except ReFLError as error:
        if not getattr(error, "told", False):
            logger.error("%s%s", error, f" - {error.hint}" if error.hint else "")
        return FAILED
    except Exception as error:
        if getattr(error, "told", False):  # with its traceback, as log.txt has it
            return FAILED
        raise
    except KeyboardInterrupt:  # before a run has begun
        logger.error("interrupted")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m refl", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train a checkpoint towards a reward")
    add_options(train)
    train.add_argument("--run-dir", help="run folder; the same as --output_dir")
    train.add_argument(
        "--follow-stdin", action="store_true", help="save and stop when standard input ends (the starting process died)"
    )
    train.add_argument("--name-reserved", action="store_true", help=argparse.SUPPRESS)  # said by the host, which did it
    train.set_defaults(run=_train)
    estimate = commands.add_parser("estimate", help="memory a run needs, without running it")
    add_options(estimate)
    estimate.add_argument("--table", action="store_true", help="also for other resolutions, batches and bases")
    estimate.set_defaults(run=_estimate)
    export = commands.add_parser("export", help="write the result of a saved state again, perhaps in another form")
    add_options(export)
    export.add_argument("--run-dir", required=True, help="run folder")
    export.add_argument("--step", type=int, help="saved update to export; default the newest")
    export.set_defaults(run=_export)
    branch = commands.add_parser("branch", help="train a new run that goes on from a saved state of another")
    add_options(branch)
    branch.add_argument("--run-dir", required=True, help="run folder to begin from; it stays as it is")
    branch.add_argument("--step", type=int, required=True, help="saved update to go on from")
    branch.set_defaults(run=_branch)
    control = commands.add_parser("control", help=", ".join(RUN_COMMANDS))
    control.add_argument("run_dir")
    control.add_argument("command")
    control.set_defaults(run=_control)
    return parser


def _train(args: argparse.Namespace) -> int:
    trainer: Trainer | None = None

    def stop() -> None:
        if trainer is None:  # still importing: there is nothing to save
            raise KeyboardInterrupt
        trainer.interrupt()

    echo = 2.0 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0.0  # launchers pass on what the terminal sent
    with Interrupts(stop, grace=echo) as interrupts:
        from .runfiles import follow_stdin
        from .trainer import Trainer

        config = config_from_namespace(args)
        if args.run_dir:
            config = dataclasses.replace(config, output_dir=args.run_dir)
        trainer = Trainer(args=config, name_reserved=args.name_reserved)
        if args.follow_stdin:
            follow_stdin(trainer.request_stop)
        result = trainer.train()
    logger.info("%s after %d updates%s", result.state, result.step, f": {result.reason}" if result.reason else "")
    if result.exported:
        logger.info("wrote %s", result.exported)
    if interrupts.received and result.state == State.STOPPED:
        return interrupts.exit_code
    return STOP_RULE if result.state == State.STOP_RULE else OK


def _branch(args: argparse.Namespace) -> int:
    from .output import begin_branch

    known = {item.name for item in dataclasses.fields(ReFLConfig)} - {"output_dir"}
    given = {name: value for name, value in vars(args).items() if name in known and value is not None}
    folder = begin_branch(Path(args.run_dir), args.step, args.output_dir, given)
    return _train(_parser().parse_args(["train", "--config", str(folder / Name.CONFIG), "--run-dir", str(folder)]))


def _estimate(args: argparse.Namespace) -> int:
    from .fitting import bases, table
    from .memory import subject

    try:
        given = subject(config_from_namespace(args))
        found = {**given.estimate().as_dict(), "resolution": given.config.resolution}
        if args.table:
            found |= {"table": table(given), "bases": bases(given)}
    except ReFLError as error:
        print(json.dumps({"error": f"{str(error).rstrip('.')}. {error.hint}".strip()}))
        raise
    print(json.dumps(found))
    return OK


def _export(args: argparse.Namespace) -> int:
    from .output import write_again

    given = {
        name: value for name in ("output", "output_name", "export_dir") if (value := getattr(args, name)) is not None
    }
    path, note = write_again(Path(args.run_dir), args.step, given)
    logger.info("wrote %s", path)
    if note:
        logger.warning("%s", note)
    return OK


def _control(args: argparse.Namespace) -> int:
    from .runfiles import send

    if args.command not in RUN_COMMANDS:
        logger.error("unknown command %r; there are %s", args.command, ", ".join(RUN_COMMANDS))
        return USAGE
    send(args.run_dir, args.command)
    return OK
