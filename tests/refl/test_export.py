"""Results out: LoRA files, single files, diffusers folders, and their round trips."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from refl import Trainer, lora
from refl.backend import load_backend
from refl.checkpoints.write import save_tensors
from refl.errors import ConfigError, SaveError
from refl.export import check_output, export_state
from refl.families import family
from refl.ldm import UNET_PREFIX, UNetLayout
from refl.runfiles import read_events

from .test_algorithm import make_engine
from .tiny import PROMPTS, SIZE, colour_mix


@pytest.fixture()
def finished(settings):
    """A finished run; (settings, folder)."""
    settings = dataclasses.replace(settings, max_train_steps=2, learning_rate=1e-2)
    Trainer(args=settings, rewards=colour_mix(), judges=[]).train()
    return settings, Path(settings.output_dir)


def outputs(backend, lora_file=None):
    cond = backend.text.encode(PROMPTS[:2], SIZE) if backend.text else None
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([100, 800])
    with torch.no_grad():
        return backend.predict(x, t, cond)


def test_lora_at_strength_one_equals_the_merged_checkpoint(finished, models):
    """Apply the kohya file by hand to the original weights, as a host does, and compare with the single-file export."""
    settings, folder = finished
    merged = export_state(folder, None, {"output": "single-file", "output_name": "merged"})
    original, tuned = load_file(models["sd1"]), load_file(merged)
    every = load_file(folder / "tiny-sd1-refl.safetensors")
    tensors = {key: tensor for key, tensor in every.items() if key.startswith("lora_unet_")}  # those hosts look for
    assert len(every) - len(tensors) == len(tensors) // 3 * 2  # and diffusers' two of each, as the layout is unusual
    keys = {
        f"lora_unet_{key[len(UNET_PREFIX) : -len('.weight')].replace('.', '_')}": key
        for key in original
        if key.endswith(".weight") and key.startswith(UNET_PREFIX)
    }
    changed = 0
    for name in {key.split(".")[0] for key in tensors}:
        down, up = tensors[f"{name}.lora_down.weight"].float(), tensors[f"{name}.lora_up.weight"].float()
        scale = float(tensors[f"{name}.alpha"]) / down.shape[0]
        weight = original[keys[name]]
        expected = weight + (up @ down * scale).reshape(weight.shape)
        torch.testing.assert_close(tuned[keys[name]], expected, rtol=2e-3, atol=2e-5)  # the LoRA is stored in fp16
        changed += int(not torch.equal(tuned[keys[name]], weight))
    assert changed == len(tensors) // 3 > 0
    a, b = load_backend(models["sd1"], clip_bpe=str(models["bpe"])), load_backend(merged, clip_bpe=str(models["bpe"]))
    assert float((outputs(a) - outputs(b)).abs().max()) > 1e-4


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_result_is_as_readable_as_its_siblings(finished):
    """The safetensors library gives its files to their owner alone."""
    _, folder = finished
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    (folder / "new").write_text("")
    usual = (folder / "new").stat().st_mode & 0o777
    assert {name: mode for name, mode in modes.items() if mode != usual and name != "run.lock"} == {}


def test_a_result_does_not_tell_where_it_was_made(finished, models):
    settings, folder = finished
    merged = export_state(folder, None, {"output": "single-file", "output_name": "merged"})
    for path in (folder / "tiny-sd1-refl.safetensors", merged):
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
        assert str(folder.parent) not in json.dumps(metadata) and str(models["sd1"].parent) not in json.dumps(metadata)
        assert json.loads(metadata["refl.config"])["pretrained_model_name_or_path"] == "tiny-sd1.safetensors"
    shared = dataclasses.replace(
        settings, rewards=["/home/me/mine.safetensors=0.5"], judges=["C:\\Users\\me\\judge.pt"]
    ).shareable()
    assert shared["rewards"] == ["mine.safetensors=0.5"] and shared["judges"] == ["judge.pt"]


def test_write_back_touches_the_unet_only(finished, models):
    _, folder = finished
    path = export_state(folder, None, {"output": "single-file", "output_name": "merged"})
    original, tuned = load_file(models["sd1"]), load_file(path)
    assert original.keys() == tuned.keys()
    for key, tensor in original.items():
        assert tuned[key].dtype == tensor.dtype and tuned[key].shape == tensor.shape
        if not key.startswith(UNET_PREFIX) or ".to_" not in key:
            assert torch.equal(tuned[key], tensor), key
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == "tiny" and json.loads(metadata["refl.config"])["lora_rank"] == 4


def test_write_back_keeps_fp16_and_drops_stale_averages(models, tmp_path):
    from safetensors.torch import save_file

    from refl.checkpoints.write import write_back

    half = {key: tensor.half() for key, tensor in load_file(models["sd1"]).items()}
    save_file({**half, "model_ema.decay": torch.zeros(1)}, str(tmp_path / "half.safetensors"))
    backend = load_backend(tmp_path / "half.safetensors", clip_bpe=str(models["bpe"]))
    layout = UNetLayout.of(backend.unet.config)
    write_back(tmp_path / "half.safetensors", tmp_path / "out.safetensors", dict(backend.unet.state_dict()), layout, {})
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == half.keys()
    assert all(torch.equal(written[key], half[key]) for key in half)  # an untrained UNet comes back bit for bit


def test_lora_file_has_the_keys_and_metadata_that_hosts_read(finished):
    settings, folder = finished
    path = folder / "tiny-sd1-refl.safetensors"
    tensors = load_file(path)
    # two levels of one block each is not the published layout, so names are the original ones
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in tensors
    assert "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0.alpha" in tensors
    assert all(tensor.dtype is torch.float16 for tensor in tensors.values())
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["ss_v2"] == "False"
    assert metadata["ss_output_name"] == "tiny-sd1-refl" and metadata["ss_network_dim"] == "4"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert len(metadata["sshs_model_hash"]) == 64
    assert json.loads(metadata["refl.config"])["algorithm"] == "refl+"


def test_published_layout_uses_kohya_names_and_sdxl_original_names():
    sd1, sdxl = UNetLayout((True, True, True, False), 2), UNetLayout((False, True, True), 2)
    assert not family("sd1").needs_ldm_names(sd1) and family("sdxl").needs_ldm_names(sdxl)


def test_sdxl_lora_names(models):
    from refl.ldm import unet_module_to_ldm

    backend = load_backend(models["sdxl"], clip_bpe=str(models["bpe"]))
    lora.inject(backend.unet, 4, 4.0, "all", 0)
    layout = UNetLayout.of(backend.unet.config)
    state = lora.kohya_state(backend.unet, layout, True)
    modules = {
        key[len(UNET_PREFIX) : -len(".weight")].replace(".", "_")
        for key in load_file(models["sdxl"])
        if key.startswith(UNET_PREFIX)
    }
    assert {key.split(".")[0].removeprefix("lora_unet_") for key in state} <= modules
    assert unet_module_to_ldm(layout, "mid_block.attentions.0.proj_in") == "middle_block.1.proj_in"


def test_convolution_adapters_merge_as_they_compute(models):
    engine = make_engine(models, lora_targets="all", anchor="none", learning_rate=1e-2)
    for step in range(2):
        engine.update(step)
    cond, x, t = engine.table(PROMPTS[:1]), torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        expected = engine.backend.predict(x, t, cond)
    plain = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    plain.unet.load_state_dict(lora.merged_state(engine.backend.unet))
    with torch.no_grad():
        torch.testing.assert_close(plain.predict(x, t, cond), expected, rtol=1e-4, atol=1e-5)


def test_alpha_other_than_rank_is_kept(models):
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    lora.inject(backend.unet, 4, 2.0, "attention", 0)
    state = lora.kohya_state(backend.unet, UNetLayout.of(backend.unet.config), True)
    assert {float(tensor) for key, tensor in state.items() if key.endswith(".alpha")} == {2.0}


@pytest.mark.parametrize("key", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_diffusers_finds_every_place_of_a_published_layout(key, targets, tmp_path):
    """Through the loaders of its pipelines, on the published architecture without weights."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import convert_unet_state_dict_to_peft

    from refl.checkpoints.modules import empty

    kind = family(key)
    unet = empty("UNet2DConditionModel", kind.unet)
    lora.inject(unet, 1, 1.0, targets, 0)
    for layer in lora.layers(unet).values():
        for part in (layer.lora_A, layer.lora_B):
            weight = part[lora.ADAPTER].weight
            part[lora.ADAPTER].weight = torch.nn.Parameter(torch.zeros(weight.shape, dtype=torch.float16))
    state = lora.file_state(unet, kind)
    assert len(state) == 3 * len(lora.layers(unet))  # hosts and diffusers agree on these names
    save_tensors(state, tmp_path / "l.safetensors")
    if key == "sdxl":
        found, _ = StableDiffusionXLPipeline.lora_state_dict(str(tmp_path / "l.safetensors"), unet_config=unet.config)
    else:
        found, _ = StableDiffusionPipeline.lora_state_dict(str(tmp_path / "l.safetensors"))
    found = convert_unet_state_dict_to_peft({name.removeprefix("unet."): tensor for name, tensor in found.items()})
    assert {name.split(".lora_")[0] for name in found} == set(lora.layers(unet))


