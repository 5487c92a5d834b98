"""PickScore (Kirstain et al. 2023): exp(logit_scale) · cosine of CLIP-H/14 tuned on Pick-a-Pic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import weights
from .base import building
from .clip import image_size, tower_net
from .loading import requested
from .twotower import HubInputs, TwoTowerScorer

ACT = "gelu"  # CLIP-H's own, exact; CLIP-L has quick_gelu


class PickScoreScorer(HubInputs, TwoTowerScorer):
    """About 18 (poor) to 24 (good) on the published weights."""

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        scale = self.net.logit_scale.to(images.dtype).exp()
        return scale * super().combine(prompts, images)


@building()
def load_pickscore(name: str = "PickScore", **options: Any) -> PickScoreScorer:
    """See `imagereward_core.load_score`. `config`: Hugging Face's config.json, or its parts under `text`, `vision`."""
    request = requested(name, **options)
    state, config, path = request.read()
    net = tower_net(state, config, ACT, request, path)
    weights.keep_converted(path, state, {})
    return PickScoreScorer(net, request.info, request.device, size=image_size(net))
