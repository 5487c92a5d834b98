"""Diffusion-DPO (Wallace et al. 2024): learning from picks without a reward, a rollout or a decoder.

Eq. 14 of the paper, with squared errors as means over a latent's numbers and the factors T omega(lambda_t) taken into
beta, as in the published code: loss = -log sigmoid(-beta/2 [(e_w - e_w_base) - (e_l - e_l_base)]), where e is the
network's squared error on the winner's and the loser's noisy latents, both at one timestep and with one noise. What the
network predicts, noise, v or a flow's velocity, makes no difference here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from .conditioning import Conditioning
from .losses import LossTerm, denoising_loss
from .picks import EncodedPicks, Pairs
from .rollout import Rollout, SampleNoise

PROBE_STREAM = 3_333_333_333  # the judging picks' noise, used nowhere else
PROBE_LEVELS = 8


class PickLoss:
    """The loss of pairs. base_model() is a context in which the network answers as the untrained model does."""

    def __init__(
        self,
        rollout: Rollout,
        table: Callable[[Sequence[str]], Conditioning],
        beta: float,
        base_model: Callable[[], AbstractContextManager[None]],
    ):
        self.rollout, self.table, self.beta, self.base_model = rollout, table, beta, base_model

    def margins(self, pairs: Pairs) -> Tensor:
        """[B]: how much more the network has come to prefer the winner than its base does; 0 before training."""
        x0, t = torch.cat((pairs.winners, pairs.losers)), pairs.t.repeat(2)
        noise, cond = pairs.noise.repeat(2, 1, 1, 1), self.table([*pairs.prompts, *pairs.prompts])
        with torch.no_grad(), self.base_model():
            reference = denoising_loss(self.rollout, x0, cond, t, noise)
        winner, loser = (denoising_loss(self.rollout, x0, cond, t, noise) - reference).chunk(2)
        return -0.5 * self.beta * (winner - loser)

    def terms(self, pairs: Pairs) -> Iterator[LossTerm]:
        """One graph for the micro-batch; its reward is the margin."""
        margins = self.margins(pairs)
        yield LossTerm(-F.logsigmoid(margins).mean(), margins.detach(), margins.new_zeros(()))


class HeldOutPicks:
    """Whether picks that are not trained on come true."""

    def __init__(self, loss: PickLoss, picks: EncodedPicks, batch: int, device: torch.device):
        self.loss, self.picks, self.batch, self.device = loss, picks, batch, device

    @torch.no_grad()
    def margins(self) -> Tensor:
        """[N]: the mean margin of each pick over timesteps spread evenly over the schedule, with fixed noise."""
        levels = (torch.arange(PROBE_LEVELS) + 0.5) / PROBE_LEVELS
        t = (levels * self.picks.timesteps).long()
        found = []
        for number, pick in enumerate(self.picks.picks):
            noises = [SampleNoise(0, PROBE_STREAM + number * PROBE_LEVELS + index) for index in range(PROBE_LEVELS)]
            parts = []
            for start in range(0, PROBE_LEVELS, self.batch):
                self.loss.rollout.check()
                part = noises[start : start + self.batch]
                pairs = self.picks.pairs([pick] * len(part), t[start : start + self.batch], part, self.device)
                parts.append(self.loss.margins(pairs).cpu())
            found.append(torch.cat(parts).mean())
        return torch.stack(found)

    def score(self) -> tuple[Tensor, float]:
        """(log likelihood of each pick [N], log 0.5 before training; share of picks that come true, ties half)."""
        margins = self.margins()
        right = (margins > 0).float() + 0.5 * (margins == 0).float()
        return F.logsigmoid(margins), float(right.mean())
