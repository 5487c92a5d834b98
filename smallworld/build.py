"""Train everything from seeds: one command makes all weights. The short form checks the recipe, not the quality."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from imagereward_core.atomic import write_json
from imagereward_core.hashing import file_digest

from .architecture import build_text_encoder, build_unet, build_vae
from .errors import SmallWorldError
from .ldm_layout import to_ldm, write_checkpoint
from .pretrain_reward import RewardPretraining
from .tokenizer import write_tokenizer
from .train_oracle import OracleTraining, train_oracle
from .train_reward import RewardTraining, train_reward
from .train_sd import STAGES, GeneratorTraining, train_generator
from .train_text import TextTraining, train_text
from .train_vae import Progress, VaeTraining, train_vae


@dataclass(frozen=True)
class BuildConfig:
    """The recipe of every stage; defaults are those of the shipped weights."""

    oracle: OracleTraining = field(default_factory=OracleTraining)
    vae: VaeTraining = field(default_factory=VaeTraining)
    text: TextTraining = field(default_factory=TextTraining)
    generator: tuple[GeneratorTraining, ...] = STAGES
    reward: RewardTraining = field(default_factory=RewardTraining)


SHORT = BuildConfig(
    oracle=OracleTraining(pictures=120, epochs=2),
    vae=VaeTraining(encoder_steps=4, decoder_steps=2, pictures=32, checkpoint_every=4),
    text=TextTraining(steps=6, batch_size=8),
    generator=(GeneratorTraining(steps=6, batch_size=8, warmup=2, pictures=48, checkpoint_every=4),),
    reward=RewardTraining(
        pretraining=RewardPretraining(pictures=24, steps=3, batch_size=8),
        items=24,
        valid_items=8,
        updates=4,
        batch_size=4,
    ),
)
"""Every stage with a handful of steps: seconds instead of hours, and useless weights."""


def build(folder: Path, config: BuildConfig, progress: Progress) -> dict[str, Any]:
    """Train oracle, autoencoder, text encoder, generator and reward model into ``folder``; returns the record,
    ``build.json``.

    The record is written after every stage. Called again, the build goes on behind the last finished one: each stage
    depends on its own seed and on the files of those before it only. Raises :class:`SmallWorldError` if the
    folder holds the build of another recipe.
    """
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    record = _Record(folder, config)
    record.run("oracle", lambda: train_oracle(config.oracle, folder, progress))
    record.run("vae", lambda: train_vae(config.vae, folder, progress))
    vae = build_vae()
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    vae.eval().requires_grad_(False)
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    record.run("text", lambda: train_text(config.text, tokenizer, folder, progress))
    text = build_text_encoder()
    text.load_state_dict(load_file(folder / "text.safetensors"))
    text.eval().requires_grad_(False)

    def generator() -> None:
        for number, stage in enumerate(config.generator):
            train_generator(stage, vae, text, tokenizer, folder, progress, resume=number > 0)

    record.run("generator", generator)
    checkpoint = assemble(folder)
    record.run("reward", lambda: train_reward(config.reward, vae, folder, progress))
    weights = (checkpoint, folder / "tiny-imagereward.safetensors", folder / "oracle.safetensors")
    record.content["sha256"] = {path.name: file_digest(path) for path in weights}
    record.write()
    return record.content


class _Record:
    """``build.json``: the recipe, and the seconds of each finished stage."""

    def __init__(self, folder: Path, config: BuildConfig) -> None:
        self.path = folder / "build.json"
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        self.content: dict[str, Any] = {"config": dataclasses.asdict(config), "seconds": {}, **versions}
        if self.path.exists():
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["config"] != json.loads(json.dumps(self.content["config"])):
                raise SmallWorldError(
                    f"{folder} holds a build with other settings ({self.path.name}): choose an empty folder, or"
                    " remove it"
                )
            self.content["seconds"] = found["seconds"]

    def run(self, stage: str, train: Callable[[], object]) -> None:
        """Train unless the stage is finished, and note the time it took."""
        if stage in self.content["seconds"]:
            return
        started = time.monotonic()
        train()
        self.content["seconds"][stage] = round(time.monotonic() - started, 1)
        self.write()

    def write(self) -> None:
        """Replace the file as a whole: a build cut off here still finds its last record."""
        write_json(self.path, self.content, indent=2)


def assemble(folder: Path) -> Path:
    """Join the trained parts in ``folder`` into ``tiny-sd.safetensors`` with its ``.yaml`` and configuration folder."""
    parts = []
    for name, model in (("unet", build_unet()), ("vae", build_vae()), ("text", build_text_encoder())):
        model.load_state_dict(load_file(folder / f"{name}.safetensors"))
        parts.append(model.state_dict())
    scale = float(json.loads((folder / "latents.json").read_text(encoding="utf-8"))["scaling_factor"])
    path = folder / "tiny-sd.safetensors"
    write_checkpoint(path, to_ldm(*parts), scale)
    return path
