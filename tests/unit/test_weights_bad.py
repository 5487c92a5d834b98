"""Files that are not the weights they are taken for: each is named for what it is, and none is touched."""

import argparse
import json
import sys
import types
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import imagereward_core as RM
from imagereward_core.errors import WeightsError
from imagereward_core.model import ALLOWED_MISSING, RewardModel
from imagereward_core.weights.checkpoint import checked, file_format, read_state, recognise
from tests.conftest import random_state, tiny_config


@pytest.fixture(scope="module")
def state():
    return random_state(tiny_config())


@pytest.fixture
def network():
    with torch.device("meta"):
        return RewardModel(tiny_config())


def write(folder, kind, state):
    """A bad file of that kind."""
    path = folder / f"ImageReward.{'safetensors' if 'safetensors' in kind else 'pt'}"
    if kind == "folder":
        path.mkdir()
        return path
    torch.save(state, path)
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "truncated safetensors":
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-7])
    elif kind == "damaged pickle":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02garbage")
            archive.writestr("archive/version", b"3\n")
    elif kind == "zip of images":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.png", b"")
    elif kind == "TorchScript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    elif kind == "objects":
        torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, path)
    elif kind == "code":
        torch.save({"w": Attack()}, path)
    elif kind == "tensor":
        torch.save(torch.ones(3), path)
    elif kind == "no tensors":
        torch.save({"epoch": 3, "lr": 0.1}, path)
    else:
        path.write_bytes(BYTES[kind])
    return path


class Attack:
    """Unpickled carelessly, it would raise SystemExit."""

    def __reduce__(self):
        return (sys.exit, ("code of the file ran",))


BYTES = {
    "empty": b"",
    "web page": b"\n<!DOCTYPE html><html><title>ImageReward.pt</title></html>" + b" " * 9000,
    "web page as safetensors": b"<html>" + b" " * 9000,
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1789\n",
    "text": b"Entry not found",
    "short safetensors": b"\x10\0\0\0\0\0\0\0{",
    "damaged safetensors": (20).to_bytes(8, "little") + b'{"a": {"dtype": 1}}}' + b"x" * 100,
}

EXPECTED = {
    "folder": "is a folder",
    "truncated": "is truncated or damaged",
    "truncated safetensors": r"is truncated or damaged: \d+ bytes are there, its header announces \d+",
    "damaged pickle": r"is damaged \(\d+ bytes\): Unsupported operand",
    "zip of images": r"zip archive of other things \(1\.png\)",
    "TorchScript": "TorchScript",
    "objects": r"Python objects besides tensors.*argparse\.Namespace",
    "code": r"Python objects besides tensors.*sys\.exit",
    "tensor": "holds a Tensor, not a state dict",
    "no tensors": "holds no tensors; found epoch, lr",
    "empty": "empty",
    "web page": "web page",
    "web page as safetensors": "web page",
    "LFS pointer": "git-LFS pointer",
    "text": "neither a PyTorch nor a safetensors file",
    "short safetensors": "no safetensors header",
    "damaged safetensors": "no safetensors header",
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_bad_files_are_named_and_kept(tmp_path, state, kind):
    path = write(tmp_path, kind, state)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(WeightsError, match=EXPECTED[kind]) as caught:
        RM.load(path, device="cpu")
    assert str(path) in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]
    assert path.is_dir() or path.read_bytes() == before


