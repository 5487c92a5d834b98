"""What gives scores in a benchmark: any scorer of this package, or a scripted one whose result is known beforehand."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagereward_core.errors import ConfigError, ImageError
from imagereward_core.hashing import tensors_digest
from imagereward_core.weights.find import is_path

from ..items import Item

if TYPE_CHECKING:
    from imagereward_core.scorers.base import Scorer


@dataclass(frozen=True)
class Judge:
    """`score(item)` gives one number per image, higher = better. `facts` go into the manifest and tell runs apart.
    `stream`, where there is one, scores many items in their order, and reads the next while one is computed.
    """

    name: str
    score: Callable[[Item], Sequence[float]]
    needs_images: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    stream: Callable[[Sequence[Item]], Iterator[Sequence[float]]] | None = None

    def scores(self, items: Sequence[Item]) -> Iterator[Sequence[float]]:
        """One number per image of each item, in their order."""
        return map(self.score, items) if self.stream is None else self.stream(items)


def _ranking(item: Item) -> tuple[float, ...]:
    if item.ranking is None:
        raise ConfigError(f"item {item.id} has pairs and no ranking: the scripted scorers oracle and inverted need one")
    return item.ranking


def _random(seed: int) -> Callable[[Item], list[float]]:
    def score(item: Item) -> list[float]:
        # Seeded by the item, not by the order: any sharding gives the same numbers.
        digest = hashlib.sha256(f"{seed}:{item.id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).random(len(item.images)).tolist()

    return score


def scripted(name: str, seed: int = 0) -> Judge | None:
    """oracle (the human ranking: accuracy 1), inverted (0), constant (0 by the reference's tie rule, 1/2 with ties as
    half), random (1/2 on average); None for another name. They check the harness and need neither weights nor images.
    """
    table: dict[str, Callable[[Item], Sequence[float]]] = {
        "oracle": lambda item: [-rank for rank in _ranking(item)],
        "inverted": lambda item: list(_ranking(item)),
        "constant": lambda item: [0.0] * len(item.images),
        "random": _random(seed),
    }
    return (
        Judge(name, table[name], needs_images=False, facts={"scripted": name, "seed": seed}) if name in table else None
    )


SCRIPTED = ("oracle", "inverted", "constant", "random")


def labels(names: Sequence[str]) -> list[str]:
    """How judges are called in a report: their names; of checkpoints the file's name, with as many folders before it as
    it takes to tell run1/best.safetensors from run2/best.safetensors. Raises ConfigError for the same judge twice.
    """
    parts = [Path(name).absolute().with_suffix("").parts if is_path(name) else (name,) for name in names]
    found = [path[-1] for path in parts]
    depth = 1
    while len(set(found)) < len(found):
        depth += 1
        if depth > max(map(len, parts)):
            raise ConfigError(f"a scorer is named twice: {', '.join(names)}")
        found = ["/".join(path[-depth:]) if found.count(label) > 1 else label for path, label in zip(parts, found)]
    return found


def scorer_judge(scorer: Scorer, precision: str, name: str = "") -> Judge:
    """A judge from a loaded scorer, under its own name or another."""
    facts = {
        "weights_sha256": weights_digest(scorer),
        "precision": precision,
        "device": str(scorer.device),
        "mean": scorer.info.mean,
        "std": scorer.info.std,
        **scorer.settings,
    }
    return Judge(
        name or scorer.name,
        lambda item: scorer.score_pairs([item.prompt] * len(item.images), list(item.images)),
        facts=facts,
        stream=functools.partial(_streamed, scorer),
    )


def _streamed(scorer: Scorer, items: Sequence[Item]) -> Iterator[list[float]]:
    """The scores of each item, by the pipeline of folders and manifests: batches do not end where a prompt ends, and
    all cores read ahead of the network. Raises ImageError for an image that cannot be read.
    """
    from imagereward_core.bulk.rows import Row
    from imagereward_core.bulk.scoring import score_rows

    rows = (Row(f"{item.id}: {image}", image, item.prompt) for item in items for image in item.images)
    scored = itertools.chain.from_iterable(score_rows(rows, scorer))
    for item in items:
        found = list(itertools.islice(scored, len(item.images)))
        if wrong := next((one.error for one in found if one.error), ""):
            raise ImageError(wrong)
        yield [one.score for one in found if one.score is not None]


def weights_digest(scorer: Scorer) -> str:
    """sha256 of the loaded weights, with their shapes and types: the same in whatever file format they came."""
    return tensors_digest(scorer.state_dict(), shapes=True)


def load_judge(
    name: str,
    *,
    device: Any = None,
    download_root: str | None = None,
    precision: str = "fp32",
    seed: int = 0,
    label: str = "",
) -> Judge:
    """A judge by name: scripted, of the registry, or the path of a reward model, shown as `label`. Raises
    ModelNotFoundError.
    """
    found = scripted(name, seed)
    if found is not None:
        return found
    from imagereward_core.scorers import load_scorer

    return scorer_judge(
        load_scorer(name, own_code=True, device=device, download_root=download_root, precision=precision),
        precision,
        label if is_path(name) else "",
    )
