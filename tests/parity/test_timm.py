"""Our vision tower against timm's VisionTransformer, which the published weights were trained with."""

import pytest
import torch

from imagereward_core.config import VisionConfig
from imagereward_core.model.vision import VisionTransformer

try:
    from timm.models.vision_transformer import VisionTransformer as Timm
except Exception as error:  # noqa: BLE001 - timm's import raises RuntimeError where torchvision does not match torch
    pytest.skip(f"needs timm and a torchvision that matches torch ({type(error).__name__})", allow_module_level=True)


@pytest.mark.parametrize("size", [(64, 16, 32, 2, 2), (224, 16, 192, 3, 3)])
def test_equal_to_timm(size):
    image_size, patch_size, width, depth, heads = size
    torch.manual_seed(0)
    theirs = Timm(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4,
        qkv_bias=True,
        num_classes=0,
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = VisionTransformer(
        VisionConfig(image_size=image_size, patch_size=patch_size, width=width, depth=depth, heads=heads)
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pixels = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(pixels), theirs.eval().forward_features(pixels), atol=1e-4, rtol=1e-4)