def test_the_content_decides_not_the_name(tmp_path, state):
    path = tmp_path / "really-safetensors.pt"
    save_file(state, path)
    assert file_format(path) == "safetensors" and read_state(path)[0].keys() == state.keys()
    path = tmp_path / "really-pickled.safetensors"
    torch.save(state, path)
    assert file_format(path) == "zip" and read_state(path)[0].keys() == state.keys()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"lr": 1}, "epoch": 2},
        lambda state: {"state_dict": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{key}": tensor for key, tensor in state.items()}},
    ],
    ids=["plain", "model", "state_dict", "nested", "module.", "module._orig_mod."],
)
def test_layouts(tmp_path, state, layout, zipped):
    path = tmp_path / "x.pt"
    torch.save(layout(state), path, _use_new_zipfile_serialization=zipped)
    found, _ = read_state(path)
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_a_host_that_replaces_torch_load(tmp_path, state, monkeypatch):
    path = tmp_path / "x.pt"
    torch.save(state, path)
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: None)  # what a refusing host's loader returns
    assert read_state(path)[0].keys() == state.keys()
    monkeypatch.setattr(torch.serialization, "load", lambda *_args, **_kwargs: None)
    monkeypatch.setitem(sys.modules, "modules.safe", types.SimpleNamespace(unsafe_torch_load=original))
    assert read_state(path)[0].keys() == state.keys()
    monkeypatch.delitem(sys.modules, "modules.safe")
    with pytest.raises(WeightsError, match="NoneType"):
        read_state(path)


OTHERS = {
    "a LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
    "a Stable Diffusion XL checkpoint": ["conditioner.embedders.0.x", "model.diffusion_model.input_blocks.0.0.weight"],
    "a Stable Diffusion checkpoint": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.encoder.down.0.x",
    ],
    "a ControlNet": ["control_model.input_hint_block.0.weight"],
    "a diffusers UNet": ["down_blocks.0.resnets.0.conv1.weight"],
    "a VAE": ["encoder.down.0.block.0.conv1.weight"],
    "a textual inversion embedding": ["emb_params"],
    "a CLIP model of transformers": [
        "text_model.embeddings.token_embedding.weight",
        "vision_model.embeddings.class_embedding",
    ],
    "a CLIP model of OpenAI or open_clip": ["visual.conv1.weight", "token_embedding.weight"],
    "a BLIP checkpoint": ["visual_encoder.cls_token", "text_encoder.embeddings.word_embeddings.weight"],
    "an aesthetic or reward head alone": ["layers.0.weight", "layers.0.bias"],
    "": ["w"],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_recognised(network, kind):
    assert recognise(OTHERS[kind]) == kind
    with pytest.raises(WeightsError, match=f"This is {kind}" if kind else "no kind of file known here") as caught:
        checked({key: torch.zeros(1) for key in OTHERS[kind]}, network, ALLOWED_MISSING, "x.pt")
    assert f"{len(OTHERS[kind])} unexpected" in str(caught.value)


def test_what_differs_is_listed(network, state):
    changed = dict(state)
    del changed["mlp.layers.0.bias"]
    changed["extra.one"] = torch.zeros(1)
    changed["blip.vision_proj.bias"] = torch.zeros(5)
    with pytest.raises(WeightsError) as caught:
        checked(changed, network, ALLOWED_MISSING, "x.pt")
    message = str(caught.value)
    wanted = (
        f"Of the {len(network.state_dict())} tensors wanted and {len(changed)} found: 1 missing (mlp.layers.0.bias); 1"
        " unexpected (extra.one); "
    )
    assert wanted + "1 of another shape (blip.vision_proj.bias [5] where [16] is wanted)" in message
    assert "This is an ImageReward checkpoint" in message


def test_sizes_that_differ_are_an_imagereward_checkpoint_of_other_sizes(tmp_path, state):
    path = tmp_path / "tiny.pt"
    torch.save(random_state(tiny_config(head=(1024, 128, 64, 16))), path)
    with pytest.raises(WeightsError, match=r"ImageReward checkpoint.*missing \(.*, …\).*of another shape"):
        RM.load(path, device="cpu")
    assert not path.with_suffix(".safetensors").exists()  # only what fits is converted


def test_allowed_gaps_are_filled(network, state):
    complete = {key: tensor for key, tensor in state.items() if key not in ALLOWED_MISSING}
    assert len(complete) == len(state) - 1
    assert checked(complete, network, ALLOWED_MISSING, "x.pt").keys() == complete.keys()


def test_json_is_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": 1}))
    assert file_format(path) == "json"
    path.write_text('{"a": ')
    with pytest.raises(WeightsError, match="not valid JSON"):
        file_format(path)


def test_archives_are_no_weights(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.png", b"")
    assert file_format(path) == "archive"
    with pytest.raises(WeightsError, match="a weights file is wanted"):
        read_state(path)
