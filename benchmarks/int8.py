"""What int8 costs and gains on the CPU: time and agreement with fp32 over many images, in one process, in turns.

    python benchmarks/int8.py --weights ImageReward.safetensors --images DIR [--crops 110]

The images are random square crops (seeded) of the pictures in DIR, so that a handful of pictures gives many scores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import imagereward_core as RM  # noqa: E402
from imagereward_core.image_files import find_images  # noqa: E402

PROMPT = "a painting of an ocean with clouds and birds"


def crops(folder: str, count: int) -> list[Image.Image]:
    """`count` seeded square crops, each 35 to 100 % of a picture's shorter side."""
    generator = np.random.default_rng(0)
    pictures = [Image.open(path).convert("RGB") for path in find_images([folder], True)]
    out = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        width, height = picture.size
        side = int(min(width, height) * generator.uniform(0.35, 1))
        left, top = int(generator.integers(0, width - side + 1)), int(generator.integers(0, height - side + 1))
        out.append(picture.crop((left, top, left + side, top + side)))
    return out


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--crops", type=int, default=110)
    args = parser.parse_args()
    images = crops(args.images, args.crops)
    models = {name: RM.load(args.weights, device="cpu", precision=name) for name in ("fp32", "int8")}
    scores: dict[str, list[float]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for start in range(0, len(images), 8):
        for name, model in models.items():
            begin = time.perf_counter()
            scores[name] += model.score(PROMPT, images[start : start + 8])
            seconds[name].append(time.perf_counter() - begin)
    exact, fast = np.array(scores["fp32"]), np.array(scores["int8"])
    report = {
        "images": len(images),
        "speed-up (median of batches)": statistics.median(a / b for a, b in zip(seconds["fp32"], seconds["int8"])),
        "spearman": float(np.corrcoef(ranks(scores["fp32"]), ranks(scores["int8"]))[0, 1]),
        "largest difference": float(np.abs(exact - fast).max()),
        "standard deviation of the scores": float(exact.std()),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
