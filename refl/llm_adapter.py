"""Anima's LLM adapter: the words of T5's vocabulary, in the order of the prompt, ask a language model's rows about
themselves. Its tensors lie beside the network's (`llm_adapter.…`); the names here are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagereward_core.weights.checkpoint import differences

from .errors import CheckpointError

EPS, BASE = 1e-6, 10000.0


class Attention(nn.Module):
    """Attention of rows [B, T, D] to others [B, S, E], with normalised queries and keys turned by their places."""

    def __init__(self, width: int, source: int, head: int):
        super().__init__()
        self.head = head
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(source, width, bias=False)
        self.v_proj = nn.Linear(source, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(head, eps=EPS), nn.RMSNorm(head, eps=EPS)

    def forward(self, rows: Tensor, others: Tensor) -> Tensor:
        query = turned(self.q_norm(self._heads(self.q_proj(rows))))
        key = turned(self.k_norm(self._heads(self.k_proj(others))))
        found = F.scaled_dot_product_attention(query, key, self._heads(self.v_proj(others)))
        return self.o_proj(found.transpose(1, 2).flatten(2))

    def _heads(self, rows: Tensor) -> Tensor:
        """[B, T, H d] → [B, H, T, d]."""
        return rows.unflatten(2, (-1, self.head)).transpose(1, 2)


class Block(nn.Module):
    """Self attention, attention to the language model's rows, and two layers."""

    def __init__(self, width: int, source: int, head: int, hidden: int):
        super().__init__()
        self.norm_self_attn = nn.RMSNorm(width, eps=EPS)
        self.self_attn = Attention(width, width, head)
        self.norm_cross_attn = nn.RMSNorm(width, eps=EPS)
        self.cross_attn = Attention(width, source, head)
        self.norm_mlp = nn.RMSNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, rows: Tensor, source: Tensor) -> Tensor:
        own = self.norm_self_attn(rows)
        rows = rows + self.self_attn(own, own)
        rows = rows + self.cross_attn(self.norm_cross_attn(rows), source)
        return rows + self.mlp(self.norm_mlp(rows))


class LlmAdapter(nn.Module):
    """words: of T5's vocabulary. width: of a row that the network is shown. source: of a language model's row. head:
    numbers of one head. hidden: between the two layers of a block.
    """

    def __init__(self, words: int, width: int, source: int, layers: int, head: int, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width, source, head, hidden) for _ in range(layers))
        self.out_proj = nn.Linear(width, width)
        self.norm = nn.RMSNorm(width, eps=EPS)

    def forward(self, words: Tensor, source: Tensor) -> Tensor:
        """words: T5's numbers of a prompt [B, T]. source: the language model's rows of it [B, S, E]. Returns
        [B, T, D].
        """
        rows = self.embed(words)
        for block in self.blocks:
            rows = block(rows, source)
        return self.norm(self.out_proj(rows))

    @classmethod
    def of(cls, state: Mapping[str, Tensor], dtype: torch.dtype) -> LlmAdapter:
        """From its tensors, of which its sizes are read off. CheckpointError for another form."""
        try:
            words, width = state["embed.weight"].shape
            layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
            first = "blocks.0"
            with torch.device("meta"):
                net = cls(
                    words,
                    width,
                    state[f"{first}.cross_attn.k_proj.weight"].shape[1],
                    layers,
                    state[f"{first}.self_attn.q_norm.weight"].shape[0],
                    state[f"{first}.mlp.0.weight"].shape[0],
                )
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(f"the LLM adapter is not whole: {error!r}") from error
        found = differences(state, net.state_dict())
        if found:  # also for tensors without a place: what they would have done would be left out in silence
            raise CheckpointError(f"the LLM adapter does not have Anima's form: {found}")
        net.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, strict=True, assign=True)
        return net


def turned(rows: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) of [B, H, T, d]: number i of the first half of a head and of the second are
    turned together, by the row's place times 10000^(−2i/d).
    """
    length, width = rows.shape[-2:]
    powers = torch.arange(0, width, 2, device=rows.device, dtype=torch.float32) / width
    angles = torch.arange(length, device=rows.device, dtype=torch.float32)[:, None] / BASE**powers
    cos, sin = (part.to(rows.dtype) for part in (angles.cos(), angles.sin()))
    first, second = rows.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
