"""Vision transformer with timm's parameter names.

timm itself is not imported: it pulls in torchvision, whose build must match torch's to the letter (the commonest broken
install among users), and costs 1.6 s at start. tests/parity holds this module equal to timm's VisionTransformer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import VisionConfig
from .cpu import gelu_after


class Attention(nn.Module):
    """Multi-head self-attention with one joint qkv projection. [B, N, W] → [B, N, W]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        # [B, N, 3W] → [3, B, H, N, W/H]
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(self.attend(qkv).transpose(1, 2).reshape(batch, tokens, width).to(x.dtype))

    def attend(self, qkv: Tensor) -> Tensor:
        """[3, B, H, N, D] → [B, H, N, D]."""
        q, k, v = qkv.unbind(0)
        return F.scaled_dot_product_attention(q, k, v)


class Bf16Attention(Attention):
    """Products in bf16 by oneDNN, on a CPU that multiplies it natively: torch's fused attention has them from MKL,
    which is slow on processors that are not Intel's. Too coarse for fp32 scores, fine beside int8.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.to(torch.bfloat16, memory_format=torch.contiguous_format).unbind(0)
        return (q.mul_(q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu_after(self.fc1, x))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Image to tokens: one convolution per patch, or (stem "conv") a stack of stride-2 convolutions for small
    networks.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, patch = config.width, config.patch_size
        if config.stem == "patch":
            self.proj: nn.Module = nn.Conv2d(3, width, patch, patch)
            return
        layers: list[nn.Module] = []
        channels, steps = 3, patch.bit_length() - 1
        for step in range(steps):  # widths double towards the tokens: W/2^(s-1) … W/2, W
            out = max(width >> (steps - 1 - step), 8) if step < steps - 1 else width
            layers += [nn.Conv2d(channels, out, 3, 2, 1), nn.GELU()]
            channels = out
        layers.append(nn.Conv2d(channels, width, 1))
        self.proj = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # [B, 3, S, S] → [B, N-1, W]


class VisionTransformer(nn.Module):
    """Pixels [B, 3, S, S], normalised with CLIP's mean and std → all tokens [B, N, W] after the final norm."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.gradient_checkpointing = False
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        hidden = int(config.width * config.mlp_ratio)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.norm(x)
