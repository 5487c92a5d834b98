"""What the library remembers of a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEEP, REJECT = "keep", "reject"
VERDICTS = ("win", "neither", "both")
MY_TASTE = "my-taste"  # the taste that duels belong to unless another is named
# Features that a taste learns from. A name changes whenever the numbers do.
EMBEDDING = "embedding 1"  # what a scorer's network made of picture and prompt, `Scorer.with_embeddings`
LOOKS = "appearance 1"  # how the picture looks, `taste.appearance`; scorer and array both go by this name


@dataclass(frozen=True)
class Score:
    """A score: `scorer` as it is named beside scores in files (own weights carry their hash there), `digest` of the
    weights where it is known, `prompt` the words scored against where they were not the picture's own.
    """

    scorer: str
    value: float
    digest: str = ""
    prompt: str | None = None


@dataclass(frozen=True)
class Features:
    """What a scorer's network said of a picture: arrays of any shape by name. They are kept as fp16."""

    scorer: str
    arrays: Mapping[str, Any]
    digest: str = ""


@dataclass(frozen=True)
class Made:
    """How a picture was made; None and empty where its file does not say. `loras`: (name, weight or None)."""

    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    sampler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    loras: tuple[tuple[str, float | None], ...] = ()
    program: str | None = None


@dataclass(frozen=True)
class Seen:
    """A file as it was found: `pixels` is the digest of the decoded picture."""

    path: str
    pixels: bytes
    width: int
    height: int
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Record:
    """A saved picture and what was found out about it.

    How it was made is what `infotext` says, with `made` for what that leaves open; without a text it is `made`, and
    with neither the file is read, whose own scores count too unless `stored` says no. `stamp` is the file's (bytes,
    mtime_ns) when this was known of it: a file that was overwritten since is another picture.
    """

    path: str | os.PathLike[str]
    scores: tuple[Score, ...] = ()
    features: tuple[Features, ...] = ()
    made: Made | None = None
    time: float | None = None
    infotext: str | None = None
    stored: bool = True
    stamp: tuple[int, int] | None = None


@dataclass(frozen=True)
class Picture:
    """A row of the library, as it is shown. `scores` are those against its own prompt, by scorer."""

    id: int
    path: str
    missing: bool
    width: int
    height: int
    time: float
    made: Made
    mark: str | None
    stars: int | None
    pixels: bytes = b""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Duel:
    """Two pictures of one prompt and what somebody said of them. With "neither" and "both" nobody won: the order of
    `winner` and `loser` then says nothing. Both are ids of pictures. `taste`: whose choice, by name.
    """

    id: int
    winner: int
    loser: int
    prompt: str | None
    verdict: str
    time: float
    taste: str = MY_TASTE
