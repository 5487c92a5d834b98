"""Prompts of SD 1.x and SD 2.x: one text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .clip_text import ClipText
from .clip_tokenizer import ClipTokenizer
from .conditioning import Conditioning


class SDPrompts:
    """Prompts → context [B, 77, D], with the final layer norm whatever layer it comes from (as the WebUI does)."""

    def __init__(self, encoder: ClipText, tokenizer: ClipTokenizer, clip_skip: int):
        self.encoder, self.tokenizer, self.clip_skip = encoder, tokenizer, clip_skip

    def to(self, device: torch.device) -> SDPrompts:
        """Move the encoder."""
        self.encoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        """The resolution plays no part in these models."""
        ids = torch.tensor(self.tokenizer(prompts), device=self.encoder.position_embedding.weight.device)
        return Conditioning(self.encoder.encode(ids, self.clip_skip, True, self.tokenizer.end)[0])
