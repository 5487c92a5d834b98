"""Least squares with a fixed effect per prompt, and a covariance that holds with few prompts.

The covariance is CR2, clustered by prompt (Bell & McCaffrey 2002); with absorbed fixed effects and weights: Pustejovsky
& Tipton 2018, theorem 2. Prompts used with the same number of levels are computed as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ZERO = 1e-8  # an eigenvalue of I - H below this belongs to a direction that one prompt alone decides


@dataclass(frozen=True)
class Block:
    """The prompts used with the same number k of levels; all algebra on them is batched.

    column [P, k]: level of each cell. images [P, k]. root [P, k]: W^½, the square root of the weights. design
    [P, k, k]: W^½ (I - 1 share'), the levels' design matrix with the prompt's weighted mean taken out. target [P, k]:
    W^½ · mean.
    """

    column: np.ndarray
    images: np.ndarray
    root: np.ndarray
    design: np.ndarray
    target: np.ndarray

    @property
    def square(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of each k × k block in a level × level matrix."""
        return self.column[:, :, None], self.column[:, None, :]


class Fit:
    """Weighted least squares of cell means on levels, with a fixed effect per prompt absorbed.

    `effect` [C] sums to 0; `inverse` [C, C] is the pseudo-inverse of the normal equations (a weighted graph Laplacian,
    as only differences within a prompt are seen).
    """

    def __init__(
        self,
        prompt: np.ndarray,
        column: np.ndarray,
        images: np.ndarray,
        mean: np.ndarray,
        weight: np.ndarray,
    ):
        self.levels = int(column.max()) + 1
        self.blocks = list(_blocks(prompt, column, images, mean, weight))
        normal, right = np.zeros((self.levels, self.levels)), np.zeros(self.levels)
        for block in self.blocks:
            normal += self._scatter(block, block.design.transpose(0, 2, 1) @ block.design)
            moment = np.einsum("pki,pk->pi", block.design, block.target)
            right += np.bincount(block.column.ravel(), moment.ravel(), self.levels)
        self.inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True)
        self.effect = self.inverse @ right

    def _scatter(self, block: Block, values: np.ndarray) -> np.ndarray:
        """The sum of the blocks' k × k matrices as one [C, C]."""
        first, second = block.square
        place = (first * self.levels + second).ravel()
        return np.bincount(place, values.ravel(), self.levels**2).reshape(self.levels, self.levels)

    def _residual(self, block: Block) -> np.ndarray:
        """[P, k], on the weighted scale, the prompt's own effect taken out."""
        rest = block.target - np.einsum("pki,pi->pk", block.design, self.effect[block.column])
        share = (block.root * rest).sum(1) / (block.root**2).sum(1)
        return rest - block.root * share[:, None]

    def _hat(self, block: Block) -> np.ndarray:
        """[P, k, k]: the part of the hat matrix that the levels take up."""
        return block.design @ self.inverse[block.square] @ block.design.transpose(0, 2, 1)

    def interaction(self, sigma2: float) -> tuple[float, float]:
        """(τ², mean square of the residuals) of an unweighted fit, by moments: a cell's residual has variance
        (τ² + σ²/images) times what the fit left free of it.
        """
        squares = free = noise = 0.0
        for block in self.blocks:
            left = 1 - 1 / block.column.shape[1] - np.einsum("pkk->pk", self._hat(block))
            squares += float((self._residual(block) ** 2).sum())
            free += float(left.sum())
            noise += float((left / block.images).sum())
        free = max(free, 1e-9)
        return max((squares - sigma2 * noise) / free, 0.0), squares / free

    def cr2(self) -> tuple[np.ndarray, np.ndarray]:
        """(covariance [C, C] of the effects, Satterthwaite's degrees of freedom [C] of each).

        A prompt's residuals are first multiplied by (I - H)^-½, which makes the estimate unbiased under the weights'
        own model. The estimate of a contrast's variance is then a quadratic form Σ (g'e)² over prompts; its degrees of
        freedom are (trace G)² / Σ G², with G = g'(I - H)g between all pairs of prompts. That sum over pairs needs only
        U = Σ uu' with u = X'g.
        """
        centre = np.eye(self.levels) - 1 / self.levels
        direction = self.inverse @ centre  # [C, q]: one contrast a column
        meat = np.zeros((self.levels, self.levels))
        trace, squares = np.zeros(self.levels), np.zeros(self.levels)
        between = np.zeros((self.levels, self.levels, self.levels))  # U of each contrast
        for block in self.blocks:
            adjusted = _inverse_root(np.eye(block.design.shape[1]) - self._hat(block)) @ block.design
            score = np.einsum("pki,pk->pi", adjusted, self._residual(block))
            meat += self._scatter(block, score[:, :, None] * score[:, None, :])
            g = adjusted @ direction[block.column]  # [P, k, q]
            u = block.design.transpose(0, 2, 1) @ g
            own = (g**2).sum(1)
            taken = (u * (self.inverse[block.square] @ u)).sum(1)
            trace += (own - taken).sum(0)
            squares += (own * own - 2 * own * taken).sum(0)
            wide, rows = np.zeros((len(u), self.levels)), np.arange(len(u))[:, None]
            for contrast in range(self.levels):
                wide[rows, block.column] = u[:, :, contrast]
                between[contrast] += wide.T @ wide
        product = self.inverse @ between
        squares += (product * product.transpose(0, 2, 1)).sum((1, 2))
        return self.inverse @ meat @ self.inverse, np.maximum(trace**2 / np.maximum(squares, 1e-300), 1.0)


def _blocks(
    prompt: np.ndarray, column: np.ndarray, images: np.ndarray, mean: np.ndarray, weight: np.ndarray
) -> Iterator[Block]:
    order = np.lexsort((column, prompt))
    start = np.flatnonzero(np.diff(prompt[order], prepend=-1))
    count = np.diff(np.append(start, len(order)))
    for size in np.unique(count):
        rows = order[start[count == size][:, None] + np.arange(size)]  # [P, k]
        root = np.sqrt(weight[rows])
        share = weight[rows] / weight[rows].sum(1, keepdims=True)
        design = root[:, :, None] * (np.eye(size) - share[:, None, :])
        yield Block(column[rows], images[rows], root, design, root * mean[rows])


def _inverse_root(matrices: np.ndarray) -> np.ndarray:
    """The symmetric pseudo-inverse square root of each [P, k, k]."""
    value, vector = np.linalg.eigh(matrices)
    root = np.where(value > ZERO, np.maximum(value, ZERO) ** -0.5, 0.0)
    return (vector * root[:, None, :]) @ vector.transpose(0, 2, 1)
