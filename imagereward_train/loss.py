"""The paper's pairwise loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pairwise_loss(rewards: Tensor, pairs: Tensor, total: int) -> Tensor:
    """−Σ log σ(r_better − r_worse) / total, with rewards [N] and pairs [P, 2] of (better, worse) indices; fp32.

    Equal to the two-class cross-entropy over (r_better, r_worse) with target 0. `total` is the number of pairs of the
    whole batch, of which this may be a part: parts then sum to the loss of the batch, however it is cut.
    """
    better, worse = rewards.float()[pairs].unbind(-1)
    return F.softplus(worse - better).sum() / max(1, total)
