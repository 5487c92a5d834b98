"""Picks that a run can learn from: the library's duels of a taste, or a file of duels; and what to say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import ImageRewardError, prompt_files
from ..core import module as core_module
from . import view
from .codecs import LIBRARY, MY_TASTE, SettingError, picks_source

FEWEST, FEW = 4, 50  # picks: fewer are refused, fewer are warned about
FEWEST_PROMPTS = 4  # of picks: with fewer, others must be drawn to judge by


@dataclass(frozen=True)
class Found:
    """How many picks there are, their prompts, each once, and how many duels of the library cannot be used."""

    count: int
    prompts: list[str]
    left_out: int = 0


def tastes() -> list[str]:
    """The tastes that have duels in the library, and the one that duels belong to unless another is named."""
    try:
        with _library() as library:
            counts = core_module("library.marks").duels_by_taste(library)
    except ImageRewardError:
        counts = {}
    return list(dict.fromkeys([MY_TASTE, *counts]))


def found(settings: Mapping[str, Any]) -> Found:
    """The picks that a form names. SettingError says why there are none to be read."""
    source = picks_source(settings)
    place, _, taste = source.partition(":")
    try:
        if place != LIBRARY:
            duels, left_out = core_module("duel_files").won(Path(source)), 0
        else:
            with _library() as library:
                duels, left_out = core_module("library.won").won_duels(library, taste or MY_TASTE)
    except ImageRewardError as error:
        raise SettingError(f"My picks: {error}") from error
    return Found(len(duels), list(dict.fromkeys(prompt for _, _, prompt in duels)), left_out)


def _library() -> Any:
    return core_module("library").open_library(core_module("library.place").library_place(), create=False)


def enough(settings: Mapping[str, Any]) -> Found:
    """See `found`; SettingError also for too few to learn from."""
    picks = found(settings)
    if picks.count < FEWEST:
        raise SettingError(
            f"My picks: {_picks(picks.count)}, and at least {FEWEST} are needed; choose between more pictures in the"
            " tab ImageReward library"
        )
    return picks


def note(settings: Mapping[str, Any]) -> str:
    """How many picks there are, of which prompts, and whether they suffice."""
    try:
        picks = found(settings)
    except SettingError as error:
        return view.note(str(error), "error")
    told = f"{_picks(picks.count)}, of {prompt_files.describe(picks.prompts).rstrip('.')}." if picks.count else ""
    told = told.replace(", ….", ", …")
    if picks.left_out:
        lost = f"{picks.left_out} more cannot be used: a picture is not where it was, or it has no prompt."
        told = f"{told} {lost}".strip()
    if picks.count < FEWEST:
        least = f"At least {FEWEST} are needed: choose between pictures in the tab ImageReward library, by its Duel."
        return view.note(f"{told or 'There are no picks yet.'} {least}", "error")
    told += " About one in ten, and at least two, are held out to judge by."
    if len(picks.prompts) < FEWEST_PROMPTS:
        told += " They are of so few prompts that those written under “a reward” are drawn besides, to judge by."
    if picks.count >= FEW:
        return view.note(told)
    few = f" That is few: the model may learn these pictures by heart. {FEW} or more are better, of many prompts."
    return view.note(told + few, "warning")


def _picks(count: int) -> str:
    return f"{count} pick{'' if count == 1 else 's'}"
