"""CLIP's text transformer (transformers' CLIPTextModel), loaded from the three layouts it comes in: Hugging Face, LDM,
open_clip. Works with transformers 4.30 as the oldest host pins it, and with 5, which renamed its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imagereward_core.weights.checkpoint import differences

from .errors import CheckpointError, MissingDependency


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


class ClipText:
    """transformers' CLIPTextModel behind names and answers that do not change with its version.

    Its own names are those of `canonical`, in `state_dict` and `load_state_dict`; see `encode`.
    """

    def __init__(self, config: ClipTextConfig):
        try:
            from transformers import CLIPTextConfig, CLIPTextModel
        except ImportError as error:
            raise MissingDependency(
                f"the library transformers (4.30 or newer) is needed and cannot be imported: {error}"
            ) from error
        self.config = config
        self.net = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                intermediate_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.positions,
                hidden_act=config.activation,
                bos_token_id=config.vocab_size - 2,  # unused here; those of the published size would be out of range
                eos_token_id=config.vocab_size - 1,
            )
        ).eval()
        # CLIPTextModelWithProjection looks for the end token by a rule that differs between versions
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    def to(self, device: torch.device) -> ClipText:
        """Move the weights."""
        self.net.to(device)
        if self.projection is not None:
            self.projection.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under canonical names."""
        state = canonical(self.net.state_dict())
        if self.projection is not None:
            state["text_projection.weight"] = self.projection.weight
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], assign: bool = False) -> None:
        """Take canonical weights. Raises CheckpointError naming what is missing, too much or of another shape."""
        found = differences(state, self.state_dict())
        if found:
            raise CheckpointError(f"the text encoder's weights do not form a CLIP transformer: {found}")
        own = {}
        for key, tensor in self.net.state_dict().items():
            constant = UNUSED.search(key)
            own[key] = _positions(tensor.shape[-1]) if constant else state[_plain(key)]
        self.net.load_state_dict(own, strict=True, assign=assign)
        for part in self.net.modules():  # a constant that is in no checkpoint is still on the meta device
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.is_meta:
                    part.register_buffer(name, _positions(buffer.shape[-1]), persistent=False)
        if self.projection is not None:
            self.projection.load_state_dict({"weight": state["text_projection.weight"]}, assign=assign)

    def encode(self, ids: Tensor, clip_skip: int, final_norm: bool, end_token: int) -> tuple[Tensor, Tensor | None]:
        """(context [B, T, W], pooled [B, P] or None).

        clip_skip counts layers from the end, 1 = the last, as the WebUI does. The pooled vector always comes from the
        last layer at the first end token.
        """
        body = getattr(self.net, "text_model", self.net)  # version 5 has no such level
        layers = body.encoder.layers
        if not 1 <= clip_skip <= len(layers):
            raise CheckpointError(f"clip_skip is {clip_skip}, and the text encoder has {len(layers)} layers")
        seen: list[Tensor] = []
        # a hook, because what `hidden_states` ends with differs between versions
        hook = layers[-clip_skip].register_forward_hook(
            lambda _layer, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            last = self.net(input_ids=ids).last_hidden_state  # after the final norm
        finally:
            hook.remove()
        context = body.final_layer_norm(seen[0]) if final_norm else seen[0]
        if self.projection is None:
            return context, None
        position = (ids == end_token).int().argmax(dim=1)
        return context, self.projection(last[torch.arange(len(ids), device=ids.device), position])


def _positions(count: int) -> Tensor:
    return torch.arange(count).expand(1, -1).clone()


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


def _plain(key: str) -> str:
    """A name of Hugging Face's without the levels that only some versions have."""
    return key.removeprefix("text_model.").removeprefix("embeddings.").removeprefix("encoder.")


def canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this module's names, from Hugging Face's (with or without `text_model.`) or open_clip's names."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if UNUSED.search(key):
            continue
        name = _plain(key)
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
    state: Mapping[str, Tensor], activation: str, heads: int | None = None, projection: bool = False
) -> ClipTextConfig:
    """Sizes read off canonical weights. Every published CLIP text encoder has heads of width 64."""
    try:
        vocab, width = state["token_embedding.weight"].shape
        hidden = state["layers.0.mlp.fc1.weight"].shape[0]
        positions = state["position_embedding.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"the text encoder lacks {error}") from error
    layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    out = state["text_projection.weight"].shape[0] if projection and "text_projection.weight" in state else None
    return ClipTextConfig(vocab, width, layers, heads or max(width // 64, 1), hidden, positions, activation, out)


def build(state: Mapping[str, Tensor], config: ClipTextConfig, dtype: torch.dtype) -> ClipText:
    """A frozen encoder holding canonical weights; CheckpointError if they do not fit."""
    with torch.device("meta"):
        encoder = ClipText(config)
    if encoder.projection is None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("text_projection")}
    encoder.load_state_dict({key: tensor.to(dtype) for key, tensor in state.items()}, assign=True)
    encoder.net.requires_grad_(False)
    if encoder.projection is not None:
        encoder.projection.requires_grad_(False)
    return encoder
