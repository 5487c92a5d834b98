"""Command-line flags of the settings, made from the dataclass, so that flags, JSON and code cannot drift apart.

All flags of the reference's ReFL script are accepted. Those without a meaning here are listed with the reason, which is
logged when one is used.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from imagereward_core.runs.presets import PRESETS, preset

from .config import ReFLConfig, load_config
from .errors import ConfigError
from .log import logger

UNUSED_REFERENCE_FLAGS: dict[str, tuple[Any, str]] = {
    "input_pertubation": (float, "the reference never read it"),
    "revision": (str, "models are local files"),
    "non_ema_revision": (str, "models are local files"),
    "dataset_config_name": (
        str,
        "no data set of the hub is loaded: give the prompts of that configuration as a file, with --train_data",
    ),
    "image_column": (str, "images for the pre-training loss come from --anchor_data"),
    "validation_prompts": ("list", "prompts are held out of the training data; see --held_out"),
    "validation_epochs": (int, "see --eval_steps"),
    "cache_dir": (str, "nothing is downloaded"),
    "center_crop": (bool, "training images of the pre-training loss are always centre-cropped"),
    "random_flip": (bool, "flipping would contradict captions that name a side"),
    "num_train_epochs": (int, "the number of updates is --max_train_steps"),
    "dataloader_num_workers": (int, "prompts are encoded once before training"),
    "push_to_hub": (bool, "results stay on this machine"),
    "hub_token": (str, "results stay on this machine"),
    "hub_model_id": (str, "results stay on this machine"),
    "logging_dir": (str, "events lie in the run folder"),
    "report_to": (
        str,
        "nothing is sent to a tracker, and no TensorBoard file is written: reward, loss and evaluations stand in the"
        " run folder's events.jsonl, and its report shows them as curves. Leave the flag out, or say --report_to none",
    ),
    "tracker_project_name": (str, "events lie in the run folder"),
    "local_rank": (int, "accelerate sets it in the environment"),
    "enable_xformers_memory_efficient_attention": (bool, "torch's own attention needs no extension"),
    "noise_offset": (float, "the reference never read it"),
}

# Of these, the ones that ask for what would be missed were they only ignored: anything but these values is refused.
REFUSED_REFERENCE_FLAGS: dict[str, tuple[str, ...]] = {"dataset_config_name": (), "report_to": ("none",)}

# The reference's spellings of settings that have a broader name here.
ALIASES = {"train_data": ("train_data_dir",), "tune": ("train",), "pretrained_model_name_or_path": ("model",)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting (default: not given) and the reference's unused flags, hidden."""
    parser.add_argument("--config", default=None, help="JSON file with settings; flags override it")
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default=None,
        help="batch sizes for a GPU of this memory and for the checkpoint's family",
    )
    for item in dataclasses.fields(ReFLConfig):
        names = [f"--{item.name}", *(f"--{alias}" for alias in ALIASES.get(item.name, ()))]
        kind = str(item.type).removesuffix("| None").strip()
        kwargs: dict[str, Any] = {
            "dest": item.name,
            "default": None,
            "help": str(item.metadata["help"]).replace("%", "%%"),
        }
        if kind == "bool":
            kwargs["action"] = argparse.BooleanOptionalAction
        elif kind == "list[str]":
            kwargs["nargs"] = "+"
        else:
            kwargs["type"] = {"int": int, "float": float, "str": str}[kind]
            kwargs["choices"] = item.metadata.get("choices")
        parser.add_argument(*names, **kwargs)
    for name, (kind, _) in UNUSED_REFERENCE_FLAGS.items():
        if kind is bool:
            parser.add_argument(f"--{name}", action="store_true", default=None, help=argparse.SUPPRESS)
        elif kind == "list":
            parser.add_argument(f"--{name}", nargs="+", default=None, help=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{name}", type=kind, default=None, help=argparse.SUPPRESS)


def config_from_namespace(namespace: argparse.Namespace) -> ReFLConfig:
    """Settings from parsed flags, on top of `--preset`, on top of `--config`."""
    config = load_config(namespace.config) if namespace.config else ReFLConfig()
    if namespace.preset:
        checkpoint = namespace.pretrained_model_name_or_path or config.pretrained_model_name_or_path
        config = dataclasses.replace(config, **preset(namespace.preset, checkpoint))
    known = {item.name for item in dataclasses.fields(ReFLConfig)}
    given = {name: value for name, value in vars(namespace).items() if name in known and value is not None}
    for name, (_, reason) in UNUSED_REFERENCE_FLAGS.items():
        value = getattr(namespace, name, None)
        if value is None or name == "local_rank":
            continue
        if name in REFUSED_REFERENCE_FLAGS:
            if value not in REFUSED_REFERENCE_FLAGS[name]:
                raise ConfigError(f"--{name} {value} is not supported: {reason}")
            continue
        logger.warning("--%s has no effect: %s", name, reason)
    try:
        return ReFLConfig.from_dict({**dataclasses.asdict(config), **given})
    except TypeError as error:
        raise ConfigError(str(error)) from error


def config_from_argv(argv: list[str] | None = None) -> ReFLConfig:
    """Parse `argv` (default: the process's own arguments) into settings."""
    parser = argparse.ArgumentParser(description="Reward fine-tuning of a Stable Diffusion checkpoint.")
    add_options(parser)
    return config_from_namespace(parser.parse_args(argv))
