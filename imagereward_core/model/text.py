"""BERT encoder whose layers also attend to the image tokens (BLIP's image-grounded text encoder, Li et al. 2022).

Own code with the checkpoint's key names: transformers moves and removes the helpers BLIP's copy of BERT imports.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import TextConfig
from .activations import gelu

NORM_EPS = 1e-12  # BERT's


class SelfAttention(nn.Module):
    """Query, key and value projections; keys and values may come from tokens of another width."""

    def __init__(self, width: int, heads: int, source_width: int):
        super().__init__()
        self.heads = heads
        self.dropout = 0.0  # of attention probabilities, in training mode; set by the trainer
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # [B, N, W] → [B, H, N, W/H]

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the source tokens, [B, H, N, W/H] each."""
        return self.split(self.key(source)), self.split(self.value(source))

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        rate = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(self.split(self.query(x)), *keys_values, attn_mask=mask, dropout_p=rate)
        return x.transpose(1, 2).flatten(2)


class Output(nn.Module):
    """Linear, residual, LayerNorm (post-norm, as BERT)."""

    def __init__(self, inner: int, width: int):
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    """Attention to `source` (the text itself, or the image tokens) with its output layer."""

    def __init__(self, width: int, heads: int, source_width: int):
        super().__init__()
        self.self = SelfAttention(width, heads, source_width)
        self.output = Output(width, width)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        return self.output(self.self(x, keys_values, mask), x)


class Intermediate(nn.Module):
    """The first half of BERT's feed-forward: linear and exact GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.dense = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.dense(x))


class Layer(nn.Module):
    """Self-attention, attention to the image (skipped where there is none), feed-forward."""

    def __init__(self, config: TextConfig, image_width: int):
        super().__init__()
        self.attention = Attention(config.width, config.heads, config.width)
        self.crossattention = Attention(config.width, config.heads, image_width)
        self.intermediate = Intermediate(config.width, config.intermediate)
        self.output = Output(config.intermediate, config.width)

    def forward(self, x: Tensor, mask: Tensor, image: Tensor | None) -> Tensor:
        x = self.attention(x, self.attention.self.keys_values(x), mask)
        if image is not None:
            if len(x) == 1 < len(image):  # one prompt of many images: the text alone was computed once
                x = x.expand(len(image), -1, -1)
            keys, values = self.crossattention.self.keys_values(image)
            if len(image) == 1:  # many prompts of one image share its keys and values
                keys, values = (part.expand(len(x), -1, -1, -1) for part in (keys, values))
            x = self.crossattention(x, (keys, values))
        return self.output(self.intermediate(x), x)


class Embedding(nn.Embedding):
    """A table of vectors. On the meta device it skips the random initialisation, which there loads PyTorch's compiler:
    a second, 100 MB.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embeddings(nn.Module):
    """Word and position embeddings; BLIP's BERT has no segment embeddings."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.width)
        self.position_embeddings = Embedding(config.max_positions, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=NORM_EPS)
        # Kept only because the published file holds it; positions are sliced from the table directly.
        self.register_buffer("position_ids", torch.arange(config.max_positions, device="cpu").expand(1, -1).clone())

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(input_ids) + positions)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig, image_width: int):
        super().__init__()
        self.gradient_checkpointing = False
        self.layer = nn.ModuleList(Layer(config, image_width) for _ in range(config.depth))

    def forward(self, x: Tensor, mask: Tensor, image: Tensor | None) -> Tensor:
        for layer in self.layer:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, image, use_reentrant=False)
            else:
                x = layer(x, mask, image)
        return x


class TextEncoder(nn.Module):
    """Token ids and mask [B, T], image tokens [B, N, W_image] or None → hidden states [B, T, W].

    One prompt may come with many images, or one image with many prompts: what they share is computed once.
    """

    def __init__(self, config: TextConfig, image_width: int):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, image_width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image: Tensor | None = None) -> Tensor:
        mask = attention_mask[:, None, None, :].bool()  # [B, 1, 1, T], true = attend
        return self.encoder(self.embeddings(input_ids), mask, image)
