"""Step time and peak memory of ReFL here and in the reference's own script, on the same small pipeline, one run.

    python benchmarks/refl_vs_reference.py --reference /path/to/python-with-image-reward-1.5 --out
    benchmarks/results/refl_speed.json

Each side runs in an interpreter and a process of its own, on one CPU thread, in turns; figures are medians over all
updates and rounds. Time is the process's CPU time, which a busy machine disturbs least. The reference's Trainer is the
published class; only what it would download is replaced: the prompts and the reward model (the same small network on
both sides). Memory is the growth of the process's peak resident size while training, over what it was when libraries
and models were loaded.

"ours" is the default algorithm, refl+, without guidance, as the reference draws; "ours, --algorithm refl" takes the
reference's forty ancestral steps, so that what comes from fewer steps and what from the code can be told apart;
"ours, CFG" is the default, which costs a second prediction per step and trains what users sample with.
"ours, no checkpointing" shows what of the memory is recomputation.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

UPDATES, ACCUMULATION, BATCH = 3, 1, 2
SIDES = {
    "reference": {},
    "ours": {"guidance_scale": 1.0},
    "ours, --algorithm refl": {"algorithm": "refl", "guidance_scale": 1.0},
    "ours, CFG": {"guidance_scale": 7.0},
    "ours, no checkpointing": {"guidance_scale": 1.0, "gradient_checkpointing": False, "vae_checkpointing": False},
}
PIXELS = 128  # the reference draws 64×64 latents whatever the resolution; this VAE halves once
UNET = {
    "sample_size": 64,
    "block_out_channels": [32, 64, 256, 512],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
"""Four levels as in SD 1, most weights in the lower ones; no attention in the first, which the reference's libraries
would hold whole (4096² per head).
"""
PROMPTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cat", "dog", "tree", "house")]


def small_reward():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 16, 16),
        torch.nn.GELU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 1),
    )


def peak() -> float:
    """Peak resident size of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(folder: Path) -> None:
    """A small diffusers folder that both generations of the library can read."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.refl.tiny import VAE_CONFIG, tokenizer_files, write_tokenizer

    torch.manual_seed(0)
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    AutoencoderKL(**VAE_CONFIG).save_pretrained(folder / "vae")
    vocab, _ = tokenizer_files()
    sizes = {
        "vocab_size": len(vocab),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
    }
    CLIPTextModel(CLIPTextConfig(**sizes, max_position_embeddings=77)).save_pretrained(folder / "text_encoder")
    for part, old in (
        ("unet", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.bin"),
        ("text_encoder", "pytorch_model.bin"),
    ):
        for path in (folder / part).glob(
            "*.safetensors"
        ):  # the reference's generation reads this format in all its parts
            state = load_file(path)
            if part == "vae":  # so were the names of the attention's matrices
                for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                    state = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in state.items()}
            torch.save(state, folder / part / old)
    write_tokenizer(folder / "tokenizer")
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"})
    )
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "_class_name": "DDPMScheduler",
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))


def reference(folder: Path) -> dict:
    """Run the published Trainer for a few updates; called inside the reference's interpreter."""
    import torch

    torch.set_num_threads(1)

    class Rows:
        column_names = ["image", "text"]

        def __init__(self, transform=None):
            self.transform = transform

        def __len__(self):
            return len(PROMPTS)

        def __getitem__(self, index):
            return {key: value[0] for key, value in self.transform({"text": [PROMPTS[index]]}).items()}

        def with_transform(self, transform):
            return Rows(transform)

    datasets = types.ModuleType("datasets")
    datasets.load_dataset = lambda *args, **kwargs: {"train": Rows()}
    datasets.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    sys.modules.setdefault("datasets", datasets)
    import ImageReward as RM
    from ImageReward import ReFL
    from transformers import CLIPTokenizer

    ReFL.load_dataset = datasets.load_dataset
    accelerator = ReFL.Accelerator  # newer versions dropped one of its arguments, which only placed log files
    ReFL.Accelerator = lambda **options: accelerator(
        **{key: value for key, value in options.items() if key != "logging_dir"}
    )

    class Reward(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_reward()
            self.blip = types.SimpleNamespace(
                tokenizer=CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
            )

        def score_gard(self, ids, mask, image):
            return self.net(image)

    RM.load = lambda *args, **kwargs: Reward()
    sys.argv = [
        "ReFL.py",
        "--train_batch_size",
        str(BATCH),
        "--gradient_accumulation_steps",
        str(ACCUMULATION),
        "--max_train_steps",
        str(UPDATES),
        "--output_dir",
        str(folder / "out"),
        "--learning_rate",
        "1e-5",
        "--checkpointing_steps",
        "1000",
    ]
    args = ReFL.parse_args()
    args.report_to = None
    trainer = ReFL.Trainer(str(folder), "unused.json", args=args)
    loaded, times = peak(), [time.process_time()]

    class Done(Exception):
        pass

    def end():
        raise Done

    trainer.accelerator.log = lambda *a, **k: times.append(time.process_time())
    trainer.accelerator.wait_for_everyone = end
    with contextlib.suppress(Done):
        trainer.train(args=args)
    return _result(times, loaded)


def ours(folder: Path, changes: dict) -> dict:
    """The same number of samples with our defaults and these changes."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import torch

    torch.set_num_threads(1)
    # 160 MiB of library code that the first update would load: not memory of training, and constant
    import peft  # noqa: F401

    from refl.backend import load_backend
    from refl.config import ReFLConfig
    from refl.distributed import Processes
    from refl.engine import Engine, PromptTable
    from refl.rewards import Component, RewardMix

    class Reward:
        name = "small"
        net = small_reward().requires_grad_(False)

        def differentiable(self, prompts, images):
            return self.net(torch.nn.functional.interpolate(images, (224, 224), mode="bicubic", antialias=True))[:, 0]

        def to(self, device):
            return self

    settings = {
        "train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_train_steps": UPDATES,
        "resolution": PIXELS,
    }
    config = ReFLConfig(**settings, **changes, use_ema=False).resolved()
    backend = load_backend(folder)
    table = PromptTable(backend, [*PROMPTS, ""], PIXELS, torch.device("cpu"))
    backend.text = None
    engine = Engine(config, backend, RewardMix([Component(Reward())]), PROMPTS, table, Processes("cpu"))
    loaded, times = peak(), [time.process_time()]
    for step in range(UPDATES):
        engine.update(step)
        times.append(time.process_time())
    return _result(times, loaded)


def _result(times: list[float], loaded: float) -> dict:
    seconds = [(b - a) / (BATCH * ACCUMULATION) for a, b in zip(times, times[1:])]
    return {"seconds_per_sample": seconds, "peak_growth_mib": peak() - loaded, "peak_mib": peak()}


def run_child(name: str, python: str, folder: Path) -> dict:
    """One side in a process of its own."""
    command = [python, __file__, "--child", name, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{name} failed:\n{result.stderr[-3000:]}")
    found = json.loads(lines[-1][7:])
    print(name, [round(value, 2) for value in found["seconds_per_sample"]], round(found["peak_growth_mib"]), flush=True)
    return found


def summary(rounds: list[dict]) -> dict:
    """Medians over the updates of all rounds."""
    seconds = [value for item in rounds for value in item["seconds_per_sample"]]
    middle = {"seconds_per_sample": statistics.median(seconds), "updates": len(seconds)}
    return {
        **middle,
        **{key: statistics.median(item[key] for item in rounds) for key in ("peak_growth_mib", "peak_mib")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reference",
        default=os.environ.get("REFL_REFERENCE_PYTHON"),
        help="interpreter with image-reward 1.5; or REFL_REFERENCE_PYTHON",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        result = reference(args.folder) if args.child == "reference" else ours(args.folder, SIDES[args.child])
        import torch

        print("RESULT " + json.dumps({**result, "torch": torch.__version__}))
        return
    if not args.reference:
        parser.error("--reference is needed: an interpreter in which image-reward 1.5 is installed")
    found: dict[str, list[dict]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        build(folder)
        for _ in range(args.rounds):
            for name in SIDES:
                found[name].append(run_child(name, args.reference if name == "reference" else sys.executable, folder))
    measured = {name: summary(rounds) for name, rounds in found.items()}
    base = measured["reference"]
    ratios = {
        name: {key: round(values[key] / base[key], 3) for key in ("seconds_per_sample", "peak_growth_mib", "peak_mib")}
        for name, values in measured.items()
        if name != "reference"
    }
    document = {
        "machine": f"{platform.machine()}, one thread",
        "python": platform.python_version(),
        "torch": {"ours": found["ours"][0]["torch"], "reference": found["reference"][0]["torch"]},
        "samples_per_update": BATCH * ACCUMULATION,
        "rounds": args.rounds,
        "measured": measured,
        "ratio_to_reference": ratios,
    }
    print(json.dumps(ratios, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
