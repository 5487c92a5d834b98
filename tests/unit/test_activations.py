"""Activations in place: the plain functions' values, one tensor of a forward's largest size, and gradients as ever."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imagereward_core.config import TextConfig, VisionConfig
from imagereward_core.model import activations
from imagereward_core.model.activations import in_place, use_in_place
from imagereward_core.model.text import Intermediate
from imagereward_core.model.vision import Mlp

PLAIN = {
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def written_over(forward, first: nn.Module, last: nn.Module) -> bool:
    """Whether what the first layer made and what the last one read are the same memory."""
    places = {}
    hooks = [
        first.register_forward_hook(lambda _, __, made: places.update(made=made.data_ptr(), kept=made)),
        last.register_forward_pre_hook(lambda _, given: places.update(read=given[0].data_ptr())),
    ]
    forward()
    for hook in hooks:
        hook.remove()
    return places["made"] == places["read"]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_the_plain_functions(name, dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    expected = PLAIN[name](x)
    with torch.no_grad():
        torch.testing.assert_close(in_place(name)(x.clone()), expected)
    layer, other = x.float().requires_grad_(), x.float().requires_grad_()
    in_place(name)(layer * 1).sum().backward()
    PLAIN[name](other).sum().backward()
    assert torch.equal(layer.grad, other.grad)


@pytest.mark.parametrize("name", PLAIN)
def test_backends_that_may_lack_the_form_in_place_get_the_plain_one(name, monkeypatch):
    monkeypatch.setattr(activations, "DEVICES", ("another",))
    x = torch.linspace(-3, 3, 7)
    with torch.no_grad():
        made = in_place(name)(x)
    assert torch.equal(x, torch.linspace(-3, 3, 7)) and torch.equal(made, PLAIN[name](x))


def test_what_is_not_known_is_left_alone():
    layer = Mlp(4, 8)
    layer.act = nn.ReLU()
    use_in_place(layer, "act", "relu")
    assert type(layer.act) is nn.ReLU and in_place("relu") is None


def test_own_towers_write_over_their_largest_tensor():
    vision, text = VisionConfig(width=8, heads=2), TextConfig(width=8, heads=2)
    mlp, half, out = Mlp(vision.width, 32), Intermediate(text.width, 32), nn.Linear(32, 8)
    with torch.no_grad():
        assert written_over(lambda: mlp(torch.randn(2, 3, 8)), mlp.fc1, mlp.fc2)
        assert written_over(lambda: out(half(torch.randn(2, 3, 8))), half.dense, out)
    x = torch.randn(2, 3, 8, requires_grad=True)
    assert not written_over(lambda: mlp(x).sum().backward(), mlp.fc1, mlp.fc2)
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_clips_towers_write_over_their_largest_tensor(act):
    transformers = pytest.importorskip("transformers")
    from imagereward_core.scorers.towers.clip import build_clip, clip_config

    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = clip_config(
        {**sizes, "hidden_act": act}, {**sizes, "hidden_act": act, "image_size": 32, "patch_size": 16}, 8
    )
    plain = transformers.CLIPModel(config).eval()
    net = build_clip(dict(plain.state_dict()), config, torch.float32, torch.device("cpu"), "made here")
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[49406, 5, 49407]])
    with torch.no_grad():
        for tower in (net.vision_model, net.text_model):
            mlp = tower.encoder.layers[0].mlp
            given = {"pixel_values": pixels} if tower is net.vision_model else {"input_ids": ids}
            other = plain.vision_model if tower is net.vision_model else plain.text_model
            assert written_over(lambda tower=tower, given=given: tower(**given), mlp.fc1, mlp.fc2)
            torch.testing.assert_close(tower(**given).pooler_output, other(**given).pooler_output)
