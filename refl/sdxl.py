"""Prompts of SDXL: two text encoders side by side, a pooled vector, and the image size (Podell et al. 2023, section
2.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .clip_text import ClipText
from .clip_tokenizer import ClipTokenizer
from .conditioning import Conditioning
from .errors import CheckpointError


class SDXLPrompts:
    """Prompts → context [B, 77, D1 + D2], pooled [B, P], time_ids [B, 6]."""

    def __init__(self, parts: list[tuple[ClipText, ClipTokenizer]], clip_skip: int):
        self.parts, self.clip_skip = parts, clip_skip

    def to(self, device: torch.device) -> SDXLPrompts:
        """Move both encoders."""
        for encoder, _ in self.parts:
            encoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        """Training images are square, uncropped and of the training resolution: (H, W, 0, 0, H, W).

        An empty prompt becomes zeros, as SDXL was trained.
        """
        contexts, pooled = [], None
        for encoder, tokenizer in self.parts:
            ids = torch.tensor(tokenizer(prompts), device=encoder.position_embedding.weight.device)
            context, pooled = encoder.encode(ids, self.clip_skip, False, tokenizer.end)
            contexts.append(context)
        context = torch.cat(contexts, dim=-1)
        if pooled is None:
            raise CheckpointError("the second text encoder of this SDXL model lacks its text projection")
        filled = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=context.device)
        sizes = torch.tensor(
            [[resolution, resolution, 0, 0, resolution, resolution]], dtype=torch.float32, device=context.device
        )
        return Conditioning(context * filled[:, None, None], pooled * filled[:, None], sizes.expand(len(prompts), 6))
