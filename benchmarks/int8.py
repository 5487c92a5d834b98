"""What int8 costs and gains on the CPU: time and agreement with fp32 over many images, in one process, in turns.

    python benchmarks/int8.py [--weights ImageReward.safetensors] --images DIR [--count 200] [--threads 1] [--out FILE]

The images are the pictures in DIR, and random square crops of them (seeded) until there are enough. Without --weights
the network has the published size and seeded weights (tests/golden/make_state.py). Each batch is scored by fp32 and by
int8, one after the other; the gain is the median over the batches, in seconds of the clock and of the processor. Where
other programs run, only the latter with one thread means something.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import imagereward_core as RM  # noqa: E402
from imagereward_core.image_files import find_images  # noqa: E402

PROMPT = "a painting of an ocean with clouds and birds"


def pictures_and_crops(folder: str, count: int) -> list[Image.Image]:
    """The pictures, and seeded square crops of 35 to 100 % of a picture's shorter side, `count` in all."""
    generator = np.random.default_rng(0)
    out = [Image.open(path).convert("RGB") for path in sorted(find_images([folder], True))][:count]
    pictures = list(out)
    for index in range(count - len(pictures)):
        picture = pictures[index % len(pictures)]
        width, height = picture.size
        side = int(min(width, height) * generator.uniform(0.35, 1))
        left, top = int(generator.integers(0, width - side + 1)), int(generator.integers(0, height - side + 1))
        out.append(picture.crop((left, top, left + side, top + side)))
    return out


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def measured(weights: str, images: list[Image.Image], threads: int) -> dict:
    """The report."""
    import torch

    models = {name: RM.load(weights, device="cpu", precision=name) for name in ("fp32", "int8")}
    torch.set_num_threads(threads)
    scores: dict[str, list[float]] = {name: [] for name in models}
    clock: dict[str, list[float]] = {name: [] for name in models}
    processor: dict[str, list[float]] = {name: [] for name in models}
    size = models["fp32"].batch_size
    for model in models.values():
        model.score(PROMPT, images[:size])
    for start in range(0, len(images), size):
        for name, model in models.items():
            begin, used = time.perf_counter(), time.process_time()
            scores[name] += model.score(PROMPT, images[start : start + size])
            clock[name].append(time.perf_counter() - begin)
            processor[name].append(time.process_time() - used)
    exact, fast = np.array(scores["fp32"]), np.array(scores["int8"])
    return {
        "images": len(images),
        "rounds": len(clock["fp32"]),
        "batch_size": size,
        "threads": threads,
        "speed_up_clock": statistics.median(a / b for a, b in zip(clock["fp32"], clock["int8"])),
        "speed_up_processor": statistics.median(a / b for a, b in zip(processor["fp32"], processor["int8"])),
        "processor_s_per_image": {name: statistics.median(taken) / size for name, taken in processor.items()},
        "spearman": float(np.corrcoef(ranks(scores["fp32"]), ranks(scores["int8"]))[0, 1]),
        "largest_difference": float(np.abs(exact - fast).max()),
        "standard_deviation_of_the_scores": float(exact.std()),
        "torch": torch.__version__,
        "machine": f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a reward model's file; default: seeded weights of the published size")
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights
        if weights is None:  # in a process of its own: what it holds is not this one's
            weights = str(pathlib.Path(folder) / "ImageReward.pt")
            subprocess.run([sys.executable, ROOT / "tests/golden/make_state.py", "--out", weights], check=True)
        report = measured(weights, pictures_and_crops(args.images, args.count), args.threads)
        report["weights"] = "seeded, published size" if args.weights is None else pathlib.Path(weights).name
    print(json.dumps(report, indent=1))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
