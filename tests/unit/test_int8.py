"""int8 on the CPU: the layer by itself, what stands in for it, and what is said about the weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import imagereward_core as RM
from imagereward_core.model import int8, quantize
from imagereward_core.model.cpu import gelu_after
from imagereward_core.model.vision import Attention, Bf16Attention

needs_kernel = pytest.mark.skipif(not int8.exact(), reason="this torch or processor lacks the eight-bit kernel")


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(96, 40).requires_grad_(False)


@needs_kernel
@torch.no_grad()
def test_eight_bits_of_weights_and_activations(layer):
    """The error is that of rounding: half a step of 255 in the activations and of 127 in each channel's weights."""
    x = torch.randn(3, 7, 96) * 2 + 1
    found = int8.Int8Linear(layer)(x)
    step, scale = (x.max() - x.min()) / 255, layer.weight.abs().amax(1) / 127
    noise = ((step**2 / 12 * layer.weight.square().sum(1)) + scale**2 / 12 * x.square().sum(-1, keepdim=True)).sqrt()
    errors = (found - layer(x)) / noise
    assert found.shape == (3, 7, 40) and 0.7 < errors.std() < 1.3


@needs_kernel
@torch.no_grad()
def test_gelu_comes_in_the_same_pass(layer):
    quantized = int8.Int8Linear(layer)
    x = torch.randn(5, 96)
    assert torch.allclose(gelu_after(quantized, x), F.gelu(quantized(x)), atol=1e-5)
    # a view that is not contiguous, values of one sign, and nothing at all
    wide = torch.rand(96, 5) + 3
    assert torch.equal(quantized(wide.T), quantized(wide.T.contiguous()))
    assert torch.allclose(quantized(wide.T), layer(wide.T), atol=0.2)
    assert torch.allclose(quantized(torch.zeros(2, 96)), layer.bias.expand(2, -1), atol=1e-6)


@needs_kernel
def test_other_weights_are_another_state(layer):
    before = int8.Int8Linear(layer).state_dict()
    layer.weight[3, 5] *= -1
    after = int8.Int8Linear(layer).state_dict()
    assert torch.equal(before["scale"], after["scale"])
    assert not torch.equal(before["weight_sha256"], after["weight_sha256"])


@pytest.mark.parametrize("kernel", [True, False])
def test_scores_with_and_without_the_kernel(tiny_file, monkeypatch, kernel):
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(5)]
    if not kernel:
        monkeypatch.setattr(quantize, "exact", lambda: False)
    elif not int8.exact():
        pytest.skip("this torch or processor lacks the eight-bit kernel")
    exact = RM.load(tiny_file, device="cpu").score("a cat", pictures)
    model = RM.load(tiny_file, device="cpu", precision="int8")
    kinds = {type(part) for part in model.net.blip.modules()}
    assert model.quantized and (int8.Int8Linear in kinds) is kernel and torch.nn.Linear not in kinds
    scores = model.score("a cat", pictures)
    assert 0 < max(abs(a - b) for a, b in zip(scores, exact)) < 0.2 * (max(exact) - min(exact))


@torch.no_grad()
def test_attention_in_bf16():
    torch.manual_seed(0)
    attention, x = Attention(32, 4).eval(), torch.randn(2, 9, 32)
    expected = attention(x)
    attention.__class__ = Bf16Attention
    found = attention(x)
    assert found.dtype is torch.float32 and 0 < (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_bf16_only_where_torch_knows_of_it(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert not quantize.fast_bf16()
