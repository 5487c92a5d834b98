"""CLIP ViT-L/14: the cosine of text and image features (transformers' CLIPModel)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import registry, weights
from ..clip_bpe import tokenize
from ..errors import ModelNotFoundError
from .base import Scorer, building, pick_device, pick_dtype

if TYPE_CHECKING:
    from transformers import CLIPModel

# openai/clip-vit-large-patch14; everything not named is CLIPConfig's default in every release (vocabulary, 77
# positions).
L14_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
L14_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
L14_PROJECTION = 768
CONSTANT = re.compile(r".*embeddings\.position_ids$")  # stored by older exporters, a buffer in newer releases


class ClipScorer(Scorer):
    """Cosine in [-1, 1]. Text goes up to CLIP's own 77 tokens."""

    net: CLIPModel

    def encode_images(self, pixels: Tensor) -> Tensor:
        pooled = self.net.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.net.visual_projection(pooled).float(), dim=-1)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Normalised text features [B, D]."""
        pooled = self.net.text_model(input_ids=tokenize(prompts).to(self.device)).pooler_output
        return F.normalize(self.net.text_projection(pooled).float(), dim=-1)

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        return (self.encode_prompts(prompts) * images).sum(-1)


def clip_config(text: dict[str, int], vision: dict[str, int], projection: int) -> Any:
    """A CLIPConfig of these sizes. Raises ModelNotFoundError where transformers is missing or broken."""
    try:
        from transformers import CLIPConfig
    except ImportError as error:
        raise ModelNotFoundError(
            f"the CLIP and Aesthetic scorers need the package transformers, which cannot be imported here ({error}): "
            "install transformers>=4.30, or use ImageReward or BLIP, which do without"
        ) from error
    shared: dict[str, Any] = {"projection_dim": projection, "hidden_act": "quick_gelu"}
    return CLIPConfig(text_config=text | shared, vision_config=vision | shared, projection_dim=projection)


@building()
def build_clip(state: dict[str, Tensor], config: Any, dtype: torch.dtype, device: torch.device, path: str) -> CLIPModel:
    """A CLIPModel on `device` holding `state` (Hugging Face key names)."""
    from transformers import CLIPModel

    with torch.device("meta"):
        net = CLIPModel(config)
    missing = [key for key in net.state_dict() if CONSTANT.match(key)]
    state = {key: tensor for key, tensor in state.items() if not CONSTANT.match(key)}
    state = weights.checked(state, net, missing, path)
    for key in missing:
        state[key] = torch.arange(net.state_dict()[key].shape[-1]).expand(1, -1).clone()
    state = {key: tensor.to(device, dtype if tensor.is_floating_point() else None) for key, tensor in state.items()}
    net.load_state_dict(state, strict=True, assign=True)
    for part in net.modules():  # buffers that are in no checkpoint are still on the meta device
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(part, name, torch.arange(buffer.shape[-1], device=device).expand(1, -1).clone())
    return net.eval().requires_grad_(False)


def load_clip_net(
    source: registry.Source, device: torch.device, precision: str, download_root: Any, models_dir: Any
) -> nn.Module:
    """CLIP ViT-L/14 from its registry source."""
    config = clip_config(L14_TEXT, L14_VISION, L14_PROJECTION)
    path = os.fspath(weights.locate(source, download_root=download_root, models_dir=models_dir))
    return build_clip(weights.read_state(path)[0], config, pick_dtype(precision, device), device, path)


@building()
def load_clip(
    name: str = "CLIP",
    *,
    device: Any = None,
    download_root: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    models_dir: str | os.PathLike[str] | None = None,
) -> ClipScorer:
    """See `imagereward_core.load_score`."""
    device = pick_device(device)
    info = registry.get(str(name))
    net = load_clip_net(info.sources[0], device, precision, download_root, models_dir)
    return ClipScorer(net, info, device)
