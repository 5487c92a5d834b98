"""Personal taste on a CPU: a head trained on cached features of a frozen backbone, from thousands of pairs.

    python benchmarks/head_only.py [--prompts 1000] [--images 3] [--epochs 20] [--preload-path
    tiny-imagereward.safetensors]

The taste is drawn: pictures of plain noise with a tint, and a person who likes warm ones. Prints the CPU time (all
threads together, so that other programs do not enter it) of each stage and the accuracy on pairs of unseen prompts
before and after. Without --preload-path the backbone is the `small` architecture with random weights. With
ImageReward's own the features take what scoring takes, once; the head's training costs the same per pair but for its
width.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from imagereward_core.config import ModelConfig  # noqa: E402
from imagereward_train import TrainConfig, train  # noqa: E402
from imagereward_train.config import SMALL  # noqa: E402
from imagereward_train.records import read_metrics  # noqa: E402


def write_taste(folder: pathlib.Path, prompts: int, images: int) -> pathlib.Path:
    """Rankings of tinted noise by warmth (red minus blue)."""
    rng = np.random.default_rng(0)
    items = []
    for prompt in range(prompts):
        names, warmth = [], []
        for index in range(images):
            tint = rng.integers(40, 215, 3)
            pixels = np.clip(tint + rng.normal(0, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
            names.append(f"{prompt}-{index}.png")
            Image.fromarray(pixels).save(folder / names[-1], compress_level=1)
            warmth.append(int(tint[0]) - int(tint[2]))
        items.append(
            {
                "id": str(prompt),
                "prompt": f"picture {prompt}",
                "generations": names,
                "ranking": [1 + sum(w > own for w in warmth) for own in warmth],
            }
        )
    path = folder / "rankings.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def measure(prompts: int, images: int, epochs: int, preload_path: str = "") -> dict[str, object]:
    """Draw, cache, train; CPU seconds of each stage, and accuracies."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = TrainConfig(
            data=str(write_taste(folder, prompts, images)),
            savepath=str(folder / "run"),
            model=ModelConfig() if preload_path else SMALL,
            init="random",
            preload_path=preload_path,
            fix_base=True,
            lr=3e-3,
            epochs=epochs,
            valid_per_epoch=1,
            device="cpu",
            tensorboard=False,
            curve=False,
        )
        spent: dict[str, float] = {}
        last = time.process_time()

        def progress(stage: str, done: int, total: int, left: float) -> None:
            nonlocal last
            now = time.process_time()
            spent[stage] = spent.get(stage, 0.0) + now - last
            last = now

        train(config, progress=progress)
        valid = [event for event in read_metrics(folder / "run" / "metrics.jsonl") if event["kind"] == "valid"]
        pairs = (
            sum(event["pairs"] for event in read_metrics(folder / "run" / "metrics.jsonl") if event["kind"] == "train")
            // epochs
        )
    return {
        "pairs": pairs,
        "images": prompts * images,
        "epochs": epochs,
        "cpu seconds": {stage: round(seconds, 1) for stage, seconds in spent.items()},
        "accuracy on unseen prompts": [
            round(valid[0]["accuracy"], 4),
            round(max(event["accuracy"] for event in valid), 4),
        ],
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--preload-path", default="")
    args = parser.parse_args()
    print(json.dumps(measure(args.prompts, args.images, args.epochs, args.preload_path), indent=1))


if __name__ == "__main__":
    main()