def test_diffusers_folder_round_trip(settings, models):
    config = dataclasses.replace(
        settings,
        pretrained_model_name_or_path=str(models["folder"]),
        output="diffusers",
        max_train_steps=2,
        learning_rate=1e-2,
    )
    result = Trainer(args=config, rewards=colour_mix(), judges=[]).train()
    assert sorted(path.name for path in result.exported.iterdir()) == [
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
        "vae",
    ]
    before, after = load_backend(models["folder"]), load_backend(result.exported)
    assert float((outputs(before) - outputs(after)).abs().max()) > 1e-4
    again = export_state(Path(config.output_dir), None, {"output_name": "again"})
    torch.testing.assert_close(outputs(load_backend(again)), outputs(after))


def test_full_tuning_exports_a_single_file(settings, models):
    config = dataclasses.replace(settings, tune="full", output="single-file", learning_rate=1e-3, max_train_steps=2)
    result = Trainer(args=config, rewards=colour_mix(), judges=[]).train()
    original, tuned = load_file(models["sd1"]), load_file(result.exported)
    moved = [key for key in original if not torch.equal(original[key], tuned[key])]
    assert moved and all(key.startswith(UNET_PREFIX) for key in moved)


def test_impossible_outputs_are_refused(settings, models):
    for changes, word in (
        ({"tune": "full", "output": "lora"}, "tune lora"),
        ({"output": "diffusers"}, "diffusers folder"),
        ({"pretrained_model_name_or_path": str(models["folder"]), "output": "single-file"}, "single-file checkpoint"),
    ):
        with pytest.raises(ConfigError, match=word):
            Trainer(
                args=dataclasses.replace(settings, max_train_steps=1, **changes), rewards=colour_mix(), judges=[]
            ).train()
        events = read_events(Path(settings.output_dir) / "events.jsonl")
        assert not [event for event in events if event["type"] in ("step", "evaluation")]  # before anything is trained


def test_the_checkpoint_it_starts_from_is_never_replaced(settings, models):
    source = models["sd1"]
    for output in ("single-file", "lora"):
        itself = dataclasses.replace(settings, output=output, export_dir=str(source.parent), output_name=source.stem)
        with pytest.raises(ConfigError, match="would replace"):
            check_output(itself, source)
        check_output(dataclasses.replace(itself, output_name="other"), source)


def test_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    import safetensors.torch

    def full(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "result.safetensors").write_bytes(b"old")
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(SaveError, match="No space left"):
        save_tensors({"a": torch.zeros(1)}, tmp_path / "result.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["result.safetensors"]
    assert (tmp_path / "result.safetensors").read_bytes() == b"old"
