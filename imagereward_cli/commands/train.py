"""`imagereward train`: every setting of TrainConfig is a flag, and the flags of the authors' script are understood."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import time
from typing import Any

from imagereward_core.errors import ConfigError
from imagereward_core.exit_codes import OK
from imagereward_core.interrupts import Interrupts
from imagereward_train.config import TrainConfig

# Flags of the authors' train.py that need no counterpart, and why.
IGNORED = {
    "distributed": "accelerate launch decides",
    "gpu_num": "accelerate launch decides",
    "gpu_id": "use CUDA_VISIBLE_DEVICES",
    "BatchSize": "it follows from batch_size, accumulation_steps and the number of devices",
    "std_log": "redirect the output, or read metrics.jsonl",
    "clear_visualizer": "a new run needs a new savepath",
    "load_emb": "caches are used whenever they fit",
    "load_pair_store": "caches are used whenever they fit",
}
SWITCHES = ("std_log", "clear_visualizer", "load_emb", "load_pair_store")


def spellings(name: str) -> list[str]:
    """--lr_decay_style and --lr-decay-style are the same flag."""
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per setting. Nothing has a default here: what is not given comes from --config, then from
    TrainConfig.
    """
    parser.add_argument("--config", metavar="YAML", help="settings file; flags override it")
    parser.add_argument("--write-config", metavar="YAML", help="write all settings to this file and stop")
    for entry in dataclasses.fields(TrainConfig):
        kind = type(entry.default)
        default = "blip-large" if entry.name == "model" else entry.default
        options: dict[str, Any] = {"dest": entry.name, "default": argparse.SUPPRESS}
        text = f"{entry.metadata['help']} (default: {default!r})".replace("%", "%%")
        if kind is bool:
            parser.add_argument(
                *spellings(entry.name), nargs="?", const="true", metavar="true|false", help=text, **options
            )
        else:
            parser.add_argument(
                *spellings(entry.name),
                metavar=kind.__name__.upper() if kind in (int, float, str) else "NAME",
                help=text,
                **options,
            )
    for name in IGNORED:
        options = {"dest": f"ignored_{name}", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        options |= {"action": "store_true"} if name in SWITCHES else {"nargs": "?"}
        parser.add_argument(*spellings(name), **options)


def config_from(args: argparse.Namespace) -> TrainConfig:
    """The settings of a parsed command line."""
    given = vars(args)
    values = {entry.name: given[entry.name] for entry in dataclasses.fields(TrainConfig) if entry.name in given}
    if given.get("config"):
        return TrainConfig.from_yaml(given["config"], **values)
    return TrainConfig.from_dict(values)


class ProgressLine:
    """One line on stderr per stage, rewritten at most twice a second on a terminal and every 30 s elsewhere."""

    def __init__(self) -> None:
        self.shown, self.pause = 0.0, 0.5 if sys.stderr.isatty() else 30.0

    def __call__(self, stage: str, done: int, total: int, left: float) -> None:
        now = time.monotonic()
        if now - self.shown < self.pause and done < total:
            return
        self.shown = now
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"{stage} {done}/{total}, about {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """Train; 0 on success, the code of the signal if one ended it (the state is then saved)."""
    for name, why in IGNORED.items():
        if f"ignored_{name}" in vars(args):
            print(f"--{name} is not needed: {why}", file=sys.stderr)
    config = config_from(args)
    if args.write_config:
        config.to_yaml(args.write_config)
        print(args.write_config)
        return OK
    if not config.data:
        raise ConfigError("--data is missing: a file or folder of rankings or pairs")
    from imagereward_core.log import logger
    from imagereward_train.interruption import Interruption
    from imagereward_train.trainer import train

    first = os.environ.get("RANK", "0") == "0"  # one voice of several processes
    if first:
        logger.setLevel(logging.INFO)  # hours without a word help nobody
    interruption = Interruption()
    echo = 2.0 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0.0  # launchers pass on what the terminal sent
    with Interrupts(interruption.ask, grace=echo) as interrupts:
        try:
            best = train(config, progress=ProgressLine(), interruption=interruption)
        except KeyboardInterrupt:  # outside training: nothing is lost
            return interrupts.exit_code
    if interrupts.received is not None:
        if first:
            print(f"stopped; to go on, give --resume and the same settings: {config.savepath}", file=sys.stderr)
        return interrupts.exit_code
    if first:
        print(best)
    return OK
