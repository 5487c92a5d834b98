"""Presets by GPU: each differs, each keeps 16 samples an update, and SDXL has its own."""

import torch
from safetensors.torch import save_file

from imagereward_core.runs.presets import PRESETS, SDXL_PRESETS, is_sdxl, name_of, preset


def test_each_gpu_has_its_own_batch():
    sizes = [values["train_batch_size"] for values in PRESETS.values()]
    assert list(PRESETS) == list(SDXL_PRESETS) == ["8 GB", "12 GB", "16 GB", "24 GB"]
    assert sizes == sorted(set(sizes))
    for values in (*PRESETS.values(), *SDXL_PRESETS.values()):
        assert values["train_batch_size"] * values["gradient_accumulation_steps"] == 16
    assert all(SDXL_PRESETS[name]["train_batch_size"] <= PRESETS[name]["train_batch_size"] for name in PRESETS)


def test_the_checkpoints_header_tells_which_table(tmp_path):
    save_file({"conditioner.embedders.0.transformer.x": torch.zeros(1)}, str(tmp_path / "xl.safetensors"))
    save_file({"cond_stage_model.transformer.x": torch.zeros(1)}, str(tmp_path / "sd.safetensors"))
    (tmp_path / "folder" / "text_encoder_2").mkdir(parents=True)
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    assert is_sdxl(tmp_path / "xl.safetensors") and is_sdxl(tmp_path / "folder")
    for other in ("", tmp_path / "sd.safetensors", tmp_path / "absent.safetensors", tmp_path / "broken.safetensors"):
        assert not is_sdxl(other)
    assert preset("16 GB", tmp_path / "xl.safetensors") == SDXL_PRESETS["16 GB"]
    assert preset("16 GB", tmp_path / "sd.safetensors") == PRESETS["16 GB"]


def test_settings_tell_their_preset():
    for name, values in PRESETS.items():
        assert name_of({**values, "seed": 3}) == name
    assert name_of({"train_batch_size": 3, "gradient_accumulation_steps": 5}) is None
