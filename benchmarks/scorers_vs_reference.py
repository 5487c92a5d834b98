"""PickScore and HPSv2.1 beside their references: images per second and peak memory while scoring, in one run.

    python benchmarks/scorers_vs_reference.py [--hpsv2 /path/to/python-with-hpsv2-1.2.0] [--only-memory] [--out FILE]

References: PickScore by transformers' own CLIPModel, CLIPImageProcessor and CLIPTokenizer as its model card computes
it; HPSv2.1 by the package hpsv2 in its own interpreter, whose pins exclude ours. Both sides get the same files of
seeded random weights of the published sizes and the same pictures, in turns, so that a drifting machine hurts both
alike. hpsv2 reads its checkpoint at every call: what a call without a picture takes is taken off its time.

`peak_mb` is the process's peak, loading included; `scoring_peak_mb` is the peak after loading and one picture, and what
`memory_ratio` compares. A machine that others use tells memory, not speed: --only-memory replaces just the memory
figures of the scorers that are run and leaves the others in FILE as they are.
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
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.speed import PROMPT, Process, forget_peak, resident  # noqa: E402

NAMES = {"pickscore": "PickScore", "hpsv2": "HPSv2.1"}
SIDES = ("ours", "reference")
MEMORY = ("peak_mb", "scoring_peak_mb")
Score = Callable[[list[str]], list[float]]


def ours(name: str, folder: pathlib.Path) -> Score:
    import imagereward_core as RM

    weights = {"pickscore": "pickscore.safetensors", "hpsv2": "hpsv2.pt"}[name]
    scorer = RM.load_score(NAMES[name], device="cpu", precision="fp32", weights=folder / weights)
    return lambda paths: scorer.score(PROMPT, paths)


def pickscore_reference(folder: pathlib.Path) -> Score:
    """The formula of the model card of yuvalkirstain/PickScore_v1."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from benchmarks.scorers import CLIP_H
    from imagereward_core.scorers.towers.clip import clip_config

    model = CLIPModel(clip_config(CLIP_H["text"], CLIP_H["vision"], CLIP_H["projection"]))
    model.load_state_dict(load_file(folder / "pickscore.safetensors"), strict=False, assign=True)
    model.eval()
    images = CLIPImageProcessor()  # its defaults are CLIP's: shorter side 224, bicubic, centre crop
    words = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)

    def features(found: Any) -> torch.Tensor:
        tensor = getattr(found, "pooler_output", found)  # a tensor before transformers 5
        return tensor / tensor.norm(dim=-1, keepdim=True)

    def score(paths: list[str]) -> list[float]:
        with torch.no_grad():
            pixels = images([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
            tokens = words(PROMPT, padding=True, truncation=True, max_length=77, return_tensors="pt")
            picture, text = features(model.get_image_features(**pixels)), features(model.get_text_features(**tokens))
            return (model.logit_scale.exp() * (text @ picture.T))[0].tolist()

    return score


def hpsv2_package() -> Any:
    """The module that scores. It would first fetch weights that its checkpoint then replaces: that is left out."""
    from hpsv2 import img_score

    build = img_score.create_model_and_transforms
    img_score.create_model_and_transforms = lambda name, tag, **options: build(name, None, **options)
    return img_score


def hpsv2_reference(folder: pathlib.Path) -> Score:
    package = hpsv2_package()
    return lambda paths: [float(value) for value in package.score(paths, PROMPT, cp=str(folder / "hpsv2.pt"))]


def worker(side: str, name: str, folder: pathlib.Path, threads: int) -> None:
    """One measured process: answers a line of JSON to every line on its input, which says how many pictures."""
    import torch

    torch.set_num_threads(threads)
    references = {"pickscore": pickscore_reference, "hpsv2": hpsv2_reference}
    score = ours(name, folder) if side == "ours" else references[name](folder)
    paths = sorted(str(path) for path in folder.glob("*.png"))
    score(paths[:1])
    print("@" + json.dumps({"peak_bytes": resident(), "scoring_alone": forget_peak()}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        scores = score(paths[: int(line)])
        seconds = time.perf_counter() - start
        print("@" + json.dumps({"seconds": seconds, "scores": scores, "peak_bytes": resident()}), flush=True)


def make_weights(name: str, folder: pathlib.Path) -> None:
    """Seeded random weights of the published size, in the published layout; run where the reference is installed."""
    import torch

    if name == "pickscore":
        from safetensors.torch import save_file

        from benchmarks.scorers import CLIP_H, clip

        net = clip(CLIP_H)
        state = {key: value.contiguous() for key, value in net.state_dict().items()}
        save_file(state, folder / "pickscore.safetensors")
        return
    package = hpsv2_package()
    package.initialize_model()
    generator = torch.Generator().manual_seed(0)
    state = package.model_dict["model"].state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.uniform_(-0.05, 0.05, generator=generator)
    torch.save({"state_dict": state}, folder / "hpsv2.pt")


def prepare(folder: pathlib.Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    from imagereward_core.clip_bpe import vocabulary

    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((512, 512), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n", encoding="utf-8"
    )


def compare(name: str, interpreter: str, folder: pathlib.Path, args: argparse.Namespace) -> dict:
    """Both sides of one scorer in turns."""
    common = ["--name", name, "--folder", str(folder), "--threads", str(args.threads)]
    Process(interpreter, "make", common, script=HERE).close()
    Process(sys.executable, "ours", common, script=HERE).close()  # the first load of a .pt writes its safetensors
    sides = dict(zip(SIDES, (sys.executable, interpreter)))
    running = {side: Process(python, side, common, script=HERE) for side, python in sides.items()}
    rounds: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, process in running.items():
            empty = process.ask("0")["seconds"] if (name, side) == ("hpsv2", "reference") else 0.0
            answer = process.ask(str(args.images))
            rounds[side].append({**answer, "seconds": answer["seconds"] - empty})
    for process in running.values():
        process.close()
    figures: dict = {}
    for side, found in rounds.items():
        figures[side] = {
            "images_per_s": args.images / statistics.median(each["seconds"] for each in found),
            **memory(running[side].loaded, found),
            "seconds": [round(each["seconds"], 3) for each in found],
        }
    pairs = zip(rounds["ours"], rounds["reference"])
    figures["throughput_ratio"] = statistics.median(b["seconds"] / a["seconds"] for a, b in pairs)
    figures["memory_ratio"] = figures["ours"]["scoring_peak_mb"] / figures["reference"]["scoring_peak_mb"]
    both = zip(rounds["ours"][0]["scores"], rounds["reference"][0]["scores"])
    figures["max_score_difference"] = max(abs(a - b) for a, b in both)
    return figures


def memory(loaded: dict, rounds: list[dict]) -> dict[str, float]:
    """Peaks of a process in MB. Where a peak cannot be forgotten that of scoring counts loading too."""
    while_scoring = max(each["peak_bytes"] for each in rounds)
    return {"peak_mb": max(loaded["peak_bytes"], while_scoring) / 1e6, "scoring_peak_mb": while_scoring / 1e6}


def with_memory(kept: dict, new: dict) -> dict:
    """The figures of a file with the memory of a new run in place of its own."""
    merged = dict(kept)
    for name in (name for name in new if name in NAMES.values()):
        sides = {side: {**kept[name][side], **{key: new[name][side][key] for key in MEMORY}} for side in SIDES}
        merged[name] = {**kept[name], **sides, "memory_ratio": new[name]["memory_ratio"]}
        merged[name]["memory_measured_apart"] = True
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hpsv2", help="interpreter that can `import hpsv2` (1.2.0); without it only PickScore")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only-memory", action="store_true", help="replace only the memory figures of FILE")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "make":
        make_weights(args.name, args.folder)
        print("@{}", flush=True)
        return
    if args.worker:
        worker(args.worker, args.name, args.folder, args.threads)
        return
    machine = f"{platform.processor() or platform.machine()}, {args.threads} threads, cpu, fp32"
    figures: dict = {"machine": machine, "images": args.images, "rounds": args.rounds}
    interpreters = {"pickscore": sys.executable, **({"hpsv2": args.hpsv2} if args.hpsv2 else {})}
    for name, interpreter in interpreters.items():
        with tempfile.TemporaryDirectory() as folder:
            prepare(pathlib.Path(folder), args.images)
            figures[NAMES[name]] = compare(name, interpreter, pathlib.Path(folder), args)
    print(json.dumps(figures, indent=1))
    if args.out:
        if args.only_memory:
            figures = with_memory(json.loads(args.out.read_text(encoding="utf-8")), figures)
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
