"""The noise schedule: which noise level belongs to which timestep, and the formulas that turn a network's output into
pictures. Own formulas, because a diffusers scheduler's `step` draws noise it throws away and keeps hidden state.

Notation: x_t = a x_0 + s e. Diffusion has a² + s² = 1, and a² is `alphas_cumprod[t]`; flows (`flow.py`) have a = 1 − s.
Sources: Song et al. 2021 (DDIM), eq. 12 and 16; Salimans & Ho 2022 (v-prediction); Lin et al. 2024 (zero terminal
SNR).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError


class Schedule(ABC):
    """What training and sampling ask of a noise schedule, by integer timesteps t [B] in 0 … len − 1.

    prediction_type: "epsilon", "v_prediction" or "flow". zero_snr: whether the last timestep is pure noise where
    that is not the rule.
    """

    prediction_type: str
    zero_snr: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def timesteps(self, steps: int) -> Tensor:
        """`steps` timesteps from noisy to clean, int64 [steps], for sampling."""

    @abstractmethod
    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) [B, 1, 1, 1] of timesteps t [B]; t < 0 means a finished image (a = 1, s = 0)."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network ought to predict for x_t."""

    @abstractmethod
    def predict_x0(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The clean latents implied by the network's output at x_t."""

    @abstractmethod
    def predict_noise(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The noise implied by the network's output at x_t."""

    @abstractmethod
    def velocity(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The network's output at x_t as a velocity, whatever it predicts."""

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is told of timesteps t [B]."""
        return t

    def for_tokens(self, tokens: int) -> Schedule:
        """The schedule for pictures of so many tokens, where it depends on them."""
        return self

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean latents [B, C, h, w]."""
        a, s = self.levels(t, x0)
        return a * x0 + s * noise

    def step(
        self, x: Tensor, output: Tensor, t: Tensor, t_next: Tensor, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """One denoising step from t to t_next (both [B]; t_next = -1 finishes).

        eta 0 is DDIM, for flows Euler's method. eta 1 is ancestral sampling with the posterior variance: the two are
        the same formula.
        """
        x0, e = self.predict_x0(x, output, t), self.predict_noise(x, output, t)
        a, s = self.levels(t, x)
        a_next, s_next = self.levels(t_next, x)
        if not eta:
            return a_next * x0 + s_next * e
        sigma = eta * (s_next / s) * self._added(a, s, a_next, s_next).clamp(min=0).sqrt()
        mean = a_next * x0 + (s_next**2 - sigma**2).clamp(min=0).sqrt() * e
        return mean if noise is None else mean + sigma * noise

    @staticmethod
    def _added(a: Tensor, s: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
        """The variance that noising adds from the next level to this one."""
        return s**2 - (a / a_next * s_next) ** 2


class NoiseSchedule(Schedule):
    """Noise levels of a model. `alphas_cumprod` [N] float64, N = 1000 training timesteps."""

    def __init__(self, config: dict[str, Any], prediction_type: str | None = None):
        count = int(config.get("num_train_timesteps", 1000))
        self.prediction_type = prediction_type or config.get("prediction_type") or "epsilon"
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise CheckpointError(
                f"prediction type {self.prediction_type!r} is not supported: only epsilon and v_prediction are"
            )
        betas = _betas(config, count)
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.zero_snr = bool(config.get("rescale_betas_zero_snr"))
        if self.zero_snr:
            self.alphas_cumprod = _rescale_zero_snr(self.alphas_cumprod)
        self.offset = int(config.get("steps_offset", 1))

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def timesteps(self, steps: int) -> Tensor:
        """`steps` training timesteps from noisy to clean, int64 [steps].

        Leading spacing with an offset, as SD's own samplers use it; models with zero terminal SNR must start at the
        very last timestep, so they use trailing spacing.
        """
        if self.zero_snr:
            return (torch.arange(steps, 0, -1) * len(self) / steps).round().long() - 1
        return (torch.arange(steps - 1, -1, -1) * (len(self) // steps) + self.offset).clamp(max=len(self) - 1)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) [B, 1, 1, 1] of timesteps t [B]; t < 0 means a finished image (a = 1, s = 0)."""
        alpha2 = torch.where(
            t.cpu() < 0, torch.ones((), dtype=torch.float64), self.alphas_cumprod[t.cpu().clamp(min=0)]
        )
        a, s = alpha2.sqrt(), (1 - alpha2).sqrt()
        return a.to(like.device, torch.float32).view(-1, 1, 1, 1), s.to(like.device, torch.float32).view(-1, 1, 1, 1)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the UNet ought to predict for x_t: the noise, or v = a e - s x_0."""
        if self.prediction_type == "epsilon":
            return noise
        a, s = self.levels(t, x0)
        return a * noise - s * x0

    def predict_x0(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The clean latents implied by the UNet's output at x_t."""
        a, s = self.levels(t, x)
        if self.prediction_type == "epsilon":
            return (x - s * output) / a
        return a * x - s * output

    def predict_noise(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The noise implied by the UNet's output at x_t."""
        if self.prediction_type == "epsilon":
            return output
        a, s = self.levels(t, x)
        return a * output + s * x

    def velocity(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The UNet's output at x_t as v = a e - s x_0, whatever it predicts."""
        if self.prediction_type == "v_prediction":
            return output
        a, s = self.levels(t, x)
        return (output - s * x) / a

    @staticmethod
    def _added(a: Tensor, s: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
        return 1 - (a / a_next) ** 2  # the same, where a² + s² = 1


def _betas(config: dict[str, Any], count: int) -> Tensor:
    if config.get("trained_betas"):
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    start, end = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    kind = config.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    raise CheckpointError(f"noise schedule {kind!r} is not supported: only scaled_linear and linear are")


def _rescale_zero_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_cumprod) so that the last is (almost) zero and the first stays (Lin et al. 2024,
    algorithm 1).

    Almost: an exact zero would divide by zero when x_0 is computed from the noise.
    """
    root = alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    result = root**2
    result[-1] = 2.0**-24
    return result
