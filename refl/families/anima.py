"""Anima: Cosmos-Predict2's transformer for films, of which one picture is one frame. Its text are T5's words, which the
LLM adapter in the network's own file made into rows by what Qwen3 says of the prompt (`llm_adapter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..errors import CheckpointError
from ..llm_adapter import LlmAdapter
from ..resolved import FLOW_INFLATION, Usual
from ..text_models import TextModel, load_tokenizer
from .base import PromptEncoder
from .flow import ATTENTION, Encoding
from .names import Rule, count, rename, rule
from .qwen_image import VAE, FilmFamily

TOKENS = 512
ADAPTER, FILE_PREFIX = "llm_adapter.", "net."
WORDS = ("t5_tokenizer", "tokenizer_2")  # where diffusers and Forge Neo keep T5's tokeniser
LEFT_OVER = ("pos_embedder.", "accum_")  # of training, beside the weights; also names that end in _extra_state
ATTENDS = (
    ("q_proj", "to_q"),
    ("k_proj", "to_k"),
    ("v_proj", "to_v"),
    ("output_proj", "to_out.0"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
)


def _rules() -> tuple[Rule, ...]:
    found = [
        rule("x_embedder.proj.1", "patch_embed.proj"),
        rule("t_embedder.1.linear_1", "time_embed.t_embedder.linear_1"),
        rule("t_embedder.1.linear_2", "time_embed.t_embedder.linear_2"),
        rule("t_embedding_norm", "time_embed.norm"),
        rule("final_layer.adaln_modulation.1", "norm_out.linear_1"),
        rule("final_layer.adaln_modulation.2", "norm_out.linear_2"),
        rule("final_layer.linear", "proj_out"),
        rule("blocks.N.mlp.layer1", "transformer_blocks.N.ff.net.0.proj"),
        rule("blocks.N.mlp.layer2", "transformer_blocks.N.ff.net.2"),
    ]
    for number, part in enumerate(("self_attn", "cross_attn", "mlp"), start=1):
        for layer in (1, 2):
            theirs = f"blocks.N.adaln_modulation_{part}.{layer}"
            found.append(rule(theirs, f"transformer_blocks.N.norm{number}.linear_{layer}"))
        if part != "mlp":
            found += [
                rule(f"blocks.N.{part}.{old}", f"transformer_blocks.N.attn{number}.{new}") for old, new in ATTENDS
            ]
    return tuple(found)


RULES = _rules()


@dataclass(frozen=True, kw_only=True)
class Anima(FilmFamily):
    """See the module. The network is told by one more channel where a picture ends: nowhere, so it is zeros."""

    def channels(self, unet: Mapping[str, Any]) -> int:
        return int(unet.get("out_channels", self.latent_channels))

    def built_as(self, unet: Mapping[str, Any]) -> dict[str, Any]:
        """diffusers enlarges the mask of that channel by torchvision, which not everybody has: the channel is given
        from here in its place.
        """
        if not unet.get("concat_padding_mask", True):
            return dict(unet)
        return {**unet, "in_channels": int(unet.get("in_channels", 16)) + 1, "concat_padding_mask": False}

    def adapter_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = _plain(state).items()
        return {name.removeprefix(ADAPTER): tensor for name, tensor in found if name.startswith(ADAPTER)}

    def adapted(self, state: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> TextModel:
        words = next((folder / name for name in WORDS if (folder / name).is_dir()), None)
        if words is None:
            raise CheckpointError(f"it lacks {WORDS[0]}")
        return TextModel(LlmAdapter.of(state, dtype), load_tokenizer(words))

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        for name in (*self.text, self.adapter):
            if name not in parts:
                raise CheckpointError(f"it lacks {name}")
        qwen, adapter = parts[self.text[0]], parts[self.adapter]

        def encode(prompts: Sequence[str]) -> Conditioning:
            return Conditioning(torch.cat([row(prompt) for prompt in prompts]))

        def row(prompt: str) -> Tensor:
            """One prompt at a time, as nothing here knows which tokens only fill: [1, TOKENS, D], zeros at its end."""
            said = qwen.numbers(prompt, TOKENS) or [qwen.tokenizer.pad_token_id]
            words = [*adapter.numbers(prompt, TOKENS - 1), adapter.tokenizer.eos_token_id]
            source = qwen.net(input_ids=torch.tensor([said], device=qwen.device)).last_hidden_state
            rows = adapter.net(torch.tensor([words], device=qwen.device), source)
            return F.pad(rows, (0, 0, 0, TOKENS - rows.shape[1]))

        return Encoding([qwen, adapter], encode)

    def blank(self, unet: Mapping[str, Any], dtype: torch.dtype) -> Conditioning:
        return Conditioning(torch.zeros(1, self.tokens_of_text, int(unet["text_embed_dim"]), dtype=dtype))

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        film = x.unsqueeze(2)
        ends = torch.zeros_like(film[:, :1])
        config: Any = net.config
        given = {"padding_mask": ends[:1, :, 0]} if config.concat_padding_mask else {}
        film = film if given else torch.cat((film, ends), dim=1)
        found = net(hidden_states=film, timestep=sigma, encoder_hidden_states=cond.context, return_dict=False, **given)
        return found[0].squeeze(2)

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        others = (ADAPTER, *LEFT_OVER)
        own = {name: tensor for name, tensor in _plain(state).items() if not name.startswith(others)}
        return rename({name: own[name] for name in own if not name.endswith("_extra_state")}, RULES, 0)

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        block = "transformer_blocks.0"
        width, cells = state["patch_embed.proj.weight"].shape
        head = state[f"{block}.attn1.norm_q.weight"].shape[0]
        return {
            **self.unet,
            "in_channels": cells // self.patch**2,
            "out_channels": state["proj_out.weight"].shape[0] // self.patch**2,
            "num_attention_heads": width // head,
            "attention_head_dim": head,
            "num_layers": count(state, "transformer_blocks"),
            "mlp_ratio": state[f"{block}.ff.net.0.proj.weight"].shape[0] / width,
            "text_embed_dim": state[f"{block}.attn2.to_k.weight"].shape[1],
            "adaln_lora_dim": state[f"{block}.norm1.linear_1.weight"].shape[0],
        }


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without the prefix of the published files."""
    return {name.removeprefix(FILE_PREFIX): tensor for name, tensor in state.items()}


