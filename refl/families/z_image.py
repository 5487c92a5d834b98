"""Z-Image: one stream of picture and text, whose text is Qwen3's last layer but one. Its time runs from noise (0) to
picture (1), and its output points to the picture: both are turned round here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..resolved import FLOW_INFLATION, Usual
from ..text_models import TextModel
from .base import PromptEncoder
from .flow import ATTENTION, KL_VAE, Encoding, OneLanguageModel
from .names import count, rename, rule

TOKENS, LAYER = 512, -2
SAID = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # as Qwen3's own template gives
PLACES = ("layers", "noise_refiner", "context_refiner")
FIELDS = (
    ("attention.qkv", ("attention.to_q", "attention.to_k", "attention.to_v")),
    ("attention.out", ("attention.to_out.0",)),
    ("attention.q_norm", ("attention.norm_q",)),
    ("attention.k_norm", ("attention.norm_k",)),
)
RULES = (
    rule("x_embedder", "all_x_embedder.2-1"),
    rule("final_layer.linear", "all_final_layer.2-1.linear"),
    rule("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
    *(
        rule(f"{place}.N.{theirs}", *(f"{place}.N.{name}" for name in ours))
        for place in PLACES
        for theirs, ours in FIELDS
    ),
)


@dataclass(frozen=True, kw_only=True)
class ZImage(OneLanguageModel):
    """See the module."""

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        qwen = self.language_model(parts)

        def encode(prompts: Sequence[str]) -> Conditioning:
            found = qwen.encode([qwen.chat(prompt, SAID, enable_thinking=True) for prompt in prompts], TOKENS, (LAYER,))
            return found.shortened()

        return Encoding([qwen], encode)

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        texts = [row[:length] for row, length in zip(cond.context, cond.lengths())]
        found = net(list(x.unsqueeze(2).unbind(0)), 1 - sigma, texts, return_dict=False)[0]
        return -torch.stack([part.squeeze(1) for part in found])

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = rename(state, RULES, 0)
        found.pop("norm_final.weight", None)  # of the original code, which does not use it
        return found

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        width = state["layers.0.attention.to_q.weight"].shape[0]
        head = state["layers.0.attention.norm_q.weight"].shape[0]
        side = head * 3 // 8 // 2 * 2  # of the rotary positions: as of 128 numbers 32, 48 and 48
        return {
            "in_channels": state["all_x_embedder.2-1.weight"].shape[1] // self.patch**2,
            "dim": width,
            "n_layers": count(state, "layers"),
            "n_refiner_layers": count(state, "noise_refiner"),
            "n_heads": width // head,
            "n_kv_heads": state["layers.0.attention.to_k.weight"].shape[0] // head,
            "cap_feat_dim": state["cap_embedder.1.weight"].shape[1],
            "axes_dims": [head - 2 * side, side, side],
        }


FAMILY = ZImage(
    key="z-image",
    name="Z-Image",
    pipelines=("ZImagePipeline",),
    since="0.36.0",
    latent_scale=0.3611,
    latent_shift=0.1159,
    latent_channels=16,
    text=("text_encoder",),
    tokens_of_text=TOKENS,
    usual=Usual(1024, 4.0, FLOW_INFLATION),
    attention=ATTENTION,
    feed_forward=("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    lora_metadata={"ss_base_model_version": "zimage", "modelspec.architecture": "z-image/lora"},
    licence="Apache-2.0",
    network="ZImageTransformer2DModel",
    scheduler={"shift": 6.0},
    unet={
        "in_channels": 16,
        "dim": 3840,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "n_heads": 30,
        "n_kv_heads": 30,
        "cap_feat_dim": 2560,
    },
    vae={**KL_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159},
)
