"""Is memory flat? Scores many images, then loads and drops the model many times, and prints the process's memory along
the way.

    python benchmarks/memory.py --weights ImageReward.safetensors [--images 1000] [--cycles 20] [--device cuda]

Resident memory counts what the weights' file maps once it was read; on CUDA the allocator's own figure is printed too.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import sys

import numpy as np
import psutil
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import imagereward_core as RM  # noqa: E402


def megabytes(device: str) -> dict[str, float]:
    """Resident memory of this process, and what torch holds on the GPU."""
    gc.collect()
    figures = {"resident_mb": psutil.Process().memory_info().rss / 1e6}
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        figures["cuda_mb"] = torch.cuda.memory_reserved() / 1e6
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(50)]
    report: dict = {"start": megabytes(args.device)}
    model = RM.load(args.weights, device=args.device)
    done, scored = 0, {}
    while done < args.images:
        model.score(f"prompt {done}", images[: args.images - done])
        done += min(len(images), args.images - done)
        if done in (50, args.images // 2, args.images):
            scored[done] = megabytes(args.device)
    report["images scored"] = scored
    del model
    report["dropped"] = megabytes(args.device)
    cycles = {}
    for cycle in range(1, args.cycles + 1):
        model = RM.load(args.weights, device=args.device)
        model.score("a prompt", images[0])
        del model
        if cycle in (1, args.cycles // 2, args.cycles):
            cycles[cycle] = megabytes(args.device)
    report["load cycles"] = cycles
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
