"""Load time, memory and throughput: this package and the reference implementation side by side in one run.

    python benchmarks/speed.py --weights ImageReward.pt --reference /path/to/python-with-image-reward-1.5

The reference runs in its own interpreter (its pins exclude ours). Both score the same images with the same weights,
in turns, so that a drifting machine hurts both alike; medians and ratios are what to quote. Without --weights a file of
seeded random weights of the published size is made; without --reference only this package is measured.

The limit is the rate of matrix products of the network's shapes, by whichever of torch's two kernels is faster,
measured between the rounds. A round that seems to beat it was measured while another program disturbed the limit's
measurement: it is made again, --retries times at most, then said.
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
from typing import Any

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parent.parent
TOKENS = 19  # of the prompt: this package computes no padding
PROMPT = "a painting of an ocean with clouds and birds, day time, low depth field effect"
MED_CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": 30524,
    "encoder_width": 1024,
    "add_cross_attention": True,
}


def flops_per_image(tokens: int) -> float:
    """Multiply-adds × 2 of one image with a prompt of `tokens` tokens, matrix products only."""
    n, w, t, v = 197, 1024, tokens, 768
    vision = 24 * (2 * n * w * 12 * w + 4 * n * n * w) + 2 * 196 * 768 * w
    text = 12 * (2 * t * (4 * v * v + 2 * v * v + 2 * v * 3072) + 2 * n * 2 * w * v + 4 * t * t * v + 4 * t * n * v)
    return vision + text


def resident() -> int:
    """Peak resident bytes of this process so far."""
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset


def forget_peak() -> bool:
    """Let `resident` count from now on; False where the system cannot (it is Linux that can)."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def worker(kind: str, weights: str, folder: str, threads: int, device: str, precision: str) -> None:
    """One measured process: loads, reports, then answers one line of JSON per line `score` or `gemm` on its input."""
    start = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    if kind == "reference":
        import ImageReward as RM
    else:
        sys.path.insert(0, str(ROOT))
        import imagereward_core as RM
        import imagereward_core.scorers.imagereward  # noqa: F401  load() would: its time is told apart from loading
    imported = time.perf_counter()
    before = resident()
    if kind == "reference":
        os.chdir(folder)
        model = RM.load(weights, device=device, med_config="med_config.json")
    else:
        model = RM.load(weights, device=device, precision=precision)
    loaded = time.perf_counter()
    report = {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "peak_load_bytes": resident(),
        "before_load_bytes": before,
    }
    images = sorted(str(path) for path in pathlib.Path(folder).glob("*.png"))
    print("@" + json.dumps(report), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        if line.strip() == "score":
            with torch.no_grad():
                _, scores = model.inference_rank(PROMPT, images)
            answer = {"seconds": time.perf_counter() - start, "scores": scores, "peak_bytes": resident()}
        elif line.strip() == "forward":
            answer = {"seconds": forward(model, images)}
        else:
            answer = {"flops": gemm(device)}
        print("@" + json.dumps(answer), flush=True)


def forward(model: Any, images: list[str]) -> float:
    """Seconds of the network alone for these images, in the batches that score() makes of them."""
    import torch

    pixels = [model.preprocess(path) for path in images]
    seconds = 0.0
    with torch.no_grad(), model.remembering_prompts():
        for start in range(0, len(images), model.batch_size):
            batch = model.placed(torch.stack(pixels[start : start + model.batch_size]))
            begin = time.perf_counter()
            model.combine([PROMPT], model.encode_images(batch)).tolist()
            seconds += time.perf_counter() - begin
    return seconds


def gemm(device: str) -> float:
    """Floating-point operations a second in the shapes of the vision tower's linear layers, batch 8."""
    import torch
    from torch import nn

    from imagereward_core.model.cpu import use_onednn

    best = 0.0
    with torch.no_grad():
        for kernel in ("BLAS", "oneDNN"):
            layers = nn.ModuleList([nn.Linear(*sides, device=device) for sides in ((1024, 4096), (4096, 1024))])
            if kernel == "oneDNN" and (device != "cpu" or not use_onednn(layers)):
                continue
            x = torch.randn(8, 197, 1024, device=device)
            operations = 2 * 2 * 8 * 197 * 1024 * 4096
            for repeat in range(12):
                begin = time.perf_counter()
                layers[1](layers[0](x))
                if device == "cuda":
                    torch.cuda.synchronize()
                if repeat:
                    best = max(best, operations / (time.perf_counter() - begin))
    return best


class Process:
    """A worker and its answers."""

    def __init__(self, interpreter: str, kind: str, arguments: list[str], script: pathlib.Path = HERE):
        command = [interpreter, str(script), "--worker", kind, *arguments]
        environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.loaded = self.answer()

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"the measured process ended with exit code {self.process.wait()}")

    def ask(self, question: str) -> dict:
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def prepare(folder: pathlib.Path, count: int, weights: str | None) -> str:
    """Images, the reference's side files, and weights if none were given; the weights' path."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((512, 512), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    (folder / "med_config.json").write_text(json.dumps(MED_CONFIG))
    (folder / "bert-base-uncased").mkdir()
    vocabulary = (ROOT / "imagereward_core/data/bert-base-uncased-vocab.txt").read_bytes()
    (folder / "bert-base-uncased/vocab.txt").write_bytes(vocabulary)
    if weights:
        return os.path.abspath(weights)
    path = str(folder / "random.pt")
    # in a process of its own: what this one has held at its peak would count as its children's peak
    Process(sys.executable, "make", ["--weights", path]).close()
    return path


def make_weights(path: str) -> None:
    """Seeded random weights of the published size."""
    import torch

    sys.path.insert(0, str(ROOT))
    from imagereward_core.model import RewardModel

    torch.manual_seed(0)
    torch.save(RewardModel().state_dict(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="ImageReward.pt; a .safetensors beside it is what this package loads")
    parser.add_argument("--reference", help="interpreter that can `import ImageReward` (image-reward 1.5)")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--retries", type=int, default=5, help="disturbed rounds that are made again")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "make":
        make_weights(args.weights)
        print("@{}", flush=True)
        return
    if args.worker:
        worker(args.worker, args.weights, args.folder, args.threads, args.device, args.precision)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        weights = prepare(folder, args.images, args.weights)
        figures = measure(args, folder, weights)
    print(json.dumps(figures, indent=1))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(figures, indent=1) + "\n")


def measure(args: argparse.Namespace, folder: pathlib.Path, weights: str) -> dict:
    """All figures of one run; the two implementations take turns."""
    common = [
        "--folder",
        str(folder),
        "--threads",
        str(args.threads),
        "--device",
        args.device,
        "--precision",
        args.precision,
    ]
    own = pathlib.Path(weights).with_suffix(".safetensors")
    sides = {"ours": (sys.executable, str(own) if own.exists() else weights)}
    if args.reference:
        sides["reference"] = (args.reference, weights)
    loads: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, (interpreter, file) in sides.items():
            process = Process(interpreter, side, ["--weights", file, *common])
            loads[side].append(process.loaded)
            process.close()
    processes = {
        side: Process(interpreter, side, ["--weights", file, *common]) for side, (interpreter, file) in sides.items()
    }
    for process in processes.values():
        process.ask("score")  # warm-up
    rounds: dict[str, list[dict]] = {side: [] for side in sides}
    peak: list[float] = []
    disturbed = 0
    while len(peak) < args.rounds:
        limits = [processes["ours"].ask("gemm")["flops"]]
        answers = {}
        for side, process in processes.items():
            answers[side] = process.ask("score")
            limits.append(processes["ours"].ask("gemm")["flops"])
        answers["ours"]["forward"] = processes["ours"].ask("forward")["seconds"]
        limit = max(limits)
        if flops_per_image(TOKENS) * args.images / answers["ours"]["forward"] > limit and disturbed < args.retries:
            disturbed += 1
            continue
        peak.append(limit)
        for side, answer in answers.items():
            rounds[side].append(answer)
    for process in processes.values():
        process.close()

    def middle(side: str, key: str, source: dict[str, list[dict]]) -> float:
        return statistics.median(entry[key] for entry in source[side])

    figures: dict = {
        "machine": (
            f"{platform.processor() or platform.machine()}, {args.threads} threads, {args.device}, {args.precision}"
        ),
        "images": args.images,
        "rounds": args.rounds,
        "disturbed_rounds_made_again": disturbed,
        "gemm_gflops": statistics.median(peak) / 1e9,
    }
    for side in sides:
        seconds = middle(side, "seconds", rounds)
        figures[side] = {
            "import_s": middle(side, "import_s", loads),
            "load_s": middle(side, "load_s", loads),
            "peak_load_mb": middle(side, "peak_load_bytes", loads) / 1e6,
            "peak_mb": rounds[side][-1]["peak_bytes"] / 1e6,
            "images_per_s": args.images / seconds,
            "share_of_gemm": (
                flops_per_image(TOKENS if side == "ours" else 35) * args.images / seconds / statistics.median(peak)
            ),
        }
    network = [entry["forward"] for entry in rounds["ours"]]
    figures["ours"]["forward_images_per_s"] = args.images / statistics.median(network)
    figures["ours"]["forward_share_of_whole"] = statistics.median(
        seconds / entry["seconds"] for seconds, entry in zip(network, rounds["ours"])
    )
    figures["ours"]["forward_share_of_gemm"] = statistics.median(
        flops_per_image(TOKENS) * args.images / seconds / limit for seconds, limit in zip(network, peak)
    )
    if args.reference:
        ours, theirs = figures["ours"], figures["reference"]
        pairs = zip(rounds["ours"], rounds["reference"])
        figures["ratios"] = {
            "load_time": ours["load_s"] / theirs["load_s"],
            "load_memory": ours["peak_load_mb"] / theirs["peak_load_mb"],
            "memory_while_scoring": ours["peak_mb"] / theirs["peak_mb"],
            "throughput": statistics.median(b["seconds"] / a["seconds"] for a, b in pairs),
        }
        both = zip(rounds["ours"][0]["scores"], rounds["reference"][0]["scores"])
        figures["max_score_difference"] = max(abs(a - b) for a, b in both)
    return figures


if __name__ == "__main__":
    main()
