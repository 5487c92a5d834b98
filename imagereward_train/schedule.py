"""Learning rates as a closed form of the update number, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, update: int, updates: int) -> float:
    """Rate of update 0, 1, … of `updates`: a linear rise over `warmup`, then the decay, as the authors' schedule has
    it.
    """
    total = max(1, config.lr_decay_iters or updates)
    rise = config.warmup * total
    if config.lr_decay_style == "inverse_square_root":
        return config.lr * math.sqrt(max(1.0, rise)) / math.sqrt(max(1.0, rise, update))
    if config.lr_decay_style == "constant":
        return config.lr
    if rise > 0 and update <= rise:
        return config.lr * update / rise
    progress = min(1.0, (update - rise) / max(1e-9, total - rise))
    shape = 1 - progress if config.lr_decay_style == "linear" else (math.cos(math.pi * progress) + 1) / 2
    return config.lr * (shape * (1 - config.lr_decay_ratio) + config.lr_decay_ratio)
