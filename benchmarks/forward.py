"""Where the time of a forward pass on the CPU goes, in processor seconds of one thread: other programs do not count.

    python benchmarks/forward.py --weights ImageReward.safetensors [--out benchmarks/results/forward.json]

The full-size network as it is loaded (of seeded weights: tests/golden/make_state.py); for two batch sizes its share of
the rate of matrix products measured in the same process, the page faults, and what the parts that are no matrix product
of a layer cost by themselves.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))
BATCHES = (8, 4)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Processor seconds of this thread, the median; the first time does not count."""
    work()
    taken = []
    for _ in range(rounds):
        begin = time.thread_time()
        work()
        taken.append(time.thread_time() - begin)
    return statistics.median(taken)


def faults() -> int:
    """Page faults of this process so far that needed no disk."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def parts(batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds an image that the 24 blocks of the vision tower spend on one part."""
    import torch
    import torch.nn.functional as F

    x, hidden = torch.randn(batch, 197, 1024), torch.randn(batch, 197, 4096)
    qkv, scale = torch.randn(batch, 197, 3, 16, 64).permute(2, 0, 3, 1, 4), torch.ones(1024)
    q, k, v = qkv.unbind(0)
    one = {
        "attention": seconds(lambda: F.scaled_dot_product_attention(q, k, v), rounds),
        "norms": 2 * seconds(lambda: F.layer_norm(x, (1024,), scale, scale), rounds),
        "residuals": 2 * seconds(lambda: x + x, rounds),
        "gelu_if_it_were_not_fused": seconds(lambda: F.gelu(hidden), rounds),
    }
    return {name: 24e3 * taken / batch for name, taken in one.items()}


def report(weights: str, rounds: int) -> dict:
    """All figures."""
    import torch
    from speed import PROMPT, flops_per_image
    from torch import nn

    import imagereward_core as RM
    from imagereward_core.model.cpu import use_onednn

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    scorer = RM.load(weights, device="cpu", precision="fp32")
    ids, mask = scorer.tokenize([PROMPT])
    work = flops_per_image(ids.shape[1])
    layers = nn.Sequential(nn.Linear(1024, 4096), nn.Linear(4096, 1024))
    use_onednn(layers)
    x = torch.randn(4, 197, 1024)
    rate = 2 * 2 * x.shape[0] * 197 * 1024 * 4096 / seconds(lambda: layers(x), 3 * rounds)
    found = {}
    for batch in BATCHES:
        pixels = torch.randn(batch, 3, 224, 224)

        def forward(pixels: torch.Tensor = pixels) -> None:
            scorer.from_tokens(ids, mask, scorer.encode_images(pixels))

        forward()
        before = faults()
        taken = seconds(forward, rounds) / batch
        found[str(batch)] = {
            "processor_s_per_image": taken,
            "share_of_gemm": work / taken / rate,
            "page_faults_per_image": round((faults() - before) / (rounds + 1) / batch),
        }
    return {
        "gemm_gflops_of_a_thread": rate / 1e9,
        "gflop_per_image": work / 1e9,
        "batches": found,
        "ms_per_image_of_parts_at_batch_4": parts(4, 3 * rounds),
        "torch": torch.__version__,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    args = parser.parse_args()
    figures = report(args.weights, args.rounds)
    print(json.dumps(figures, indent=1))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
