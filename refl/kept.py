"""What a saved state belongs to: a run that goes on from it has the same, or it would be another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ConfigError
from .picks import PickSet
from .resolved import ResolvedConfig

SETTINGS = ("algorithm", "tune", "lora_rank", "lora_alpha", "lora_targets", "base_precision")
EARLIER = {"base_precision": "auto"}  # of states from before there was such a setting


def of(config: ResolvedConfig, picks: PickSet | None, samples: int) -> dict[str, Any]:
    """What is written into a state. `samples` are those of one update, of all processes."""
    settings = {name: getattr(config, name) for name in SETTINGS}
    return {"seed": config.seed, "samples": samples, "kept": {**settings, "picks": picks.digest if picks else ""}}


def check(info: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """ConfigError where a state's `info` is of another run than `here`, as `of` gives it."""
    for name, value in {**EARLIER, **info.get("kept", {})}.items():
        if name in here["kept"] and value != here["kept"][name]:
            raise ConfigError(
                f"this run was begun with {name} {value} and cannot go on with {here['kept'][name]}: keep it, or begin"
                " another run"
            )
    if any(info.get(name) != here[name] for name in ("seed", "samples")):
        raise ConfigError(
            "a resumed run must keep seed, train_batch_size, gradient_accumulation_steps and the number of processes"
        )
