"""A taste as ReFL's reward: by its name, and with a gradient through all it scores by."""

import pytest
import torch
import torch.nn.functional as F

from imagereward_core.taste import learning
from imagereward_core.taste.duels import add_file
from refl.rewards import load_rewards

PARTS = ("score", "embedding", "appearance")  # what the head weighs
STEP = 2e-3


def test_the_gradient_goes_through_every_part(library, base, small, duels):
    """Of the whole head, and of one with only one part of its weights left: the derivative uphill is the finite
    difference.
    """
    add_file(library, duels)
    learning.learn(library, base, lambda: small, "my-taste")
    mix = load_rewards(["my-taste"], "cpu")
    (component,) = mix.components
    assert component.name == "my-taste"
    head = component.scorer.head
    learnt = {part: getattr(head, part).clone() for part in PARTS}
    for kept in (PARTS, *((part,) for part in PARTS)):
        for part, weights in learnt.items():
            getattr(head, part).copy_(weights if part in kept else torch.zeros_like(weights))
        expected, found = slopes(mix)
        assert expected > 0.005
        assert found == pytest.approx(expected, rel=0.02), kept


def slopes(mix):
    """(by the gradient, by finite differences): of the reward in the direction in which it rises."""
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)).mul(0.6).add(0.2).requires_grad_()
    prompts = ["a disc, number 1", "a disc, number 2"]
    (gradient,) = torch.autograd.grad(mix.differentiable(prompts, images).sum(), images)
    # in squares of twelve pixels, for the darkest pixel, one of many, is soon another
    along = F.interpolate(F.avg_pool2d(gradient, 12), scale_factor=12)
    along = along / along.norm()
    ahead, behind = (
        float(mix.differentiable(prompts, (images + sign * STEP * along).detach()).sum()) for sign in (1, -1)
    )
    return float((gradient * along).sum()), (ahead - behind) / (2 * STEP)
