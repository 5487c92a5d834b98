"""Builds the deterministic random-weight ImageReward state dict that the golden scores belong to.

The full-size network (446.7 M parameters, the key names and shapes of the published ImageReward.pt, listed in
shapes.json) is filled from numpy's PCG64, key by key, so every machine and library version gets the same bits:

    rng   = numpy.random.default_rng([seed, zlib.crc32(key.encode())])
    noise = rng.standard_normal(shape, dtype=float32)
    value = 1 + 0.1 * noise            for a LayerNorm weight
            0.02 * noise               for any bias
            0.05 * noise               for embeddings, cls_token, pos_embed
            noise / sqrt(fan_in)       for every other weight (fan_in = product of all dimensions but the first)

`text_encoder.embeddings.position_ids` is not noise: it is arange(512) as int64, shape (1, 512).

Use: python make_state.py --seed 101 --out ImageReward.pt         (torch.save of a plain state dict, 1.7 GB)
"""

import argparse
import json
import math
import pathlib
import zlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


def make_tensor(key: str, shape: list, seed: int) -> torch.Tensor:
    if key.endswith("position_ids"):
        return torch.arange(shape[-1], dtype=torch.int64).expand(1, -1).clone()
    noise = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape, dtype=np.float32)
    norm = "LayerNorm" in key or ".norm" in key
    if key.endswith("bias"):
        value = 0.02 * noise
    elif norm:
        value = 1.0 + 0.1 * noise
    elif "embeddings." in key or key.endswith(("cls_token", "pos_embed")):
        value = 0.05 * noise
    else:
        value = noise / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))


def make_state(seed: int, shapes: dict = None) -> dict:
    shapes = shapes or json.loads((HERE / "shapes.json").read_text())
    return {key: make_tensor(key, shape, seed) for key, shape in shapes.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--out", default="ImageReward.pt")
    args = parser.parse_args()
    torch.save(make_state(args.seed), args.out)
