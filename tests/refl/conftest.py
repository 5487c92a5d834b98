"""Fixtures: model files and settings of very short runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .tiny import PROMPTS, SIZE, single_file_state, tiny_modules, to_hugging_face, write_bpe, write_tokenizer


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Paths: sd1 and sdxl (single files), bpe, folder (a diffusers folder with the same weights as sd1)."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("models")
    paths = {"bpe": write_bpe(root / "bpe.txt.gz")}
    for name, sdxl in (("sd1", False), ("sdxl", True)):
        unet, vae, texts = tiny_modules(0, sdxl)
        paths[name] = root / f"tiny-{name}.safetensors"
        save_file(single_file_state(unet, vae, texts, sdxl), str(paths[name]), {"modelspec.title": "tiny"})
        if not sdxl:
            folder = root / "folder"
            unet.save_pretrained(folder / "unet")
            vae.register_to_config(scaling_factor=0.18215)
            vae.save_pretrained(folder / "vae")
            (folder / "text_encoder").mkdir()
            save_file(to_hugging_face(texts[0].state_dict()), str(folder / "text_encoder" / "model.safetensors"))
            (folder / "text_encoder" / "config.json").write_text(
                json.dumps({"num_attention_heads": 1, "hidden_act": "quick_gelu"})
            )
            write_tokenizer(folder / "tokenizer")
            (folder / "scheduler").mkdir()
            (folder / "scheduler" / "scheduler_config.json").write_text(
                json.dumps(
                    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
                )
            )
            paths["folder"] = folder
    return paths


@pytest.fixture()
def settings(models, tmp_path):
    """Settings of a very short run on the tiny SD 1 file."""
    from refl.config import ReFLConfig

    return ReFLConfig(
        pretrained_model_name_or_path=str(models["sd1"]),
        clip_bpe=str(models["bpe"]),
        prompts=PROMPTS,
        held_out=3,
        resolution=SIZE,
        num_inference_steps=4,
        train_batch_size=2,
        gradient_accumulation_steps=2,
        max_train_steps=3,
        eval_steps=2,
        checkpointing_steps=1,
        eval_seeds=2,
        lora_rank=4,
        learning_rate=1e-3,
        lr_scheduler="constant",
        stop_rule="off",
        dial=False,
        max_inflation=100.0,  # these networks are random: a few updates change the length of what they say
        output_dir=str(tmp_path / "run"),
        device="cpu",
    )
