"""tiny-flow as a model of its own: put together from its transformer and tiny-sd's text encoder and autoencoder, and
drawn with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors.torch import load_file

from imagereward_core.atomic import replacing_folder

from .architecture import FLOW_TOKENS, build_flow
from .errors import SmallWorldError
from .pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, TINY_SD, WEIGHTS, generate, load_pipeline
from .tokenizer import write_tokenizer

if TYPE_CHECKING:
    from refl.backend import Backend

TINY_FLOW = WEIGHTS / "tiny-flow.safetensors"
FLOW = TINY_FLOW.stem
MODELS = (TINY_SD.stem, FLOW)
STEPS = 16
SHIFT = 1.0  # of the noise levels in sampling; see FlowTraining.shift for those in training


def assemble(folder: Path, transformer: Path = TINY_FLOW) -> Path:
    """Write tiny-flow as a diffusers folder, which `python -m refl` trains; returns it. An older one is replaced."""
    if not transformer.is_file():
        raise SmallWorldError(f"{transformer} is not there: it is made by 'python -m smallworld flow --out DIR'")
    base, net = load_pipeline(), build_flow()
    net.load_state_dict(load_file(transformer))
    net.float()
    with replacing_folder(folder) as fresh:
        net.save_pretrained(fresh / "transformer")
        base.vae.save_pretrained(fresh / "vae")
        base.text_encoder.save_pretrained(fresh / "text_encoder")
        config = json.loads((fresh / "text_encoder" / "config.json").read_text(encoding="utf-8"))
        _write(fresh / "text_encoder" / "config.json", {**config, "architectures": ["CLIPTextModel"]})
        write_tokenizer(fresh / "tokenizer")
        words = json.loads((fresh / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
        _write(fresh / "tokenizer" / "tokenizer_config.json", {**words, "model_max_length": FLOW_TOKENS})
        _write(
            fresh / "scheduler" / "scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": SHIFT},
        )
        _write(fresh / "model_index.json", {"_class_name": "StableDiffusion3Pipeline"})
    return folder


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def load_flow(folder: Path) -> Backend:
    """The assembled model in fp32 on the CPU, by the trainer's own loader."""
    from refl.backend import load_backend

    return load_backend(folder)


def generate_flow(
    model: Backend,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    batch_size: int = 50,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """One 64x64 picture per prompt and seed; a picture depends on its own seed alone, not on its batch."""
    from refl.rollout import Rollout, SampleNoise

    if model.text is None:
        raise SmallWorldError("the model's text encoder was dropped: load it again to draw with it")
    rollout, empty = Rollout(model, steps, guidance, 0.0), model.text.encode([""], 64)
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        noise = torch.stack(
            [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds[part]]
        )
        with torch.no_grad():
            unused = [SampleNoise(0, seed) for seed in seeds[part]]  # steps add no noise here
            latents = rollout.sample(noise, model.text.encode(prompts[part], 64), empty, unused)
            drawn = (model.decode(latents).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        pictures += [Image.fromarray(picture) for picture in drawn]
        if on_batch is not None:
            on_batch(len(pictures), len(prompts))
    return pictures


def draw_with(
    checkpoint: Path, prompts: Sequence[str], seeds: Sequence[int], *, steps: int | None = None, **drawing: Any
) -> list[Image.Image]:
    """Pictures of a file in tiny-sd's layout or of an assembled folder of tiny-flow, in the steps that suit it unless
    told; ``drawing`` is passed on to :func:`generate` or :func:`generate_flow`.
    """
    if checkpoint.is_dir():
        return generate_flow(load_flow(checkpoint), prompts, seeds, steps=steps or STEPS, **drawing)
    pipeline = load_pipeline(checkpoint, config=TINY_SD.with_suffix(""))
    return generate(pipeline, prompts, seeds, steps=steps or DEFAULT_STEPS, **drawing)
