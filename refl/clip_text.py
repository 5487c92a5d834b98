"""CLIP's text transformer, loaded from the three layouts it comes in (Hugging Face, LDM, open_clip).

Own module: transformers renamed its weights in version 5, and hosts pin anything from 4.30 on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import CheckpointError


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes of the transformer. `activation` is "quick_gelu" (OpenAI's weights) or "gelu" (open_clip's)."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int = 77
    activation: str = "quick_gelu"
    projection: int | None = None


class _Layer(nn.Module):
    def __init__(self, config: ClipTextConfig):
        super().__init__()
        self.heads, self.activation = config.heads, config.activation
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(config.width, config.width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.layer_norm2 = nn.LayerNorm(config.width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(config.width, config.hidden), "fc2": nn.Linear(config.hidden, config.width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_norm1(x)
        q, k, v = (
            self.self_attn[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, H, T, W/H]
        x = x + self.self_attn["out_proj"](y.transpose(1, 2).flatten(2))
        y = self.mlp["fc1"](self.layer_norm2(x))
        y = y * torch.sigmoid(1.702 * y) if self.activation == "quick_gelu" else F.gelu(y)
        return x + self.mlp["fc2"](y)


class ClipText(nn.Module):
    """Token ids [B, T] → all hidden states; see `encode`."""

    def __init__(self, config: ClipTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.final_layer_norm = nn.LayerNorm(config.width)
        self.text_projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def encode(self, ids: Tensor, clip_skip: int, final_norm: bool, end_token: int) -> tuple[Tensor, Tensor | None]:
        """(context [B, T, W], pooled [B, P] or None).

        clip_skip counts layers from the end, 1 = the last, as the WebUI does. The pooled vector always comes from the
        last layer at the first end token.
        """
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        context = x
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == len(self.layers) - clip_skip:
                context = x
        if final_norm:
            context = self.final_layer_norm(context)
        if self.text_projection is None:
            return context, None
        position = (ids == end_token).int().argmax(dim=1)
        last = self.final_layer_norm(x)[torch.arange(len(ids), device=ids.device), position]
        return context, self.text_projection(last)


OPEN_CLIP_NAMES = (
    (r"^transformer\.resblocks\.", "layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^positional_embedding$", "position_embedding.weight"),
)
UNUSED = re.compile(r"(logit_scale|position_ids|attn_mask)$|^visual")


def canonical(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this module's names, from Hugging Face's (with or without `text_model.`) or open_clip's names."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if UNUSED.search(key):
            continue
        name = key.removeprefix("text_model.").removeprefix("embeddings.").removeprefix("encoder.")
        for pattern, replacement in OPEN_CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".attn.in_proj_" in name:
            kind = name.rsplit("_", 1)[1]
            for part, piece in zip("qkv", tensor.chunk(3)):
                result[f"{name.split('.attn.')[0]}.self_attn.{part}_proj.{kind}"] = piece
        elif name == "text_projection":  # open_clip keeps it as a bare matrix that multiplies from the right
            result["text_projection.weight"] = tensor.T.contiguous()
        else:
            result[name] = tensor
    return result


def infer_config(
    state: dict[str, Tensor], activation: str, heads: int | None = None, projection: bool = False
) -> ClipTextConfig:
    """Sizes read off canonical weights. Every published CLIP text encoder has heads of width 64."""
    try:
        vocab, width = state["token_embedding.weight"].shape
        hidden = state["layers.0.mlp.fc1.weight"].shape[0]
        positions = state["position_embedding.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"the checkpoint's text encoder lacks {error}") from error
    layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    out = state["text_projection.weight"].shape[0] if projection and "text_projection.weight" in state else None
    return ClipTextConfig(vocab, width, layers, heads or max(width // 64, 1), hidden, positions, activation, out)


def build(state: dict[str, Tensor], config: ClipTextConfig, dtype: torch.dtype) -> ClipText:
    """A frozen encoder holding canonical weights; CheckpointError if they do not fit."""
    with torch.device("meta"):
        net = ClipText(config)
    if net.text_projection is None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("text_projection")}
    try:
        net.load_state_dict({key: tensor.to(dtype) for key, tensor in state.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the text encoder's weights do not form a CLIP transformer: {str(error)[:400]}"
        ) from error
    return net.eval().requires_grad_(False)
