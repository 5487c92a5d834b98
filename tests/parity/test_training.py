"""Loss and gradients of training against the reference network on full-size seeded weights, tensor by tensor."""

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
import pytest
import torch

from imagereward_core.preprocess import open_image, pil_to_pixels
from imagereward_train.freezing import freeze
from imagereward_train.items import pairs_of
from imagereward_train.loss import pairwise_loss

TOLERANCE = 1e-5


@contextlib.contextmanager
def as_in_training(net):
    """The shared model with its raw rewards; restored afterwards, for other tests use it."""
    config = net.config
    net.config = dataclasses.replace(config, mean=0.0, std=1.0)
    try:
        yield net
    finally:
        net.config = config
        net.zero_grad(set_to_none=True)
        net.requires_grad_(False)


def test_loss_and_every_gradient_equal_the_reference(golden, golden_model):
    expected = json.loads((pathlib.Path(__file__).parent / "training_gradients.json").read_text())
    paths = [path for path in golden["paths"] if path.name in expected["images"]]
    with as_in_training(golden_model.net) as net:
        trained = freeze(net, fix_rate=0.7)
        assert set(trained) == set(expected["gradients"]) and len(trained) == 210
        pixels = torch.stack([pil_to_pixels(open_image(path)) for path in paths])
        rewards = net(*golden_model.tokenize([expected["prompt"]] * len(paths)), pixels)[:, 0]
        pairs = torch.tensor(pairs_of(expected["ranking"]))
        loss = pairwise_loss(rewards, pairs, len(pairs))
        loss.backward()
        assert rewards.tolist() == pytest.approx(expected["rewards"], abs=TOLERANCE)
        assert loss.item() == pytest.approx(expected["loss"], abs=TOLERANCE)
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                norm, *sample = expected["gradients"][name]
                gradient = parameter.grad.flatten()
                places = np.linspace(0, len(gradient) - 1, 16).astype(int)
                assert gradient.double().norm().item() == pytest.approx(norm, rel=1e-4, abs=TOLERANCE), name
                assert gradient[places].tolist() == pytest.approx(sample, rel=0, abs=TOLERANCE), name
            else:
                assert parameter.grad is None, name
