"""The dropout of training, which the scoring network does not have."""

import dataclasses

import pytest
import torch
from torch import nn

from imagereward_core.model import RewardModel
from imagereward_core.model.text import SelfAttention
from imagereward_train.dropout import _drop_path, apply_dropout
from imagereward_train.initial import initialise

from .small import TINY


def network(factor):
    net = RewardModel(dataclasses.replace(TINY, mean=0.0, std=1.0, head=(64, 32, 16, 8)))
    torch.manual_seed(0)
    initialise(net)
    apply_dropout(net, factor)
    return net


def rewards(net):
    ids = torch.tensor([[101, 1037, 4937, 102]])
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 16, 16)
    return net(ids, torch.ones_like(ids), pixels)[:, 0]


def test_evaluation_is_untouched():
    assert torch.equal(rewards(network(1.0).eval()), rewards(network(0.0).eval()))


def test_zero_removes_all_of_it():
    net = network(0.0)
    assert torch.equal(rewards(net.train()), rewards(net.eval()))


def test_rates_are_the_published_ones_times_the_factor():
    rates = [module.p for module in network(0.5).mlp.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.1, 0.1, 0.05]
    assert not torch.equal(rewards(network(1.0).train()), rewards(network(1.0).eval()))


@pytest.mark.parametrize("part", ["text_encoder", "visual_encoder"])
def test_each_encoder_drops_in_training(part):
    net = network(1.0)
    net.mlp.eval()
    torch.manual_seed(2)
    x = torch.randn(64, 3, 16, 16)
    ids = torch.full((64, 4), 1037)

    def run():
        image = net.blip.visual_encoder(x)
        return image if part == "visual_encoder" else net.blip.text_encoder(ids, torch.ones_like(ids), image)

    net.eval()
    still = run()
    getattr(net.blip, part).train()
    assert not torch.equal(run(), still)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    module = nn.Identity().train()
    torch.manual_seed(0)
    dropped = _drop_path(0.25)(module, (), torch.ones(20000, 2, 3))
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert sorted(set(per_sample[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(_drop_path(0.25)(module.eval(), (), torch.ones(5, 2)), torch.ones(5, 2))


def test_attention_probabilities_are_dropped_too():
    """Of hooks and probabilities, the latter alone: a text layer whose hooks are gone still varies in training mode."""
    net = network(1.0)
    attentions = [module for module in net.modules() if isinstance(module, SelfAttention)]
    assert len(attentions) == 2 * TINY.text.depth and all(module.dropout == 0.1 for module in attentions)
    attention = attentions[0].train()
    torch.manual_seed(0)
    x = torch.randn(8, 5, TINY.text.width)
    draws = [attention(x, attention.keys_values(x), None) for _ in range(2)]
    assert not torch.equal(*draws)
    still = attention.eval()(x, attention.keys_values(x), None)
    average = torch.stack([attention.train()(x, attention.keys_values(x), None) for _ in range(400)]).mean(0)
    assert (average - still).abs().max() < 0.1
