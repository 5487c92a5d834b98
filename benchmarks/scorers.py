"""What each scorer costs: megabytes of weights in fp32, the process's peak, and CPU time per image on one core.

    python benchmarks/scorers.py [--images 2] [--rounds 3] [--out benchmarks/results/scorers.json]

Networks of the published sizes with random weights: neither size nor time depends on their values. CPU time, not the
clock's, so that other programs on the machine count little; every scorer runs in a process of its own. Heads on CLIP
ViT-L/14 (Aesthetic, waifu-scorer) cost what their backbone costs, once for all of them in a panel.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

CLIP_H = {
    "text": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vision": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    "projection": 1024,
}
CLIP_L = {
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    "projection": 768,
}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


def filled(make: Any) -> Any:
    """A network made on no device, then filled with small random numbers: building's own initialisation takes longer
    than scoring.
    """
    import torch

    net = make()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.uniform_(-0.05, 0.05, generator=generator)
    return net.eval().requires_grad_(False)


def clip(sizes: dict[str, Any]) -> Any:
    from transformers import CLIPModel
    from transformers.initialization import no_init_weights

    from imagereward_core.scorers.towers.clip import clip_config

    with no_init_weights():
        return filled(lambda: CLIPModel(clip_config(sizes["text"], sizes["vision"], sizes["projection"])))


def scorer_of(name: str) -> Any:
    """The scorer of that name with a network of the published sizes."""
    import torch

    from imagereward_core import registry
    from imagereward_core.config import ModelConfig
    from imagereward_core.model.cross import CrossModel
    from imagereward_core.model.reward import RewardHead, RewardModel
    from imagereward_core.scorers import (
        aesthetic,
        aesthetic_v25,
        blip,
        cyclereward,
        hpsv2,
        imagereward,
        mps,
        pickscore,
        waifu,
    )
    from imagereward_core.scorers import clip as clips

    info, cpu = registry.get(name), torch.device("cpu")
    families = {
        "imagereward": (imagereward.ImageRewardScorer, ModelConfig()),
        "cyclereward": (cyclereward.CycleRewardScorer, cyclereward.PUBLISHED),
        "blip": (blip.BlipScorer, ModelConfig()),
    }
    if info.kind in families:
        kind, config = families[info.kind]
        return kind(imagereward.as_asked(filled(lambda: RewardModel(config)), cpu, "fp32"), info, cpu)
    if info.kind == "aesthetic_v25":
        from transformers import SiglipVisionConfig, SiglipVisionModel

        from imagereward_core.scorers.towers.siglip import VisionTower

        net = filled(lambda: SiglipVisionModel(SiglipVisionConfig(**SIGLIP)))
        tower = VisionTower(net, 384, lambda net, pixels: net(pixel_values=pixels).pooler_output)
        head = aesthetic_v25.AestheticHead((1152, 1024, 128, 64, 16))
        return aesthetic_v25.AestheticV25Scorer(tower, head, info, cpu, size=384)
    if info.kind in ("clip", "aesthetic", "waifu"):
        net = clip(CLIP_L)
        if info.kind == "clip":
            return clips.ClipScorer(net, info, cpu)
        if info.kind == "aesthetic":
            return aesthetic.AestheticScorer(net, RewardHead(768, (1024, 128, 64, 16)).eval(), info, cpu)
        return waifu.WaifuScorer(net, waifu.WaifuHead((768, 2048, 512, 256, 128, 32)).eval(), info, cpu)
    net = clip(CLIP_H)
    if info.kind == "mps":
        cross = filled(lambda: CrossModel(1024, 4, 16, 64)).double()  # as it is loaded on a CPU
        return mps.MpsScorer(mps.MpsNet(net, cross), info, cpu)
    return {"pickscore": pickscore.PickScoreScorer, "hpsv2": hpsv2.HpsScorer}[info.kind](net, info, cpu)


def measure(name: str, images: int, rounds: int) -> dict[str, float]:
    """One scorer, in this process."""
    import numpy as np
    import torch
    from PIL import Image

    from benchmarks.speed import PROMPT, resident

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (512, 512, 3), dtype=np.uint8)) for _ in range(images)]
    scorer = scorer_of(name)
    tensors = [t for part in scorer.parts().values() for t in (*part.parameters(), *part.buffers())]
    scorer.score(PROMPT, pictures[:1])
    times = []
    for _ in range(rounds):
        start = time.process_time()
        scorer.score(PROMPT, pictures)
        times.append((time.process_time() - start) / images)
    return {
        "megabytes": round(sum(t.numel() * t.element_size() for t in tensors) / 1e6),
        "peak_megabytes": round(resident() / 1e6),
        "seconds": round(statistics.median(times), 2),
    }


def main() -> None:
    from imagereward_core import registry

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.images, args.rounds)))
        return
    import torch

    found: dict[str, Any] = {}
    for name in registry.names():
        command = [sys.executable, str(HERE), "--one", name, "--images", str(args.images), "--rounds", str(args.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1, "precision": "fp32"}
    result = {**machine, "images": args.images, "rounds": args.rounds, "scorers": found}
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
