"""Lumina-Image 2.0: one stream of picture and text, whose text is Gemma 2's last layer but one. Its time runs from
noise (0) to picture (1), and its output points to the picture: both are turned round here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..conditioning import Conditioning
from ..resolved import FLOW_INFLATION, Usual
from ..text_models import TextModel
from .base import PromptEncoder
from .flow import ATTENTION, KL_VAE, Encoding, OneLanguageModel
from .names import Rule, count, rename, rule

TOKENS, LAYER = 256, -2
BEFORE = (  # what every prompt of its training followed; an empty prompt stands alone
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based"
    " on textual prompts or user prompts. <Prompt Start> "
)
CAPTION = "time_caption_embed"
QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
FIELDS = (
    ("attention.out", "attn.to_out.0"),
    ("attention.q_norm", "attn.norm_q"),
    ("attention.k_norm", "attn.norm_k"),
    ("feed_forward.w1", "feed_forward.linear_1"),
    ("feed_forward.w2", "feed_forward.linear_2"),
    ("feed_forward.w3", "feed_forward.linear_3"),
    ("adaLN_modulation.1", "norm1.linear"),
    ("attention_norm2", "norm2"),
)


def _rules() -> tuple[Rule, ...]:
    found = [
        rule("cap_embedder.0", f"{CAPTION}.caption_embedder.0"),
        rule("cap_embedder.1", f"{CAPTION}.caption_embedder.1"),
        rule("t_embedder.mlp.0", f"{CAPTION}.timestep_embedder.linear_1"),
        rule("t_embedder.mlp.2", f"{CAPTION}.timestep_embedder.linear_2"),
        rule("final_layer.adaLN_modulation.1", "norm_out.linear_1"),
        rule("final_layer.linear", "norm_out.linear_2"),
    ]
    for place in ("layers", "noise_refiner", "context_refiner"):
        found += [rule(f"{place}.N.{theirs}", f"{place}.N.{ours}") for theirs, ours in FIELDS]
        found.append(rule(f"{place}.N.attention.qkv", *(f"{place}.N.{name}" for name in QKV), head=True))
        first = "norm1" if place == "context_refiner" else "norm1.norm"
        found.append(rule(f"{place}.N.attention_norm1", f"{place}.N.{first}"))
    return tuple(found)


RULES = _rules()


@dataclass(frozen=True, kw_only=True)
class Lumina2(OneLanguageModel):
    """See the module."""

    def prompts(self, parts: Mapping[str, TextModel], unet: Mapping[str, Any], clip_skip: int) -> PromptEncoder:
        gemma = self.language_model(parts)

        def encode(prompts: Sequence[str]) -> Conditioning:
            texts = [BEFORE + prompt if prompt.strip() else prompt for prompt in prompts]
            return gemma.encode(texts, TOKENS, (LAYER,)).shortened()

        return Encoding([gemma], encode)

    def velocity(self, net: nn.Module, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return -net(
            hidden_states=x,
            timestep=1 - sigma,
            encoder_hidden_states=cond.context,
            encoder_attention_mask=cond.mask,
            return_dict=False,
        )[0]

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if f"{CAPTION}.caption_embedder.1.weight" in state:  # diffusers' names already
            return dict(state)
        found = rename(state, RULES, state["x_embedder.weight"].shape[0])
        found.pop("norm_final.weight", None)  # of the original code, which does not use it
        return found

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        width, head = state["x_embedder.weight"].shape[0], state["layers.0.attn.norm_q.weight"].shape[0]
        side = head // 3 // 2 * 2  # of the rotary positions: of 96 numbers 32 each
        return {
            "in_channels": state["x_embedder.weight"].shape[1] // self.patch**2,
            "hidden_size": width,
            "num_layers": count(state, "layers"),
            "num_refiner_layers": count(state, "noise_refiner"),
            "num_attention_heads": width // head,
            "num_kv_heads": state["layers.0.attn.to_k.weight"].shape[0] // head,
            "multiple_of": _multiple(width, state["layers.0.feed_forward.linear_1.weight"].shape[0]),
            "axes_dim_rope": [head - 2 * side, side, side],
            "cap_feat_dim": state[f"{CAPTION}.caption_embedder.1.weight"].shape[1],
        }


def _multiple(width: int, hidden: int) -> int:
    """The largest rounding that makes this hidden width of four times `width`."""
    return next(step for step in (256, 128, 64, 32, 16, 8, 4, 2, 1) if -(-4 * width // step) * step == hidden)


FAMILY = Lumina2(
    key="lumina2",
    name="Lumina 2",
    pipelines=("Lumina2Pipeline", "Lumina2Text2ImgPipeline"),
    since="0.33.0",
    latent_scale=0.3611,
    latent_shift=0.1159,
    latent_channels=16,
    text=("text_encoder",),
    tokens_of_text=TOKENS,
    usual=Usual(1024, 4.0, FLOW_INFLATION),
    attention=ATTENTION,
    feed_forward=("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3"),
    rules_for_hosts=RULES,
    lora_metadata={"ss_base_model_version": "lumina2", "modelspec.architecture": "lumina-2/lora"},
    licence="Apache-2.0",
    network="Lumina2Transformer2DModel",
    scheduler={"shift": 6.0},
    unet={
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "hidden_size": 2304,
        "num_layers": 26,
        "num_refiner_layers": 2,
        "num_attention_heads": 24,
        "num_kv_heads": 8,
        "cap_feat_dim": 2304,
        "axes_dim_rope": [32, 32, 32],
        "axes_lens": [300, 512, 512],
        "scaling_factor": 1.0,
    },
    vae={**KL_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159},
)
