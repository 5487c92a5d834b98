"""What a network predicts, the noise or v: told by its files, else found out, and always said with where from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..families.base import Family
from ..flow import FlowSchedule
from ..log import logger
from ..schedule import NoiseSchedule, Schedule
from .base import Checkpoint, Claim, choose

Network = Callable[[Tensor, Tensor], Tensor]  # noisy latents x, timesteps t → output
RESEMBLES = 0.5  # cosine similarity from which two tensors of noise count as the same
LOW_NOISE = 0.1  # share of the timesteps at which every trained UNet still sees which part is noise


def settle(
    checkpoint: Checkpoint, asked: str, network: Network, latents: tuple[int, ...]
) -> tuple[Schedule, Claim, Claim]:
    """(noise schedule, what is predicted, whether the last step is pure noise), each with its source, and logged.

    asked: "auto", or the answer. latents: the shape [1, C, h, w] to probe with.
    """
    path, family = checkpoint.path, checkpoint.family
    snr = choose(checkpoint.zero_snr, "zero terminal SNR", path) or Claim(False, "nothing says so")
    settings = {**checkpoint.scheduler, "rescale_betas_zero_snr": snr.value}
    schedule = family.schedule({**settings, "prediction_type": "epsilon"})
    if isinstance(schedule, FlowSchedule):
        if asked != "auto":
            raise CheckpointError(
                f"{path} is a flow-matching model, which predicts a velocity: prediction_type {asked} does not fit it,"
                " leave it at auto"
            )
        logger.info("%s predicts a flow's velocity (%s); shift %.3g", path.name, family.name, schedule.shift)
        return schedule, Claim(schedule.prediction_type, f"every {family.name} does"), snr
    assert isinstance(schedule, NoiseSchedule)
    if asked != "auto":
        found = Claim(asked, "the setting prediction_type")
    else:
        found = choose(checkpoint.predictions, "the prediction", path) or _probed(family, network, schedule, latents)
    schedule.prediction_type = found.value
    logger.info(
        "%s predicts %s (%s); zero terminal SNR: %s (%s)",
        path.name,
        found.value,
        found.source,
        "yes" if snr.value else "no",
        snr.source,
    )
    return schedule, found, snr


def _probed(family: Family, network: Network, schedule: NoiseSchedule, latents: tuple[int, ...]) -> Claim:
    try:
        found = probe(network, schedule, latents)
    except RuntimeError as error:  # a CPU without arithmetic in this precision
        reason = str(error).partition("\n")[0][:200]
        return Claim(family.prediction, f"usual for {family.name}; its files do not say, and probing failed: {reason}")
    if found is None:
        return Claim(
            family.prediction,
            f"usual for {family.name}; its files do not say, and its output tells neither: check with"
            " --prediction_type if pictures come out empty",
        )
    return Claim(found, "probed, its files do not say")


@torch.no_grad()
def probe(network: Network, schedule: NoiseSchedule, latents: tuple[int, ...]) -> str | None:
    """What the network predicts by its behaviour; None where it shows neither, as an untrained one does.

    At the noisiest timestep the input is nothing but noise. A network that predicts the noise returns its input; one
    that predicts v = a e - s x_0 returns minus a picture, which has little to do with it. At a timestep with little
    noise both return mostly the noise, which tells a network that predicts v from one that predicts nothing.
    """
    noise = torch.randn(latents, generator=torch.Generator().manual_seed(0))
    last = torch.tensor([len(schedule) - 1])
    if similarity(network(noise, last), noise) > RESEMBLES:
        return "epsilon"
    early = torch.tensor([round((len(schedule) - 1) * LOW_NOISE)])
    _, level = schedule.levels(early, noise)
    return "v_prediction" if similarity(network(noise * level, early), noise) > RESEMBLES else None


def similarity(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors."""
    return float(torch.nn.functional.cosine_similarity(a.flatten().float().cpu(), b.flatten().float(), dim=0))
