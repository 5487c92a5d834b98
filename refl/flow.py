"""The noise schedule of flow-matching models (rectified flow): x_t = (1 − σ) x_0 + σ e, and the network predicts
v = e − x_0. Sources: Liu et al. 2023; Esser et al. 2024 (Stable Diffusion 3), section 3 and eq. 23 (the shift).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError
from .schedule import Schedule

COUNT = 1000


class FlowSchedule(Schedule):
    """σ of timestep t is the shifted (t + 1) / 1000: a table that training draws from uniformly, and of which sampling
    takes the nearest entries to what diffusers' FlowMatchEulerDiscreteScheduler would.

    config: that scheduler's configuration. tokens: of a picture, where the shift depends on them.
    """

    prediction_type = "flow"
    zero_snr = False

    def __init__(self, config: Mapping[str, Any], tokens: int | None = None):
        self.config = dict(config)
        for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"):
            if self.config.get(name):
                raise CheckpointError(f"the noise schedule of this model is not supported: it sets {name}")
        self.shift = self._shift(tokens)
        levels = (torch.arange(COUNT, dtype=torch.float64) + 1) / COUNT
        self.sigmas = shifted(levels, self.shift)

    def _shift(self, tokens: int | None) -> float:
        """The factor by which odds of noise are multiplied."""
        given = self.config
        if not given.get("use_dynamic_shifting"):
            return float(given.get("shift", 1.0))
        least, most = float(given.get("base_shift", 0.5)), float(given.get("max_shift", 1.15))
        first, last = int(given.get("base_image_seq_len", 256)), int(given.get("max_image_seq_len", 4096))
        share = ((last if tokens is None else tokens) - first) / (last - first)
        mu = least + (most - least) * share
        return mu if given.get("time_shift_type") == "linear" else math.exp(mu)

    def __len__(self) -> int:
        return COUNT

    def for_tokens(self, tokens: int) -> FlowSchedule:
        return FlowSchedule(self.config, tokens)

    def timesteps(self, steps: int) -> Tensor:
        wanted = shifted(torch.arange(steps, 0, -1, dtype=torch.float64) / steps, self.shift)
        end = self.config.get("shift_terminal")
        if end and steps > 1:  # stretched so that the last step begins at this level
            wanted = 1 - (1 - wanted) * (1 - float(end)) / (1 - wanted[-1])
        return nearest(self.sigmas, wanted)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self._sigma(t).to(like.device, torch.float32).view(-1, 1, 1, 1)
        return 1 - sigma, sigma

    def _sigma(self, t: Tensor) -> Tensor:
        index = t.cpu()
        return torch.where(index < 0, torch.zeros((), dtype=torch.float64), self.sigmas[index.clamp(min=0)])

    def network_time(self, t: Tensor) -> Tensor:
        """σ [B]; each family makes of it what its network takes."""
        return self._sigma(t).float().to(t.device)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def predict_x0(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        return x - self.levels(t, x)[1] * output

    def predict_noise(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        return x + self.levels(t, x)[0] * output

    def velocity(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        return output


def nearest(levels: Tensor, wanted: Tensor) -> Tensor:
    """The numbers of the levels that are closest to those wanted."""
    return (levels[None] - wanted[:, None]).abs().argmin(dim=1)


def shifted(level: Tensor, shift: float) -> Tensor:
    """Noise levels in [0, 1] moved towards noise, for shift > 1."""
    return shift * level / (1 + (shift - 1) * level)
