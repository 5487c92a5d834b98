"""Deterministic random weights from a list of key names and shapes: the same bits on every machine and library version.

    rng   = numpy.random.default_rng([seed, zlib.crc32(key.encode())])
    noise = rng.standard_normal(shape, dtype=float32)
    value = 1 + 0.1 * noise            for the weight of a normalisation (1-D)
            0.02 * noise               for any bias
            0.05 * noise               for embeddings, class and position tokens
            noise / sqrt(fan_in)       for every other weight (fan_in = product of all dimensions but the first)
    "const" in shapes.json gives the keys with a fixed value instead (logit_scale, position_ids, ...)

The same rule as tests/golden/make_state.py, with one list of patterns for all the architectures. Use:
    python make_weights.py pickscore/shapes.json --seed 101 --out pickscore.safetensors
"""

import argparse
import json
import math
import pathlib
import re
import zlib

import numpy as np

NORM = re.compile(r"(layer_?norm\d?|layrnorm|\bnorm\d?|ln_\w+|\bnorm)\.weight$", re.I)
EMBED = re.compile(r"(embedding|class_embedding|cls_token|pos_embed|word_embeddings|position_embeddings|probe)", re.I)


def make_tensor(key, shape, seed):
    noise = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape, dtype=np.float32)
    if key.endswith("bias"):
        return 0.02 * noise
    if len(shape) == 1 and NORM.search(key):
        return 1.0 + 0.1 * noise
    if EMBED.search(key) and not key.endswith("patch_embedding.weight"):
        return 0.05 * noise
    return noise / np.float32(math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else shape[0]))


def make_state(shapes, seed):
    """{key: numpy array}; shapes: {"shapes": {key: [..]}, "const": {key: value or ["arange", n]}}"""
    out = {
        key: np.ascontiguousarray(make_tensor(key, shape, seed), dtype=np.float32)
        for key, shape in shapes["shapes"].items()
    }
    for key, value in shapes.get("const", {}).items():
        table = isinstance(value, list)
        out[key] = np.arange(value[1], dtype=np.int64)[None] if table else np.array(value, dtype=np.float32)
    return out


if __name__ == "__main__":
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    save_file(make_state(json.loads(pathlib.Path(args.shapes).read_text()), args.seed), args.out)
