"""SD 2.x: one text encoder (OpenCLIP ViT-H/14), whose last layer but one is taken. 2.0-base predicts noise, 2.1 at 768
pixels v, and their files have the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imagereward_core.clip_bpe import ClipTokenizer

from ..clip_text import ClipText
from ..resolved import USUAL_SD
from ..schedule import Schedule
from .sd1 import SDPrompts
from .unet import SCHEDULER, SD_BLOCKS, VAE, FolderFacts, TextPart, UNetFamily


@dataclass(frozen=True, kw_only=True)
class SD2(UNetFamily):
    """See the module."""

    def recognises(self, folder: FolderFacts) -> bool:
        """open_clip's encoder, unlike OpenAI's, has the exact GELU."""
        plain = len(folder.text) == 1 and not folder.unet.get("addition_embed_type")
        return plain and folder.text[0].get("hidden_act", "quick_gelu") == "gelu"

    def heads(self) -> dict[str, int]:
        return {"head_width": 64}

    def folder_clip_skip(self) -> int:
        """A diffusers folder has dropped the last text layer already."""
        return 1

    def prompts(self, parts: Sequence[tuple[ClipText, ClipTokenizer]], clip_skip: int) -> SDPrompts:
        return SDPrompts(*parts[0], clip_skip)

    def lora_facts(self, schedule: Schedule) -> dict[str, str]:
        facts = super().lora_facts(schedule)
        if schedule.prediction_type == "v_prediction":
            facts["modelspec.architecture"] = "stable-diffusion-v2-768-v/lora"
        return facts


FAMILY = SD2(
    key="sd2",
    name="Stable Diffusion 2.x",
    latent_scale=0.18215,
    latent_channels=4,
    text=(TextPart("cond_stage_model.model.", "gelu", "!"),),
    clip_skip=2,
    usual=USUAL_SD,
    lora_metadata={
        "ss_base_model_version": "sd_v2",
        "ss_v2": "True",
        "modelspec.architecture": "stable-diffusion-v2-512/lora",
    },
    licence="CreativeML Open RAIL++-M",
    scheduler=SCHEDULER,
    unet={
        **SD_BLOCKS,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    vae=VAE,
    prediction="v_prediction",
)
