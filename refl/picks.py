"""Picks: pairs of pictures of which somebody preferred one. Read, split into those that train and those that judge, and
encoded once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from imagereward_core.duel_files import won
from imagereward_core.errors import DataError, LibraryError
from imagereward_core.library import library_place, open_library
from imagereward_core.library.records import MY_TASTE
from imagereward_core.library.won import won_duels

from .backend import Backend
from .data import load_images, sample_prompt
from .errors import PromptDataError
from .log import logger
from .rollout import SampleNoise

LIBRARY = "library"  # in place of a file: the duels of this machine's library
SHARE = 10  # of so many picks one is held out where no prompt can be


@dataclass(frozen=True)
class Pick:
    """One choice: which picture, over which, for what prompt."""

    winner: Path
    loser: Path
    prompt: str


@dataclass(frozen=True)
class PickSet:
    """Picks to train on and picks that are only judged by."""

    train: list[Pick]
    held_out: list[Pick]

    def __len__(self) -> int:
        return len(self.train) + len(self.held_out)

    @property
    def prompts(self) -> list[str]:
        """The prompts of all picks, each once."""
        return list(dict.fromkeys(pick.prompt for pick in (*self.train, *self.held_out)))

    @property
    def digest(self) -> str:
        """What these picks are, for a state that belongs to them: how many, and a hash of which."""
        text = "\n".join(f"{pick.winner.name}\t{pick.loser.name}\t{pick.prompt}" for pick in self.train)
        return f"{len(self.train)} picks {hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def read_picks(source: str | os.PathLike[str]) -> list[Pick]:
    """The won duels of a file (see imagereward_core.duel_files) or, for "library", those of this machine's library: of
    the taste `my-taste`, or of another one, "library:NAME".

    Raises PromptDataError for a line that cannot be used, and where there is no pick.
    """
    place, _, taste = os.fspath(source).partition(":")
    found = _of_library(taste or MY_TASTE) if place == LIBRARY else _of_file(Path(source))
    if not found:
        raise PromptDataError(f"picks: {source} holds no duel that a picture has won")
    logger.info("%d picks, the first for %r", len(found), found[0].prompt)
    return found


def _of_file(path: Path) -> list[Pick]:
    try:
        return [Pick(*duel) for duel in won(path)]
    except DataError as error:
        raise PromptDataError(f"picks: {error}") from error


def _of_library(taste: str) -> list[Pick]:
    try:
        with open_library(library_place(), create=False) as library:
            found, left_out = won_duels(library, taste)
    except LibraryError as error:
        raise PromptDataError(f"picks: {error}") from error
    if left_out:
        logger.warning("%d duels are left out: a picture is not where it was, or has no prompt", left_out)
    return [Pick(*duel) for duel in found]


def split_picks(picks: Sequence[Pick], held_out: Collection[str]) -> PickSet:
    """Held out are the picks of held-out prompts; where these are fewer than two, one in SHARE, by a hash of its
    pictures. No picture of a held-out pick is trained on. Raises PromptDataError where nothing is left to train on.
    """
    judging = [pick for pick in picks if pick.prompt in held_out]
    if len(judging) < 2:
        ranked = sorted(picks, key=lambda pick: hashlib.sha1(f"{pick.winner.name} {pick.loser.name}".encode()).digest())
        judging = ranked[: max(2, len(picks) // SHARE)]
    seen = {picture for pick in judging for picture in (pick.winner, pick.loser)}
    training = [pick for pick in picks if pick.winner not in seen and pick.loser not in seen]
    if len(training) < 2:
        raise PromptDataError(
            f"{len(picks)} picks are too few: {len(training)} would be left to train on, beside {len(judging)} that"
            " judge and share no picture with them. A dozen picks of several prompts is a beginning"
        )
    return PickSet(training, judging)


@dataclass(frozen=True)
class Pairs:
    """A batch of picks: winners and losers [B, C, h, w], their prompts, and the noise and timestep that both share."""

    winners: Tensor
    losers: Tensor
    prompts: list[str]
    t: Tensor
    noise: Tensor


class EncodedPicks:
    """Picks whose pictures are latents on the CPU, each encoded once."""

    def __init__(self, picks: Sequence[Pick], latents: dict[Path, Tensor], timesteps: int):
        self.picks, self._latents, self.timesteps = list(picks), latents, timesteps

    def __len__(self) -> int:
        return len(self.picks)

    def draw(self, samples: Sequence[int], seed: int, device: torch.device) -> Pairs:
        """The pairs of training samples; a function of seed and sample number."""
        chosen = [self.picks[sample_prompt(seed, len(self.picks), sample)] for sample in samples]
        noises = [SampleNoise(seed, sample) for sample in samples]
        t = torch.tensor([noise.integer(0, self.timesteps - 1) for noise in noises])
        return self.pairs(chosen, t, noises, device)

    def pairs(self, picks: Sequence[Pick], t: Tensor, noises: Sequence[SampleNoise], device: torch.device) -> Pairs:
        """These picks at timesteps t [B], with one noise each."""
        winners, losers = (
            torch.stack([self._latents[path] for path in paths])
            for paths in ([pick.winner for pick in picks], [pick.loser for pick in picks])
        )
        noise = torch.stack([noise.normal(winners.shape[1:]) for noise in noises])
        prompts = [pick.prompt for pick in picks]
        return Pairs(winners.to(device), losers.to(device), prompts, t, noise.to(device))


def encode(
    backend: Backend, picks: PickSet, resolution: int, check: Callable[[], None]
) -> tuple[EncodedPicks, EncodedPicks]:
    """(training, held-out) picks, their pictures fitted to the resolution and encoded by the VAE. `check` is called
    between pictures.
    """
    latents: dict[Path, Tensor] = {}
    device = next(backend.vae.parameters()).device
    for pick in (*picks.train, *picks.held_out):
        for path in (pick.winner, pick.loser):
            if path not in latents:
                check()
                with torch.no_grad():
                    latents[path] = backend.encode_images(load_images([path], resolution).to(device))[0].cpu()
    count = len(backend.schedule)
    return EncodedPicks(picks.train, latents, count), EncodedPicks(picks.held_out, latents, count)
