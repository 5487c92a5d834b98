"""Load tiny-sd from its single file, offline, as a diffusers pipeline, and draw pictures with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from safetensors.torch import load_file

from .errors import SmallWorldError
from .ldm_layout import from_ldm

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

WEIGHTS = Path(__file__).resolve().parent / "weights"
TINY_SD = WEIGHTS / "tiny-sd.safetensors"
TINY_REWARD = WEIGHTS / "tiny-imagereward.safetensors"
DEFAULT_STEPS = 20
DEFAULT_GUIDANCE = 4.0


def load_pipeline(path: Path = TINY_SD, *, config: Path | None = None) -> StableDiffusionPipeline:
    """The checkpoint at ``path`` in fp32 on the CPU, with a DDIM scheduler.

    ``config`` is its configuration folder; without it, the folder of the same name beside the file.
    """
    try:
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise SmallWorldError(
            f"drawing pictures needs diffusers and transformers, install the extra [refl]: {error}"
        ) from error
    if not path.is_file():
        raise SmallWorldError(
            f"{path} is not there: the small world's weights are part of the repository, or made by 'python -m"
            " smallworld build'"
        )

    folder = config or path.with_suffix("")
    tensors = load_file(path)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    for part, model in (("unet", unet), ("vae", vae), ("text", text)):
        from_ldm(tensors, part, model)
        model.eval().requires_grad_(False)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    batch_size: int = 32,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """One 64x64 picture per prompt and seed; a picture depends on its own seed alone, not on its batch."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        noise = torch.stack(
            [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds[part]]
        )
        result = pipeline(
            prompt=list(prompts[part]),
            height=64,
            width=64,
            latents=noise,
            num_inference_steps=steps,
            guidance_scale=guidance,
        )
        pictures += result.images
        if on_batch is not None:
            on_batch(len(pictures), len(prompts))
    return pictures
