"""From noise to pictures: the denoising chain without gradient, the guided prediction, and the noise of each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import Backend
from .conditioning import Conditioning


class SampleNoise:
    """Randomness of one training sample, a function of (seed, sample number) alone.

    Whatever the batch size, the number of processes or a restart in between, sample n sees the same noise and the same
    denoising step. Drawn on the CPU, so that devices agree too.
    """

    def __init__(self, seed: int, sample: int):
        self.generator = torch.Generator().manual_seed((seed * 1_000_003 + sample) % (1 << 62))

    def integer(self, low: int, high: int) -> int:
        """A uniform integer, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(tuple(shape), generator=self.generator)


def draw(noises: Sequence[SampleNoise], shape: Sequence[int], device: torch.device) -> Tensor:
    """One standard normal tensor per sample: [B, *shape]."""
    return torch.stack([noise.normal(shape) for noise in noises]).to(device)


@dataclass(frozen=True)
class Prediction:
    """UNet outputs [B, 4, h, w]: `guided` is what the sampler uses, `conditional` is the branch that carries the
    gradient.
    """

    guided: Tensor
    conditional: Tensor


class Rollout:
    """Denoises latents in `steps` steps with classifier-free guidance `guidance` (1 = none). The first `base_steps` of
    them are made within `base_model()`, a context in which the network answers as the untrained model does.
    """

    def __init__(
        self,
        backend: Backend,
        steps: int,
        guidance: float,
        eta: float,
        check: Callable[[], None] | None = None,
        base_steps: int = 0,
        base_model: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self.backend = backend
        self.schedule = backend.schedule
        self.guidance = guidance
        self.eta = eta
        self.base_steps, self.base_model = base_steps, base_model
        self.timesteps = backend.schedule.timesteps(steps)
        self.check = check or (lambda: None)  # called between UNet calls, so that a stop does not wait for the chain

    def __len__(self) -> int:
        return len(self.timesteps)

    def next_timesteps(self, index: Tensor) -> Tensor:
        """The timestep after step `index` [B]; -1 after the last."""
        following = torch.cat((self.timesteps[1:], torch.tensor([-1])))
        return following[index]

    def predict(self, x: Tensor, t: Tensor, cond: Conditioning, uncond: Conditioning | None) -> Prediction:
        """Guided prediction at x_t, t [B]. `uncond` is one row.

        With gradient enabled only the conditional branch keeps its graph: half the activations, and the unconditional
        prediction is a constant of the update.
        """
        if uncond is None or self.guidance == 1:
            output = self.backend.predict(x, t, cond)
            return Prediction(output, output)
        if torch.is_grad_enabled():
            with torch.no_grad():
                without = self.backend.predict(x.detach(), t, uncond.expand(len(x)))
            output = self.backend.predict(x, t, cond)
        else:
            both = self.backend.predict(
                x.repeat(2, 1, 1, 1), t.repeat(2), Conditioning.cat((cond, uncond.expand(len(x))))
            )
            output, without = both.chunk(2)
        return Prediction(without + self.guidance * (output - without), output)

    def advance(self, x: Tensor, prediction: Tensor, index: Tensor, noises: Sequence[SampleNoise]) -> Tensor:
        """x after step `index` [B]."""
        t, t_next = self.timesteps[index], self.next_timesteps(index)
        noise = draw(noises, x.shape[1:], x.device) if self.eta else None
        return self.schedule.step(x, prediction, t, t_next, self.eta, noise)

    @torch.no_grad()
    def prefix(
        self,
        x: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        stop: Sequence[int],
        noises: Sequence[SampleNoise],
    ) -> Tensor:
        """Noise x [B, 4, h, w] → the latents before step stop[b] of each sample; no graph is kept."""
        x = x.clone()
        for index in range(max(stop)):
            self.check()
            active = [row for row, last in enumerate(stop) if last > index]
            steps = torch.full((len(active),), index)
            part, part_cond = (x, cond) if len(active) == len(stop) else (x[active], cond.rows(active))
            with self.base_model() if index < self.base_steps else nullcontext():
                output = self.predict(part, self.timesteps[steps], part_cond, uncond).guided
            x[active] = self.advance(part, output, steps, [noises[row] for row in active])
        return x

    @torch.no_grad()
    def sample(
        self, x: Tensor, cond: Conditioning, uncond: Conditioning | None, noises: Sequence[SampleNoise]
    ) -> Tensor:
        """Noise → finished latents."""
        return self.prefix(x, cond, uncond, [len(self)] * len(x), noises)
