"""ReFL on the small world: does it improve what it is not trained on, and is a collapse caught?

    python benchmarks/refl_small_world.py --reward tiny-imagereward.safetensors --out results/refl

Trains tiny-sd with several settings and writes one JSON file with the machine, the versions and, for each run, the
metrics of every evaluation on held-out captions with fixed seeds, and the pictures before and after. Runs that the file
holds already are kept, so --only adds to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from refl import ReFLConfig, Trainer  # noqa: E402
from refl.metrics import paired_change  # noqa: E402
from refl.rewards import load_rewards, load_scorer  # noqa: E402
from smallworld.demo import ORACLE  # noqa: E402
from smallworld.oracle import Oracle, judge  # noqa: E402
from smallworld.world import parse_caption, sample_scene  # noqa: E402

BORDER = 6
NO_BRAKES: dict[str, Any] = {
    "anchor": "none",
    "use_ema": False,
    "reward_target": 100.0,
    "lr_warmup_steps": 0,
    "num_inference_steps": 10,
    "train_batch_size": 8,
    "max_train_steps": 30,
    "eval_steps": 5,
    "checkpointing_steps": 5,
    "eval_seeds": 3,
    "lora_rank": 64,
}
LATE: dict[str, Any] = {**NO_BRAKES, "learning_rate": 3e-3, "min_step": 5, "max_step": 9}
FULL: dict[str, Any] = {**NO_BRAKES, "tune": "full", "output": "single-file"}
RUNS: dict[str, dict[str, Any]] = {
    "refl+": {},
    "late steps, 3e-3": LATE,
    "late steps, 3e-3, stop rule on": {**LATE, "stop_rule": "stop"},
    "draft-k, 3e-3": {
        **NO_BRAKES,
        "algorithm": "draft-k",
        "draft_steps": 5,
        "learning_rate": 3e-3,
        "min_step": 1,
        "max_step": 8,
    },
    "full UNet, steps 1 to 8, 3e-4": {**FULL, "learning_rate": 3e-4, "min_step": 1, "max_step": 8},
    "full UNet, steps 0 to 4, 1e-3": {**FULL, "learning_rate": 1e-3, "min_step": 0, "max_step": 4},
}
"""The default, and runs in which everything that holds a model back is switched off: anchor, average, the hinge's
target, a moderate rate.
"""


class Cleanliness:
    """An analytic judge: minus the share of border pixels that differ from the border's median colour. 0 = no
    clutter.
    """

    name = "cleanliness"

    def differentiable(self, prompts: Any, images: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(images.shape[-2:], dtype=torch.bool)
        mask[BORDER:-BORDER, BORDER:-BORDER] = False
        border = images[:, :, mask]  # [N, 3, P]
        background = border.median(dim=2, keepdim=True).values
        return -((border - background).abs().amax(dim=1) > 0.15).float().mean(dim=1)

    def to(self, device: Any) -> Cleanliness:
        return self


class OracleJudge:
    """The share of a caption's attributes that the oracle, which no training has seen, finds right."""

    name = "oracle"

    def __init__(self) -> None:
        self.oracle = Oracle.load(ORACLE)

    def differentiable(self, prompts: Any, images: torch.Tensor) -> torch.Tensor:
        pictures = [
            Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()) for image in images
        ]
        readings = self.oracle.read(pictures)
        return torch.tensor(
            [
                float(np.mean(list(judge(parse_caption(prompt), reading).values())))
                for prompt, reading in zip(prompts, readings)
            ]
        )

    def to(self, device: Any) -> OracleJudge:
        return self


def settings(args: argparse.Namespace, prompts: list[str], changes: dict[str, Any], out: Path) -> ReFLConfig:
    base = ReFLConfig(
        pretrained_model_name_or_path=str(args.checkpoint),
        prompts=prompts,
        resolution=64,
        num_inference_steps=20,
        min_step=8,
        max_step=17,
        guidance_scale=4.0,
        learning_rate=1e-3,
        lora_rank=16,
        lora_targets="all",
        train_batch_size=16,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        vae_checkpointing=False,
        max_train_steps=args.updates,
        eval_steps=20,
        eval_seeds=4,
        dial=False,
        held_out=18,
        checkpointing_steps=20,
        stop_rule="off",
        device="cpu",
        output_dir=str(out),
    )
    return dataclasses.replace(base, **changes)


def captions(count: int) -> list[str]:
    rng = np.random.default_rng(1)
    return list(dict.fromkeys(sample_scene(rng).caption for _ in range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("smallworld/weights/tiny-sd.safetensors"))
    parser.add_argument("--reward", type=Path, default=Path("smallworld/weights/tiny-imagereward.safetensors"))
    parser.add_argument("--second", type=Path, help="a reward model of another seed and other data, as a judge")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--only", nargs="+", help="names of runs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = args.out / "refl_small_world.json"
    results: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else {}
    for name, changes in RUNS.items():
        if args.only and name not in args.only:
            continue
        folder = args.out / "runs" / name.replace(" ", "-").replace(",", "")
        shutil.rmtree(folder, ignore_errors=True)
        config = settings(args, captions(400), changes, folder)
        rewards = load_rewards([str(args.reward)], "cpu")
        judges: list[Any] = [Cleanliness(), OracleJudge()]
        if args.second:
            judges.append(load_scorer(str(args.second), "cpu", "auto", "", "judge"))
        started = time.monotonic()
        outcome = Trainer(args=config, rewards=rewards, judges=judges).train()
        base, last = outcome.evaluations[0], outcome.evaluations[-1]
        results[name] = {
            "settings": changes,
            "state": outcome.state,
            "updates": outcome.step,
            "reason": outcome.reason,
            "seconds": round(time.monotonic() - started, 1),
            "evaluations": [item.summary() for item in outcome.evaluations],
            "paired_change": {key: paired_change(base.scores[key], last.scores[key]) for key in base.scores},
        }
        for sheet, step in (("before", 0), ("after", outcome.step)):
            shutil.copy(folder / "samples" / f"step-{step:06d}.png", args.out / f"{folder.name}-{sheet}.png")
        document = {
            "machine": f"{platform.machine()}, one thread",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "runs": results,
        }
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(
            name,
            outcome.state,
            outcome.step,
            {key: round(getattr(last, key) / getattr(base, key), 3) for key in ("diversity", "eps_mse")},
            "reward",
            round(base.reward, 3),
            "to",
            round(last.reward, 3),
            "cleanliness",
            results[name]["paired_change"]["cleanliness"],
        )


if __name__ == "__main__":
    main()
