"""Scorers as rewards: which are on this machine, and which one a newcomer starts with."""

from __future__ import annotations

from .. import host
from ..core import ImageRewardError, kind_of_file, registry, tastes
from ..core import module as core_module
from ..lifecycle import available

DEFAULT = "ImageReward-v1.0"


def usable() -> list[str]:
    """Scorers with a gradient, by name; of a file of one's own it shows when it is loaded."""
    return [name for name in available(host.models_dir()) if _differentiable(name)]


def _differentiable(name: str) -> bool:
    try:
        return bool(registry.get(name).differentiable)
    except ImageRewardError:
        return True


def _is_reward(name: str) -> bool:
    path = host.models_dir() / name
    try:
        kind = kind_of_file(path) if path.is_file() else None
    except ImageRewardError:
        return False
    return not path.is_file() or (kind is not None and kind.key == "imagereward")


def to_download(name: str) -> int:
    """Bytes that a scorer lacks on this machine; 0 if it is here."""
    try:
        info = registry.get(name)
    except ImageRewardError:
        return 0  # a file of the user's own
    return sum(source.size or source.about for source in info.sources if not _is_here(source))


def _is_here(source: object) -> bool:
    try:
        core_module("weights").locate(source, models_dir=host.models_dir(), download=False)
    except ImageRewardError:
        return False
    return True


def default() -> str:
    """The scorer a new run learns from: ours, or where its weights are missing the first that is here. A file of the
    user's own counts if it is a reward model; a taste is for its user to choose.
    """
    here = (name for name in usable() if not to_download(name) and _is_reward(name) and not tastes.find(name))
    return DEFAULT if not to_download(DEFAULT) else next(here, DEFAULT)


def note(name: str) -> str:
    """What a download would mean for a run, in a sentence; "" where none is needed."""
    size, folder = to_download(name), host.models_dir()
    if not size:
        return ""
    return f"{name} is not on this machine: the run begins with a download of {size / 1e9:.1f} GB into {folder}."
