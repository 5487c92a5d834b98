"""One update of ReFL at the published sizes, on random weights: seconds, and the peak of memory beside the estimate."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from .machine import Machine, Missing

# family, resolution, changes to the configuration
CASES = (
    ("sd1", 512, {}),
    ("sd1", 512, {"train_batch_size": 4}),
    ("sd1", 768, {}),
    ("sdxl", 1024, {}),
)
TINY = {"block_out_channels": (32, 64), "layers_per_block": 1}
TINY_UNET = {
    **TINY,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "transformer_layers_per_block": 1,
}
TINY_VAE = {**TINY, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def update(machine: Machine) -> dict[str, Any]:
    """Seconds and peak of one update of one sample (LoRA, rank 16, both checkpointings), beside the estimate."""
    needs_diffusers()
    rows = [measure(machine, *case) for case in (CASES[:1] if machine.dry else CASES)]
    return {"rows": rows}


def adam_8bit(machine: Machine) -> dict[str, Any]:
    """The same update of a full UNet with bitsandbytes' 8-bit Adam."""
    needs_diffusers()
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise Missing(f"bitsandbytes cannot be imported: {error}") from error
    if not machine.cuda:
        raise Missing("8-bit Adam runs on CUDA devices")
    settings = {"tune": "full", "use_8bit_adam": True, "use_ema": False}
    return {"rows": [measure(machine, "sd1", 512, settings)]}


def needs_diffusers() -> None:
    """Raise Missing where the training libraries are not there."""
    for name in ("diffusers", "peft"):
        try:
            __import__(name)
        except ImportError as error:
            raise Missing(f"{name} cannot be imported: {error}") from error


def measure(machine: Machine, key: str, resolution: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One row: an engine on random weights makes two updates; the second is timed, the peak is that of both."""
    from refl.config import ReFLConfig
    from refl.distributed import Processes
    from refl.engine import Engine
    from refl.families import family
    from refl.memory import estimate
    from refl.resolved import resolve

    kind = family(key)
    if machine.dry:
        resolution = 64
    asked = ReFLConfig(resolution=resolution, gradient_accumulation_steps=1, lora_rank=16, **changes)
    config = resolve(asked, kind.usual, machine.device.type)
    unet, vae = dict(kind.unet), dict(kind.vae)
    if machine.dry:
        unet |= TINY_UNET
        vae |= TINY_VAE
    foreseen = estimate(config, kind, unet, vae)
    machine.clean()
    before = machine.allocated()
    backend = random_backend(machine, kind, unet, vae, config)
    row = kind.blank(unet, half(config)).to(machine.device)
    reward = machine.scorer("bf16" if machine.cuda else "fp32")
    table = _Table(row)
    engine = Engine(config, backend, reward, ["a cat"], table, Processes(str(machine.device)))
    engine.update(0)
    machine.wait()
    seconds = machine.seconds(lambda: engine.update(1), rounds=1)
    peak = machine.peak() - before
    counted = foreseen.tensors
    return {
        "model": kind.name,
        "pixels": resolution,
        "batch": config.train_batch_size,
        "seconds_per_update": seconds,
        "peak_gib": peak / 2**30,
        "estimate_gib": counted / 2**30,
        "estimate_over_peak": counted / peak if peak > 0 else None,
    }


def half(config: Any) -> torch.dtype:
    """The dtype of frozen weights."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[config.mixed_precision]


def random_backend(machine: Machine, kind: Any, unet: dict[str, Any], vae: dict[str, Any], config: Any) -> Any:
    """An image model of these sizes with random weights, where training wants it."""
    from refl.backend import Backend
    from refl.checkpoints.modules import diffusers

    torch.manual_seed(0)
    dtype = torch.float32 if config.tune == "full" else half(config)
    with torch.device(machine.device):
        net = diffusers().UNet2DConditionModel.from_config(unet).to(dtype)
        decoder = diffusers().AutoencoderKL.from_config(vae).to(half(config))
    for part in (net, decoder):
        part.eval().requires_grad_(False)
    backend = Backend(net, decoder, kind.schedule({}), kind, kind.latent_scale, source=None)  # type: ignore[arg-type]
    if config.tune == "full" and config.mixed_precision != "no":
        return dataclasses.replace(backend, autocast=half(config))
    return backend


class _Table:
    """The same conditioning for every prompt: what it says costs nothing."""

    def __init__(self, row: Any):
        self.row = row

    def __call__(self, prompts: list[str]) -> Any:
        return self.row.expand(len(prompts))
