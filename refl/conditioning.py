"""What the UNet is told about a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """context [B, 77, D]; SDXL also has pooled [B, P] and time_ids [B, 6] (original size, crop, target size)."""

    context: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        pooled = None if self.pooled is None else change(self.pooled)
        return Conditioning(change(self.context), pooled, None if self.time_ids is None else change(self.time_ids))

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
        )

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The samples of several conditionings in order."""
        first = parts[0]
        return Conditioning(
            torch.cat([part.context for part in parts]),
            None if first.pooled is None else torch.cat([part.pooled for part in parts]),  # type: ignore[misc]
            None if first.time_ids is None else torch.cat([part.time_ids for part in parts]),  # type: ignore[misc]
        )