FAMILY = Anima(
    key="anima",
    name="Anima",
    pipelines=("AnimaModularPipeline", "AnimaPipeline"),
    since="0.35.0",
    latent_scale=1.0,
    latent_channels=16,
    text=("text_encoder",),
    adapter="text_conditioner",
    more_text=WORDS[:1],
    usual_text={  # Qwen3-0.6B, of which Forge Neo's configuration names the width alone
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
    },
    tokens_of_text=TOKENS,
    usual=Usual(1024, 4.0, FLOW_INFLATION),
    attention=ATTENTION,
    feed_forward=("ff.net.0.proj", "ff.net.2"),
    rules_for_lora=RULES,
    lora_prefix="diffusion_model",
    lora_metadata={"ss_base_model_version": "anima", "modelspec.architecture": "anima/lora"},
    licence="CircleStone Labs Non-Commercial License, and NVIDIA Open Model License",
    network="CosmosTransformer3DModel",
    autoencoder="AutoencoderKLQwenImage",
    scheduler={"shift": 3.0},
    unet={
        "in_channels": 17,
        "out_channels": 16,
        "num_attention_heads": 16,
        "attention_head_dim": 128,
        "num_layers": 28,
        "mlp_ratio": 4.0,
        "text_embed_dim": 1024,
        "adaln_lora_dim": 256,
        "patch_size": [1, 2, 2],
        "rope_scale": [1.0, 4.0, 4.0],
        "concat_padding_mask": False,
        "extra_pos_embed_type": None,
    },
    vae=VAE,
)
