"""The reward model: image tokens → text encoder attending to them → first token → linear head → standardised score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .text import TextEncoder
from .vision import VisionTransformer

# What a checkpoint may lack: a constant table of positions that newer exporters leave out.
ALLOWED_MISSING = ("blip.text_encoder.embeddings.position_ids",)


class Blip(nn.Module):
    """BLIP's two encoders and their projections into the joint space (image-text contrast)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.visual_encoder = VisionTransformer(config.vision)
        self.text_encoder = TextEncoder(config.text, config.vision.width)
        self.vision_proj = nn.Linear(config.vision.width, config.projection)
        self.text_proj = nn.Linear(config.text.width, config.projection)


class RewardHead(nn.Module):
    """Linear layers with dropout and no activation between them, as published (768-1024-128-64-16-1); with "gelu" an
    exact GELU between all of them and no dropout (CycleReward).
    """

    def __init__(self, width: int, hidden: tuple[int, ...], activation: str = "none"):
        super().__init__()
        sizes = (width, *hidden, 1)
        layers: list[nn.Module] = []
        for index, (inner, outer) in enumerate(zip(sizes, sizes[1:])):
            layers.append(nn.Linear(inner, outer))
            if activation == "gelu":
                layers += [nn.GELU()] if index < len(sizes) - 2 else []
            elif index < len(sizes) - 3:  # none before the last two linear layers: the published indices 0 2 4 6 7
                layers.append(nn.Dropout(0.2 if index < len(sizes) - 4 else 0.1))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.to(next(self.parameters()).dtype))  # half-precision features meet a head in fp32


class RewardModel(nn.Module):
    """ImageReward (Xu et al. 2023). `forward` is the one way a reward is computed: scoring, training and ReFL end here.

    Shapes: pixels [B, 3, S, S] after `preprocess`; input_ids, attention_mask [B, T]; reward [B, 1], mean 0 and std 1 on
    the data the model was standardised on. Everything is differentiable with respect to pixels and weights.
    """

    def __init__(self, config: ModelConfig | None = None):
        super().__init__()
        self.config = config or ModelConfig()
        self.blip = Blip(self.config)
        self.mlp = RewardHead(self.config.text.width, self.config.head, self.config.head_activation)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] → image tokens [B, N, W]."""
        return self.blip.visual_encoder(pixels)

    def features(self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """The first text token after attending to the image: [B, W_text], in fp32. One image serves B prompts."""
        return self.blip.text_encoder(input_ids, attention_mask, image_tokens)[:, 0].float()

    def head(self, features: Tensor) -> Tensor:
        """[B, W_text] → standardised reward [B, 1]; always fp32, also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return (self.mlp(features) - self.config.mean) / self.config.std

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        return self.head(self.features(input_ids, attention_mask, self.encode_image(pixels)))

    def contrast(self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """BLIP's image-text contrastive cosine [B] of the two encoders taken apart (no cross-attention)."""
        text = self.blip.text_encoder(input_ids, attention_mask)[:, 0]
        text = F.normalize(self.blip.text_proj(text).float(), dim=-1)
        image = F.normalize(self.blip.vision_proj(image_tokens[:, 0]).float(), dim=-1)
        return (text * image).sum(-1)
