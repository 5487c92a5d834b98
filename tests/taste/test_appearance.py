"""The sixteen numbers of how a picture looks."""

import numpy as np
import pytest
import torch
from PIL import Image

from imagereward_core.taste.appearance import LONGEST, NAMES, appearance, appearance_of


def named(image):
    return dict(zip(NAMES, appearance_of(image).tolist(), strict=True))


def test_they_say_what_they_are_called():
    red, blue = named(Image.new("RGB", (40, 30), (255, 0, 0))), named(Image.new("RGB", (40, 30), (0, 0, 255)))
    assert red["red against green and blue"] == 1 and blue["green against blue"] == pytest.approx(-(0.75**0.5))
    assert red["saturation"] == pytest.approx(1) and red["brightness"] == pytest.approx(1 / 3)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    smooth = noise.resize((8, 8)).resize((64, 64))
    assert named(noise)["sharpness"] > named(smooth)["sharpness"] + 1
    assert named(noise)["contrast"] > named(smooth)["contrast"] > red["contrast"]
    corner = Image.new("RGB", (64, 64), (20, 20, 20))
    corner.paste((250, 240, 230), (44, 40, 60, 56))
    found = named(corner)
    assert found["what stands out, to the right"] > 0.4 and found["what stands out, downwards"] > 0.3
    assert found["darkest"] == pytest.approx(20 / 255, abs=1e-3)


def test_two_colours_are_not_their_mixture():
    both = Image.new("RGB", (40, 40), (255, 0, 0))
    both.paste((0, 255, 255), (0, 0, 40, 20))
    grey = named(Image.new("RGB", (40, 40), (128, 128, 128)))
    found = named(both)
    assert found["red against green and blue"] == pytest.approx(grey["red against green and blue"], abs=0.01)
    assert found["hue, second harmonic, cosine"] > 0.9 and abs(grey["hue, second harmonic, cosine"]) < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, LONGEST * 2), (LONGEST * 2, LONGEST + 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_any_picture_has_them(size, mode):
    assert torch.isfinite(appearance_of(Image.new(mode, size, 1))).all()


def test_a_tensor_has_the_same_as_the_picture():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    assert torch.allclose(appearance(tensor)[0], appearance_of(Image.fromarray(pixels)), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_gradient_is_finite_where_all_is_equal(value):
    images = torch.full((1, 3, 20, 20), value, requires_grad=True)
    appearance(images).sum().backward()
    assert torch.isfinite(images.grad).all()


def test_the_gradient_is_the_slope():
    images = torch.rand(1, 3, 6, 7, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    direction = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    weights = torch.arange(1.0, 17)
    (appearance(images) @ weights).sum().backward()
    step = 1e-4  # darkest and brightest have kinks
    change = ((appearance(images + step * direction) - appearance(images - step * direction)) @ weights).sum() / (
        2 * step
    )
    assert (images.grad * direction).sum().item() == pytest.approx(change.item(), rel=0.02)
