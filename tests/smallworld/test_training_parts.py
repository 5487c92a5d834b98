"""The small parts that training rests on."""

import json
from dataclasses import replace

import pytest

from smallworld.train_text import FIELDS, targets
from smallworld.world import parse_caption

torch = pytest.importorskip("torch")


def test_targets_name_what_the_caption_says():
    named = {
        name: values[index]
        for (name, values), index in zip(
            FIELDS.items(), targets(parse_caption("a large red star below a small blue circle on a black background"))
        )
    }
    assert named == {
        "background": "black",
        "relation": "below",
        "shape 1": "star",
        "colour 1": "red",
        "size 1": "large",
        "shape 2": "circle",
        "colour 2": "blue",
        "size 2": "small",
    }
    single = {
        name: values[index]
        for (name, values), index in zip(FIELDS.items(), targets(parse_caption("a red star on a gray background")))
    }
    assert (single["relation"], single["size 1"], single["shape 2"]) == ("none", "none", "none")


def test_objects_weigh_more_than_background():
    from smallworld.train_vae import pixel_weights

    pictures = torch.full((1, 3, 64, 64), -0.9)
    pictures[:, 0, 20:30, 20:30] = 0.8
    weights = pixel_weights(pictures, 4.0)
    assert weights.shape == (1, 1, 64, 64)
    assert weights[0, 0, 25, 25] == 4
    assert weights[0, 0, 5, 5] == 1
    assert (weights == 4).sum() == 100


def test_the_noise_schedule_is_the_schedulers():
    diffusers = pytest.importorskip("diffusers")
    from smallworld.architecture import SCHEDULE
    from smallworld.train_sd import alphas_cumprod

    scheduler = diffusers.DDIMScheduler(**SCHEDULE)
    assert torch.allclose(alphas_cumprod(), scheduler.alphas_cumprod, rtol=1e-4)


def test_cards_take_facts_from_the_files(tmp_path):
    from safetensors.torch import save_file

    from smallworld.cards import MEASURED, update_cards

    for name in MEASURED:
        save_file(
            {"a": torch.zeros(3, 4, dtype=torch.float16), "ids": torch.arange(5)}, tmp_path / f"{name}.safetensors"
        )
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "parameters": 7}))
    update_cards(
        tmp_path, {"oracle": {"shape": 0.123456}, "autoencoder": 1, "tiny-sd": 2, "tiny-flow": 4, "tiny-imagereward": 3}
    )
    card = json.loads((tmp_path / "oracle.json").read_text())
    assert (card["parameters"], card["file"], card["quality"]) == (
        12,
        "oracle.safetensors",
        {"oracle": {"shape": 0.1235}},
    )
    assert card["bytes"] == (tmp_path / "oracle.safetensors").stat().st_size


def test_half_precision_keeps_the_metadata(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    from smallworld.train_reward import halve

    save_file({"w": torch.tensor([1.5]), "ids": torch.arange(3)}, tmp_path / "a.safetensors", {"key": "value"})
    halve(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        assert file.metadata() == {"key": "value"}
        assert (file.get_tensor("w").dtype, file.get_tensor("ids").dtype) == (torch.float16, torch.int64)


def test_a_resumed_stage_starts_from_the_weights_of_the_one_before(tmp_path):
    pytest.importorskip("diffusers")
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer

    from smallworld.architecture import build_text_encoder, build_vae
    from smallworld.pipeline import TINY_SD
    from smallworld.train_sd import GeneratorTraining, train_generator

    vae, text = build_vae().eval(), build_text_encoder().eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(TINY_SD.with_suffix("") / "tokenizer")
    config = GeneratorTraining(steps=2, batch_size=2, pictures=4, checkpoint_every=1, warmup=1)
    train_generator(config, vae, text, tokenizer, tmp_path, lambda *args: None)
    first, scale = load_file(tmp_path / "unet.safetensors"), (tmp_path / "latents.json").read_text()
    still = replace(config, learning_rate=0.0, spread=1.0, seed=3)
    train_generator(still, vae, text, tokenizer, tmp_path, lambda *args: None, resume=True)
    second = load_file(tmp_path / "unet.safetensors")
    assert all(torch.allclose(first[name], second[name]) for name in first)
    assert (tmp_path / "latents.json").read_text() == scale
