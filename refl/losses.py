"""The losses: reward hinge, anchors, and how each algorithm turns noise into a differentiable picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .conditioning import Conditioning
from .errors import ConfigError
from .resolved import ResolvedConfig
from .rollout import Rollout, SampleNoise, draw
from .schedule import NoiseSchedule


class Reward(Protocol):
    """Anything that scores images [B, 3, H, W] in [0, 1] against prompts with a gradient: → [B]."""

    def differentiable(self, prompts: Sequence[str], images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """Samples of one micro-step. `noises` decide the step and all noise of each sample."""

    prompts: list[str]
    cond: Conditioning
    noises: list[SampleNoise]


@dataclass(frozen=True)
class LossTerm:
    """One graph to run backward through. `loss` is already weighted; the rest is for the log, detached."""

    loss: Tensor
    reward: Tensor
    anchor: Tensor


def hinge(reward: Tensor, target: float) -> Tensor:
    """phi(r) = relu(target - r), mean over the batch; the paper's target is 2."""
    return F.relu(target - reward).mean()


def min_snr_weight(alphas_cumprod: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """min(SNR, gamma) / SNR, for v-prediction / (SNR + 1) (Hang et al. 2023)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def denoising_loss(
    rollout: Rollout, x0: Tensor, cond: Conditioning, t: Tensor, noise: Tensor, snr_gamma: float | None = None
) -> Tensor:
    """The ordinary diffusion loss, the paper's L_pre: [B], mean squared error of the UNet's prediction at x_t."""
    schedule = rollout.schedule
    output = rollout.backend.predict(schedule.add_noise(x0, noise, t), t, cond)
    loss = (output - schedule.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
    if snr_gamma:
        if not isinstance(schedule, NoiseSchedule):
            raise ConfigError("snr_gamma weighs noise levels of diffusion models: leave it out for a flow-matching one")
        weight = min_snr_weight(schedule.alphas_cumprod[t], snr_gamma, schedule.prediction_type)
        loss = loss * weight.to(loss.device, loss.dtype)
    return loss


class RewardLoss:
    """Yields the loss terms of a micro-batch for the configured algorithm.

    Terms are independent graphs, so that the caller can run backward through one before the next is built.
    base_model() is a context in which the UNet answers as the untrained model does (for the KL anchor).
    """

    def __init__(
        self,
        config: ResolvedConfig,
        rollout: Rollout,
        reward: Reward,
        uncond: Conditioning | None,
        base_model: Callable[[], AbstractContextManager[None]],
    ):
        self.config, self.rollout, self.reward, self.uncond, self.base_model = (
            config,
            rollout,
            reward,
            uncond,
            base_model,
        )
        self.latent_size = config.resolution // rollout.backend.latent_factor

    def terms(self, batch: Batch, device: torch.device) -> Iterator[LossTerm]:
        """The graphs of this micro-batch; their weights add up to one."""
        config = self.config
        shape = (self.rollout.backend.latent_channels, self.latent_size, self.latent_size)
        x = draw(batch.noises, shape, device)
        if config.algorithm == "draft-k":
            yield self._draft(x, batch, config.draft_steps)
        elif config.algorithm == "draft-lv":
            yield from self._draft_lv(x, batch)
        else:
            steps = [noise.integer(config.min_step, config.max_step) for noise in batch.noises]
            learn = self.direct_align if config.algorithm == "direct-align" else self.one_shot
            yield learn(x, batch, steps)

    def one_shot(self, noise: Tensor, batch: Batch, steps: Sequence[int]) -> LossTerm:
        """ReFL: denoise without gradient to step steps[b], one step with gradient, predict the picture in one shot."""
        x = self.rollout.prefix(noise, batch.cond, self.uncond, steps, batch.noises)
        return self._from(x, self.rollout.timesteps[torch.tensor(steps)], batch, 1.0)[0]

    def direct_align(self, noise: Tensor, batch: Batch, steps: Sequence[int]) -> LossTerm:
        """Direct-Align (Shen et al. 2025, SRPO, section 3.1): a finished picture is noised to step steps[b] with noise
        that is known; one step with gradient takes a part of it away, and the known noise explains the rest.

        One shot from an early step must guess the picture from almost nothing, and its blur is what the reward sees.
        Here the network answers for the noise of one step only, so that early steps see a finished picture.
        """
        rollout = self.rollout
        x0 = rollout.sample(noise, batch.cond, self.uncond, batch.noises)
        rollout.check()
        index = torch.tensor(steps)
        t, t_next = rollout.timesteps[index], rollout.next_timesteps(index)
        known = draw(batch.noises, x0.shape[1:], x0.device)
        x = rollout.schedule.add_noise(x0, known, t)
        anchor_target = self._base(x, t, batch)
        prediction = rollout.predict(x, t, batch.cond, self.uncond)
        following = rollout.schedule.step(x, prediction.guided, t, t_next)
        a, s = rollout.schedule.levels(t_next, x)
        anchor = self._distance(prediction.conditional, anchor_target)
        return self._term((following - s * known) / a, anchor, batch, 1.0)

    def _from(self, x: Tensor, t: Tensor, batch: Batch, weight: float) -> tuple[LossTerm, Tensor]:
        anchor_target = self._base(x, t, batch)
        prediction = self.rollout.predict(x, t, batch.cond, self.uncond)
        x0 = self.rollout.schedule.predict_x0(x, prediction.guided, t)
        anchor = self._distance(prediction.conditional, anchor_target)
        return self._term(x0, anchor, batch, weight), x0.detach()

    def _draft(self, noise: Tensor, batch: Batch, count: int) -> LossTerm:
        """DRaFT-K (Clark et al. 2024): gradient through the last `count` steps of the sampler."""
        rollout, first = self.rollout, len(self.rollout) - count
        x = rollout.prefix(noise, batch.cond, self.uncond, [first] * len(noise), batch.noises)
        anchor = x.new_zeros(())
        for index in range(first, len(rollout)):
            rollout.check()
            steps = torch.full((len(x),), index)
            t = rollout.timesteps[steps]
            anchor_target = self._base(x.detach(), t, batch)
            prediction = rollout.predict(x, t, batch.cond, self.uncond)
            anchor = anchor + self._distance(prediction.conditional, anchor_target) / count
            x = rollout.advance(x, prediction.guided, steps, batch.noises)
        return self._term(x, anchor, batch, 1.0)

    def _draft_lv(self, noise: Tensor, batch: Batch) -> Iterator[LossTerm]:
        """DRaFT-LV: one step with gradient, then the finished picture is noised again for further gradients of low
        variance.
        """
        rollout, repeats = self.rollout, self.config.lv_repeats
        weight = 1 / (1 + repeats)
        last = self.config.max_step
        x = rollout.prefix(noise, batch.cond, self.uncond, [last] * len(noise), batch.noises)
        t = rollout.timesteps[torch.full((len(noise),), last)]
        term, x0 = self._from(x, t, batch, weight)
        yield term
        for _ in range(repeats):
            rollout.check()
            again = draw(batch.noises, x0.shape[1:], x0.device)
            yield self._from(rollout.schedule.add_noise(x0, again, t), t, batch, weight)[0]

    def _base(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor | None:
        if self.config.anchor != "kl" or not self.config.anchor_weight:
            return None
        with torch.no_grad(), self.base_model():
            return self.rollout.backend.predict(x, t, batch.cond)

    @staticmethod
    def _distance(output: Tensor, base: Tensor | None) -> Tensor:
        return output.new_zeros(()) if base is None else (output - base).square().mean()

    def _term(self, x0: Tensor, anchor: Tensor, batch: Batch, weight: float) -> LossTerm:
        images = self.rollout.backend.decode(x0, tiny=True).clamp(0, 1)
        reward = self.reward.differentiable(batch.prompts, images)
        loss = hinge(reward, self.config.reward_target) * self.config.grad_scale + anchor * self.config.anchor_weight
        return LossTerm(loss * weight, reward.detach(), anchor.detach())
