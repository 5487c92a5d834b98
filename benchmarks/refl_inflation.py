"""How long a network's output grows in sound runs and in a run that follows nothing: where the stop rule's limit
`max_inflation` comes from.

    python benchmarks/refl_inflation.py --out docs/refl

Sound runs follow tiny-imagereward; the control follows a reward model trained on rankings dealt at random, from the
same encoders; and a run "too fast" follows tiny-imagereward with everything off that holds it back. The rule is off.
Runs that the file holds already are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from benchmarks.refl_small_world import LATE, OracleJudge, captions  # noqa: E402
from benchmarks.smallworld_proof import negative_control  # noqa: E402
from refl import ReFLConfig, Trainer  # noqa: E402
from refl.rewards import load_rewards  # noqa: E402
from smallworld.demo import TINY_REWARD  # noqa: E402
from smallworld.pipeline import TINY_SD  # noqa: E402

SOUND, CONTROL, TOO_FAST = "sound", "control", "too fast"


def settings(seed: int, updates: int, out: Path) -> ReFLConfig:
    """The small world's usual run, with half the batch."""
    return ReFLConfig(
        pretrained_model_name_or_path=str(TINY_SD),
        prompts=captions(400),
        resolution=64,
        num_inference_steps=20,
        min_step=8,
        max_step=17,
        guidance_scale=4.0,
        learning_rate=1e-3,
        lora_rank=16,
        lora_targets="all",
        train_batch_size=8,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        vae_checkpointing=False,
        max_train_steps=updates,
        eval_steps=updates // 2,
        eval_seeds=2,
        dial=False,
        held_out=16,
        checkpointing_steps=updates,
        stop_rule="off",
        seed=seed,
        device="cpu",
        output_dir=str(out),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=(SOUND, CONTROL, TOO_FAST), help="runs of one kind")
    parser.add_argument("--control", type=Path, help="folder where the control's reward model is made, or lies")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = args.out / "refl_inflation.json"
    runs: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []
    done = {(run["name"], run["seed"]) for run in runs}
    with tempfile.TemporaryDirectory() as work:
        shuffled = negative_control(args.control or Path(work) / CONTROL)
        rewards = {SOUND: TINY_REWARD, CONTROL: shuffled, TOO_FAST: TINY_REWARD}
        for seed in args.seeds:
            for name, reward in rewards.items():
                if (name, seed) in done or args.only not in (None, name):
                    continue
                config = settings(seed, args.updates, Path(work) / f"{name.replace(' ', '-')}-{seed}")
                if name == TOO_FAST:
                    config = dataclasses.replace(config, **{**LATE, "eval_steps": 15, "eval_seeds": 2})
                mix = load_rewards([str(reward)], "cpu")
                result = Trainer(args=config, rewards=mix, judges=[OracleJudge()]).train()
                evaluations = [item.summary() for item in result.evaluations]
                runs.append({"name": name, "seed": seed, "evaluations": evaluations})
                document = {
                    "machine": f"{platform.machine()}, one thread",
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "settings": {
                        **settings(seed, args.updates, Path(work)).shareable(),
                        "prompts": len(config.prompts),
                    },
                    "runs": runs,
                }
                target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                print(name, seed, [(item["step"], round(item["inflation"], 4)) for item in evaluations], flush=True)


if __name__ == "__main__":
    main()
