"""What one update of full-size training costs: time, and the process's (on CUDA the allocator's) peak memory.

    python benchmarks/training_step.py [--batch-size 1] [--total-batch 2] [--images 2] [--precision bf16]
    [--gradient-checkpointing]

The network has ImageReward-v1.0's size and random weights, the pictures are noise, the settings are the paper's:
neither changes the cost. On a CPU the time is that of all threads together, so that other programs on the machine do
not enter it.
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
import psutil
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from imagereward_train import TrainConfig  # noqa: E402
from imagereward_train.trainer import Trainer  # noqa: E402


def write_data(folder: pathlib.Path, prompts: int, images: int) -> pathlib.Path:
    """Rankings of noise."""
    rng = np.random.default_rng(0)
    items = []
    for prompt in range(prompts):
        names = [f"{prompt}-{index}.png" for index in range(images)]
        for name in names:
            Image.fromarray(rng.integers(0, 255, (224, 224, 3), dtype=np.uint8)).save(folder / name)
        items.append(
            {
                "id": str(prompt),
                "prompt": f"a picture of number {prompt}",
                "generations": names,
                "ranking": list(range(1, images + 1)),
            }
        )
    path = folder / "rankings.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1, help="rankings per forward")
    parser.add_argument("--total-batch", type=int, default=2, help="rankings per update")
    parser.add_argument("--images", type=int, default=2, help="images per ranking")
    parser.add_argument("--updates", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            TrainConfig(
                data=str(write_data(pathlib.Path(folder), args.total_batch + 1, args.images)),
                savepath=str(pathlib.Path(folder) / "run"),
                init="random",
                batch_size=args.batch_size,
                total_batch=args.total_batch,
                train_iters=args.updates,
                valid_fraction=0.5 / (args.total_batch + 1),
                precision=args.precision,
                gradient_checkpointing=args.gradient_checkpointing,
                tensorboard=False,
                curve=False,
            )
        )
        device = trainer.accelerator.device
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        before = clock()
        for _ in range(args.updates):
            trainer._update()  # reading the loss waits for the device
        seconds = (clock() - before) / args.updates
        cuda = device.type == "cuda"
        peak = (
            torch.cuda.max_memory_allocated()
            if cuda
            else getattr(psutil.Process().memory_info(), "peak_wset", None) or peak_resident()
        )
        trainer.records.close()
    figures = {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "torch": torch.__version__,
        **{
            name: getattr(args, name)
            for name in ("batch_size", "total_batch", "images", "precision", "gradient_checkpointing")
        },
        "seconds_per_update": round(seconds, 2),
        "seconds_are": "wall" if cuda else "CPU, all threads",
        "peak_gib": round(peak / 2**30, 2),
    }
    print(json.dumps(figures, indent=1))


def peak_resident() -> int:
    """Bytes, on Linux and macOS."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
