"""MPS's blocks: image tokens attend to text tokens, then to each other. Queries have many heads, keys and values one
(Shazeer 2019); feed-forward layers run beside the attention and are gated (SwiGLU, Shazeer 2020).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 10_000.0  # Su et al. 2021
FEED_FORWARD = 4  # its width, in widths of the tokens


def gated(x: Tensor) -> Tensor:
    """[..., 2D] → [..., D]: the first half, gated by the second."""
    value, gate = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def rotate(x: Tensor) -> Tensor:
    """Rotary positions on [..., N, D], the two halves of D as the pairs' members."""
    count, width = x.shape[-2:]
    rates = ROTARY_BASE ** (-torch.arange(0, width, 2, device=x.device, dtype=x.dtype) / width)
    angles = torch.outer(torch.arange(count, device=x.device, dtype=x.dtype), rates).repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


def split(x: Tensor, heads: int) -> Tensor:
    """[B, N, H·D] → [B, H, N, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """[B, H, N, D] → [B, N, H·D]."""
    return x.transpose(1, 2).flatten(2)


class TextAttention(nn.Module):
    """Image tokens [B, N, W] attend to the open text tokens [B, T, W]."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads = heads
        hidden = FEED_FORWARD * width
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.ff_in = nn.Linear(width, 2 * hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, text: Tensor, opened: Tensor) -> Tensor:
        normed = self.norm(x)
        keys, values = (part[:, None].expand(-1, self.heads, -1, -1) for part in self.to_kv(text).chunk(2, dim=-1))
        mask = opened[:, None, None, :]  # true = attend
        seen = F.scaled_dot_product_attention(split(self.to_q(normed), self.heads), keys, values, attn_mask=mask)
        return x + self.out(join(seen)) + self.ff_out(gated(self.ff_in(normed)))


class OwnAttention(nn.Module):
    """Image tokens [B, N, W] attend to each other; one layer projects for attention and feed-forward together."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads = heads
        hidden = FEED_FORWARD * width
        self.widths = (heads * head_width, head_width, head_width, 2 * hidden)
        self.norm = nn.LayerNorm(width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values, inner = self.fused_attn_ff_proj(self.norm(x)).split(self.widths, dim=-1)
        keys, values = (part[:, None].expand(-1, self.heads, -1, -1) for part in (rotate(keys), values))
        seen = F.scaled_dot_product_attention(rotate(split(queries, self.heads)), keys, values)
        return x + self.out(join(seen)) + self.ff_out(gated(inner))


class Block(nn.Module):
    """To the text, then among themselves."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.cross = TextAttention(width, heads, head_width)
        self.own = OwnAttention(width, heads, head_width)

    def forward(self, x: Tensor, text: Tensor, opened: Tensor) -> Tensor:
        return self.own(self.cross(x, text, opened))


class CrossModel(nn.Module):
    """Image tokens [B, N, W], text tokens [B, T, W] and which of these are open [B, T] → image tokens [B, N, W].

    One prompt serves many images, one image many prompts.
    """

    def __init__(self, width: int, depth: int, heads: int, head_width: int):
        super().__init__()
        self.layers = nn.ModuleList(Block(width, heads, head_width) for _ in range(depth))

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights: fp32 or fp64."""
        return next(self.parameters()).dtype

    def forward(self, image: Tensor, text: Tensor, opened: Tensor) -> Tensor:
        count = max(len(image), len(text))
        image, text, opened = (part.expand(count, *part.shape[1:]) for part in (image, text, opened))
        for layer in self.layers:
            image = layer(image, text, opened)
        return image
