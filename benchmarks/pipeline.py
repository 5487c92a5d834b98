"""How near `imagereward score` comes to what decoding and resizing alone allow, with all cores, in one process.

    python benchmarks/pipeline.py [--images 200] [--rounds 5] [--out FILE]

Pictures: seeded noise at several scales, 1024², half PNG and half JPEG. In turns: the workers decode and resize and do
nothing else; the same pictures are scored by the small world's model from a manifest. The ratio of the rates, each a
median of the rounds, is the share of the decoders' limit that is reached.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import imagereward_core as RM  # noqa: E402
from imagereward_core.bulk import Row, score_rows  # noqa: E402
from imagereward_core.pipeline import ahead, cores  # noqa: E402

SIZE = 1024
WEIGHTS = ROOT / "smallworld" / "weights" / "tiny-imagereward.safetensors"


def picture(seed: int) -> Image.Image:
    """Noise at several scales: compresses about as photographs do."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((SIZE, SIZE, 3), np.float32)
    for cells, weight in ((8, 0.5), (64, 0.3), (512, 0.15), (SIZE, 0.05)):
        part = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += weight * np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(pixels.astype(np.uint8))


def make(folder: pathlib.Path, count: int) -> list[str]:
    """The pictures' paths."""
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.{'png' if number % 2 else 'jpg'}"
        picture(number).save(path)
        paths.append(str(path))
    return paths


def seconds(work: object) -> float:
    """Time until an iterator has ended."""
    begin = time.perf_counter()
    for _ in work:  # type: ignore[attr-defined]
        pass
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    scorer = RM.load(str(WEIGHTS), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        paths = make(pathlib.Path(folder), args.images)
        rows = [Row(path, path, "a red circle") for path in paths]
        size = sum(os.path.getsize(path) for path in paths) / len(paths)
        one, all_cores, scored = [], [], []
        for _ in range(args.rounds):
            one.append(len(paths) / seconds(map(scorer.preprocess, paths)))
            all_cores.append(len(paths) / seconds(ahead(paths, scorer.preprocess)))
            scored.append(len(paths) / seconds(score_rows(rows, scorer, batch_size=args.batch_size)))
    ratios = [end / limit for end, limit in zip(scored, all_cores)]
    report = {
        "images": args.images,
        "rounds": args.rounds,
        "cores": cores(),
        "machine": platform.machine(),
        "bytes of an image": round(size),
        "decoded and resized by one thread, images/s": round(statistics.median(one), 1),
        "decoded and resized by all cores, images/s": round(statistics.median(all_cores), 1),
        "scored, images/s": round(statistics.median(scored), 1),
        "share of the decoders' limit": round(statistics.median(ratios), 3),
        "shares of the rounds": [round(ratio, 3) for ratio in ratios],
    }
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
