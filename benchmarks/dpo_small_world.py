"""Diffusion-DPO on the small world: does a model follow picks, and only picks that mean something?

    python benchmarks/dpo_small_world.py --out docs/refl

A simulated user likes large subjects and chooses, not always rightly (Bradley-Terry), between pictures that tiny-sd
draws of captions that say nothing of size. `python -m refl train --algorithm dpo` learns from these picks; the control
learns from the same pairs with the winner dealt by a coin. The oracle, which no training has seen, measures area and
attributes on held-out captions with fixed seeds, before and after. Runs that the file holds already are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from refl import ReFLConfig, Trainer  # noqa: E402
from smallworld.demo import ORACLE  # noqa: E402
from smallworld.oracle import Oracle, judge  # noqa: E402
from smallworld.pipeline import TINY_SD, generate, load_pipeline  # noqa: E402
from smallworld.teach import paired_interval  # noqa: E402
from smallworld.world import Scene, single_scenes  # noqa: E402

PICKS, CONTROL = "picks", "shuffled picks"
EACH = 8  # pictures of a caption
TEMPERATURE = 0.02  # in shares of the picture: how large a difference the user sees
FIRST_SEED, JUDGED_SEED = 1_000, 90_000
STEPS, GUIDANCE = 12, 4.0


def scenes(count: int, *, held_out: bool) -> list[Scene]:
    """Captions of one thing whose size is not told."""
    found = [scene for scene in single_scenes(held_out=held_out) if scene.things[0].size is None]
    order = np.random.default_rng(5).permutation(len(found))
    return [found[index] for index in order[:count]]


class Reader:
    """What the oracle sees."""

    def __init__(self) -> None:
        self.oracle = Oracle.load(ORACLE)

    def __call__(self, shown: list[Scene], pictures: list[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(area of the subject as a share of the picture, whether every attribute is right, clutter), each [N]."""
        readings = self.oracle.read(pictures)
        size = pictures[0].width * pictures[0].height
        area = np.array([reading.things[0].area / size if reading.things else 0.0 for reading in readings])
        right = [min(judge(scene, reading).values()) == 1.0 for scene, reading in zip(shown, readings, strict=True)]
        return area, np.array(right, float), np.array([reading.clutter for reading in readings])


def draw(checkpoint: Path, shown: list[Scene], first: int) -> list[Image.Image]:
    """One picture a scene, with seeds from `first` on."""
    pipeline = load_pipeline(checkpoint, config=TINY_SD.with_suffix(""))
    prompts, seeds = [scene.caption for scene in shown], range(first, first + len(shown))
    return generate(pipeline, prompts, seeds, steps=STEPS, guidance=GUIDANCE)


def write_picks(folder: Path, captions: int, seed: int, read: Reader) -> tuple[Path, Path, float]:
    """(the user's picks, the same with a coin's winners, the share of picks in which the larger one won)."""
    shown = [scene for scene in scenes(captions, held_out=False) for _ in range(EACH)]
    paths = [folder / f"{index:04d}.png" for index in range(len(shown))]
    if not paths[-1].is_file():
        for path, picture in zip(paths, draw(TINY_SD, shown, FIRST_SEED), strict=True):
            picture.save(path)
    area = read(shown, [Image.open(path).convert("RGB") for path in paths])[0]
    rng = np.random.default_rng([seed, 2])
    lines: dict[str, list[str]] = {PICKS: [], CONTROL: []}
    larger = []
    for first in range(0, len(shown), 2):
        pair = (first, first + 1)
        chance = 1 / (1 + np.exp((area[pair[1]] - area[pair[0]]) / TEMPERATURE))
        liked = pair if rng.random() < chance else pair[::-1]
        larger.append(area[liked[0]] >= area[liked[1]])
        dealt = pair if rng.random() < 0.5 else pair[::-1]
        for name, (winner, loser) in ((PICKS, liked), (CONTROL, dealt)):
            duel = {"winner": paths[winner].name, "loser": paths[loser].name, "prompt": shown[first].caption}
            lines[name].append(json.dumps(duel))
    files = [folder / f"{name.replace(' ', '-')}-{seed}.jsonl" for name in lines]
    for file, text in zip(files, lines.values(), strict=True):
        file.write_text("\n".join(text) + "\n", encoding="utf-8")
    return files[0], files[1], float(np.mean(larger))


def settings(picks: Path, seed: int, updates: int, out: Path) -> ReFLConfig:
    return ReFLConfig(
        pretrained_model_name_or_path=str(TINY_SD),
        algorithm="dpo",
        picks=str(picks),
        dpo_beta=500.0,
        resolution=64,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        learning_rate=1e-3,
        lora_rank=16,
        lora_targets="attention",
        train_batch_size=8,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        vae_checkpointing=False,
        max_train_steps=updates,
        eval_steps=updates // 4,
        eval_seeds=2,
        held_out=8,
        checkpointing_steps=updates // 4,
        stop_rule="off",
        judges=["none"],
        output="single-file",
        seed=seed,
        device="cpu",
        output_dir=str(out),
    )


def compare(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Means, and the paired change with its interval over captions."""
    change = (after - before).reshape(-1, EACH).mean(axis=1)
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "change": float(change.mean()),
        "change 95 %": list(paired_interval(change)),
        "relative": float(change.mean() / before.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=50, help="training captions, half of EACH picks of each")
    parser.add_argument("--judged", type=int, default=15, help="held-out captions, EACH pictures of each")
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=(PICKS, CONTROL), help="runs of one kind")
    parser.add_argument("--work", type=Path, help="folder for pictures and runs; default one that is removed")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = args.out / "dpo_small_world.json"
    runs: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []
    done = {(run["name"], run["seed"]) for run in runs}
    read = Reader()
    judged = [scene for scene in scenes(args.judged, held_out=True) for _ in range(EACH)]
    before = read(judged, draw(TINY_SD, judged, JUDGED_SEED))
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            *files, larger = write_picks(work, args.captions, seed, read)
            for name, picks in zip((PICKS, CONTROL), files, strict=True):
                if (name, seed) in done or args.only not in (None, name):
                    continue
                started = time.process_time()
                result = Trainer(
                    args=settings(picks, seed, args.updates, work / f"{name.replace(' ', '-')}-{seed}")
                ).train()
                seconds = time.process_time() - started
                if result.exported is None:
                    raise SystemExit(f"{name} {seed} left no result: {result.reason}")
                after = read(judged, draw(result.exported, judged, JUDGED_SEED))
                measures = ("area", "every attribute right", "clutter")
                runs.append(
                    {
                        "name": name,
                        "seed": seed,
                        "larger one won": larger if name == PICKS else None,
                        "seconds of CPU": round(seconds, 1),
                        "evaluations": [item.summary() for item in result.evaluations],
                        **{key: compare(b, a) for key, b, a in zip(measures, before, after, strict=True)},
                    }
                )
                document = {
                    "machine": f"{platform.machine()}, one thread",
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "settings": settings(picks, seed, args.updates, work).shareable(),
                    "picks": args.captions * EACH // 2,
                    "judged": [args.judged, EACH],
                    "runs": runs,
                }
                target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                print(name, seed, {key: runs[-1][key] for key in measures}, flush=True)


if __name__ == "__main__":
    main()
