"""From a scorer's features and a picture's appearance to the few numbers a head can learn from, and back.

What all pictures of a prompt have in common cancels out in a duel, so directions and scales are those of the
differences within prompts: the principal components of the features less their prompt's mean, each of unit spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .head import SLOPE

DIRECTIONS = 12  # on the small world 24 learnt a strong taste from 200 duels less well, 8 harmed a weak one
PER_DIRECTION = 4  # pictures for each direction: of fewer, components are noise
POOL = 1000  # pictures that the components are taken from at most: their cost grows with the square
TINY = 1e-6


@dataclass(frozen=True)
class Material:
    """Pictures: scores [N], embeddings [N, D], appearance [N, 16], and the number of each one's prompt [N]."""

    scores: np.ndarray
    embeddings: np.ndarray
    appearance: np.ndarray
    prompts: np.ndarray


@dataclass(frozen=True)
class Basis:
    """score / `score_spread`, embedding @ `directions` [D, K], appearance / `appearance_spread` [16]."""

    score_spread: float
    directions: np.ndarray
    appearance_spread: np.ndarray

    @property
    def size(self) -> int:
        """How many numbers a picture becomes."""
        return 1 + self.directions.shape[1] + len(self.appearance_spread)

    def features(self, material: Material) -> np.ndarray:
        """[N, size], up to a constant: only differences count."""
        return np.concatenate(
            [
                material.scores[:, None] / self.score_spread,
                material.embeddings @ self.directions,
                material.appearance / self.appearance_spread,
            ],
            axis=1,
        )

    def linear(self, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """A head's weights [size] as (of the score, of the embedding [D], of the appearance [16]), in units of the
        scorer's: those of the prior are exactly (1, 0, 0).
        """
        count = self.directions.shape[1]
        unit = self.score_spread / SLOPE
        return (
            float(weights[0] / SLOPE),
            self.directions @ weights[1 : 1 + count] * unit,
            weights[1 + count :] / self.appearance_spread * unit,
        )


def basis_of(material: Material, directions: int = DIRECTIONS) -> Basis:
    """The basis of some pictures. Prompts with one picture say nothing; if there are no others, pictures count as of
    one prompt.
    """
    _, number, count = np.unique(material.prompts, return_inverse=True, return_counts=True)
    if (count > 1).any():
        kept = count[number] > 1
        freedom = kept.sum() - (count > 1).sum()
    else:
        kept, number = np.ones(len(number), bool), np.zeros(len(number), int)
        freedom = max(1, len(number) - 1)
    embeddings = _within(material.embeddings, number)[kept]
    appearance = _within(material.appearance, number)[kept]
    scores = _within(material.scores[:, None], number)[kept]
    return Basis(
        max(TINY, float(np.sqrt((scores**2).sum() / freedom))),
        _directions(embeddings[:POOL], min(directions, int(freedom) // PER_DIRECTION)),
        np.maximum(TINY, np.sqrt((appearance**2).sum(0) / freedom)),
    )


def _within(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """[N, D] less the mean of its group."""
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return values - (sums / np.bincount(number)[:, None])[number]


def _directions(values: np.ndarray, count: int) -> np.ndarray:
    """[D, count]: what turns the standardised values into whitened principal components."""
    spread = np.maximum(TINY, values.std(0))
    scaled = values / spread
    if len(scaled) <= scaled.shape[1]:  # the smaller of the two products is enough
        found, vectors = np.linalg.eigh(scaled @ scaled.T)
        vectors = scaled.T @ vectors / np.sqrt(np.maximum(found, TINY))
    else:
        found, vectors = np.linalg.eigh(scaled.T @ scaled)
    order = np.argsort(found)[::-1][:count]
    order = order[found[order] > TINY * max(TINY, found.max())]
    return vectors[:, order] / np.sqrt(found[order] / len(scaled)) / spread[:, None]
