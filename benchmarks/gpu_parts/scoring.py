"""Scoring on a GPU: does it give the CPU's numbers, and how near is it to what the chip can do?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .machine import Machine, Missing

PROMPT = "a painting of an ocean with clouds and birds, day time, low depth field effect"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def flops(net: nn.Module, tokens: int, patches: int) -> float:
    """Floating-point operations of one picture with its prompt: two per weight of each linear layer and row, and the
    two products of attention. Lookups, norms and activations are left out.
    """
    vision, text = net.config.vision, net.config.text
    rows = patches + 1
    seen = vision.depth * (24 * rows * vision.width**2 + 4 * rows**2 * vision.width)
    seen += 2 * patches * 3 * vision.patch_size**2 * vision.width
    own = 12 * tokens * text.width**2 + 4 * tokens * text.width * text.intermediate  # projections and MLP
    across = 4 * rows * vision.width * text.width + 4 * tokens * rows * text.width
    return seen + text.depth * (own + across + 4 * tokens**2 * text.width)


def gemm(machine: Machine) -> dict[str, Any]:
    """The rate of the device's own matrix product, the most that any network can reach on it."""
    size = 256 if machine.dry else 8192
    rows = []
    for name in ("fp32",) if not machine.cuda else ("fp16", "bf16", "fp32"):
        a = torch.randn(size, size, device=machine.device, dtype=DTYPES[name])
        b = torch.randn(size, size, device=machine.device, dtype=DTYPES[name])
        rows.append({"precision": name, "tflops": 2 * size**3 / machine.seconds(lambda a=a, b=b: a @ b) / 1e12})
    return {"size": size, "rows": rows}


def parity(machine: Machine) -> dict[str, Any]:
    """Scores and pixel gradients in every precision against the CPU in fp32, on the same weights and pictures."""
    count = 4
    images = torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    prompts = [PROMPT, "a cat", "a red fox in the snow, sharp focus", ""]
    reference = machine.scorer("fp32", "cpu")
    wanted, gradient = _scores(reference, prompts, images)
    rows = []
    for precision in ("fp32", "fp16", "bf16") if machine.cuda else ("fp32", "bf16"):
        found, own = _scores(machine.scorer(precision), prompts, images)
        cosine = nn.functional.cosine_similarity(own.flatten(), gradient.flatten(), dim=0)
        rows.append(
            {
                "precision": precision,
                "max_score_difference": (found - wanted).abs().max().item(),
                "score_spread": wanted.std().item(),
                "same_ranking": bool((found.argsort() == wanted.argsort()).all()),
                "gradient_cosine": cosine.item(),
            }
        )
        machine.clean()
    return {"pictures": count, "rows": rows}


def _scores(scorer: Any, prompts: list[str], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pictures = images.clone().requires_grad_(True)
    scores = scorer.differentiable(prompts, pictures)
    scores.sum().backward()
    assert pictures.grad is not None
    return scores.detach().float().cpu(), pictures.grad.float().cpu()


def throughput(machine: Machine) -> dict[str, Any]:
    """Pure forward passes over batch sizes, with the share of the measured matrix rate of that precision."""
    rates = {row["precision"]: row["tflops"] for row in gemm(machine)["rows"]}
    rows = []
    for precision in ("fp16", "bf16", "fp32") if machine.cuda else ("fp32",):
        scorer = machine.scorer(precision)
        ids, mask = scorer.tokenize([PROMPT])
        for batch in (1, 4) if machine.dry else (1, 8, 32, 64, 128):
            pixels = machine.pixels(batch, DTYPES[precision])
            shared = ids.expand(batch, -1), mask.expand(batch, -1)
            with torch.no_grad():
                seconds = machine.seconds(lambda s=scorer, t=shared, p=pixels: s.net(*t, p))
            patches = (pixels.shape[-1] // machine.config.vision.patch_size) ** 2
            work = batch * flops(scorer.net, ids.shape[1], patches)
            rows.append(
                {
                    "precision": precision,
                    "batch": batch,
                    "images_per_s": batch / seconds,
                    "tflops": work / seconds / 1e12,
                    "share_of_gemm": work / seconds / 1e12 / rates[precision],
                    "peak_mib": machine.peak() / 2**20,
                }
            )
        del scorer
        machine.clean()
    return {"best_images_per_s": max(row["images_per_s"] for row in rows), "rows": rows}


def clip_throughput(machine: Machine) -> dict[str, Any]:
    """CLIP's image tower, at L/14's and H/14's sizes: what CLIP, Aesthetic, PickScore and HPSv2 cost an image."""
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        raise Missing(f"transformers cannot be imported: {error}") from error
    sizes = {
        "L/14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        "H/14": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
    }
    if machine.dry:
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes = dict.fromkeys(sizes, small)
    dtype = torch.float16 if machine.cuda else torch.float32
    rows = []
    for name, size in sizes.items():
        config = CLIPVisionConfig(**size, patch_size=14, image_size=224, projection_dim=64)
        net = CLIPVisionModelWithProjection(config).to(machine.device, dtype).eval()
        for batch in (2,) if machine.dry else (8, 64):
            pixels = torch.randn(batch, 3, 224, 224, device=machine.device, dtype=dtype)
            with torch.no_grad():
                seconds = machine.seconds(lambda n=net, p=pixels: n(pixel_values=p))
            rows.append({"tower": name, "batch": batch, "images_per_s": batch / seconds})
        del net
        machine.clean()
    return {"rows": rows}


def overlap(machine: Machine) -> dict[str, Any]:
    """Scoring files end to end against its two halves: reading and resizing alone, and the network alone."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from imagereward_core.preprocess import open_image, pil_to_pixels

    count, size = (6, 64) if machine.dry else (256, 1024)
    folder = machine.folder / "pictures"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(2)
    for index in range(count):
        coarse = (torch.rand(16, 16, 3, generator=generator) * 255).to(torch.uint8).numpy()
        picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index}.{'png' if index % 2 else 'jpg'}")
    paths = sorted(folder.iterdir())
    scorer = machine.scorer("fp16" if machine.cuda else "fp32")
    scorer.batch_size = 32

    def decode() -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda path: pil_to_pixels(open_image(path), scorer.size), paths))

    rounds = 1 if machine.dry else 3
    decoding = machine.seconds(decode, rounds)
    whole = machine.seconds(lambda: scorer.score(PROMPT, paths), rounds)
    return {
        "files": count,
        "decode_images_per_s": count / decoding,
        "end_to_end_images_per_s": count / whole,
        "share_of_decoding": decoding / whole,
    }
