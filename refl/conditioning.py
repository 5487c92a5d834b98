"""What the network is told about a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """context [B, T, D], of UNets T = 77; pooled [B, P] of families that have one; SDXL also has time_ids [B, 6]
    (original size, crop, target size). mask [B, T]: which rows of the context are tokens, where not all are.
    """

    context: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        parts = (self.context, self.pooled, self.time_ids, self.mask)
        return Conditioning(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def rows(self, index: Tensor | Sequence[int] | slice) -> Conditioning:
        """The conditioning of some samples."""
        return self._map(lambda part: part[index])

    def expand(self, count: int) -> Conditioning:
        """One row repeated for `count` samples."""
        return self._map(lambda part: part.expand(count, *part.shape[1:]))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """Moved to a device; dtype applies to the embeddings (the size ids stay fp32)."""
        return Conditioning(
            self.context.to(device, dtype),
            None if self.pooled is None else self.pooled.to(device, dtype),
            None if self.time_ids is None else self.time_ids.to(device),
            None if self.mask is None else self.mask.to(device),
        )

    def lengths(self) -> list[int]:
        """How many rows of each context are tokens; they come first."""
        if self.mask is None:
            return [self.context.shape[1]] * len(self)
        return [int(length) for length in self.mask.sum(dim=1).tolist()]

    def padded(self, length: int) -> Conditioning:
        """With a context of `length` rows, the added ones masked. Only for conditionings that have a mask."""
        missing = length - self.context.shape[1]
        if not missing or self.mask is None:
            return self
        mask = F.pad(self.mask, (0, missing))
        return Conditioning(F.pad(self.context, (0, 0, 0, missing)), self.pooled, self.time_ids, mask)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The samples of several conditionings in order, padded to the longest."""
        longest = max(part.context.shape[1] for part in parts)
        even = [part.padded(longest) for part in parts]

        def joined(name: str) -> Tensor | None:
            found = [getattr(part, name) for part in even]
            return None if found[0] is None else torch.cat(found)

        context = torch.cat([part.context for part in even])
        return Conditioning(context, joined("pooled"), joined("time_ids"), joined("mask"))
