"""Where weights are looked for, and that nothing is asked of the network when they are there."""

import os
import socket

import pytest
import torch

from imagereward_core import registry, weights
from imagereward_core.errors import ModelNotFoundError
from imagereward_core.registry import Source
from imagereward_core.weights import hub

SOURCE = Source("ImageReward.pt", repo="THUDM/ImageReward", about=1_790_000_000)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder with nothing in it, an empty hub cache, and no network at all."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("IMAGEREWARD_HOME", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "home"


def put(folder, name="ImageReward.pt"):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.ones(2)}, folder / name)
    return folder / name


def put_in_hub_cache(cache, source=SOURCE):
    """As the hub client lays out its cache: refs/<branch> names a commit, snapshots/<commit> holds the files."""
    repo = cache / f"models--{source.repo.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    return put(repo / "snapshots" / "c0ffee", source.filename)


def test_order(tmp_path, home, monkeypatch):
    monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path / "env"))
    roots = {"download_root": tmp_path / "root", "models_dir": tmp_path / "host"}
    last_first = [put_in_hub_cache(tmp_path / "hub")]
    assert weights.locate(SOURCE, **roots) == last_first[0]
    for folder in (home / ".cache" / "ImageReward", tmp_path / "env", tmp_path / "host", tmp_path / "root"):
        last_first.append(put(folder))
        assert weights.locate(SOURCE, **roots) == last_first[-1]
    assert weights.locate(SOURCE) == tmp_path / "env" / "ImageReward.pt"


def test_default_root(home, monkeypatch):
    assert weights.default_root() == home / ".cache" / "ImageReward"
    monkeypatch.setenv("IMAGEREWARD_HOME", "~/models")
    assert weights.default_root() == home / "models"


def test_files_of_one_name_are_kept_apart(tmp_path):
    clip = registry.get("CLIP").sources[0]
    put(tmp_path, "model.safetensors")  # some other model's
    with pytest.raises(ModelNotFoundError):
        weights.locate(clip, download_root=tmp_path)
    path = put(tmp_path, "clip-vit-large-patch14.safetensors")
    assert weights.locate(clip, download_root=tmp_path) == path


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_and_missing_says_what_to_do(tmp_path, home, monkeypatch, variable):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelNotFoundError) as caught:
        weights.locate(SOURCE, models_dir=tmp_path / "host")
    message = str(caught.value)
    for part in (
        "no sound ImageReward.pt is on this machine",
        f"{variable}",
        "https://huggingface.co/THUDM/ImageReward/resolve/main/ImageReward.pt",
        f"put it as ImageReward.pt into {tmp_path / 'host'}",
        str(home / ".cache" / "ImageReward"),
    ):
        assert part in message
    for source in registry.get("Aesthetic").sources:
        with pytest.raises(ModelNotFoundError, match="offline mode is on"):
            weights.locate(source)
    with pytest.raises(ModelNotFoundError, match="offline mode is on"):
        weights.fetch(registry.get("BLIP"))


def test_download_can_be_forbidden(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ModelNotFoundError, match="not to be downloaded"):
        weights.locate(SOURCE, download=False)


def test_fetch_asks_nothing_when_the_files_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    path = put(tmp_path)
    steps = []
    found = weights.fetch(
        registry.get("ImageReward-v1.0"),
        download_root=tmp_path,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert found == [path] and steps == [(path.stat().st_size, path.stat().st_size)]


def test_mirror_in_the_address(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub.address(SOURCE) == "https://mirror.example/THUDM/ImageReward/resolve/main/ImageReward.pt"


def test_paths_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CLIP").mkdir()
    (tmp_path / "mine").write_bytes(b"x")
    for path in ("a.pt", "a.safetensors", "A.SAFETENSORS", "mine", os.path.join("a", "b"), tmp_path, tmp_path / "a"):
        assert weights.is_path(path)
    for name in ("CLIP", "ImageReward-v1.0", "no-such-model"):
        assert not weights.is_path(name)


def test_an_explicit_path_that_is_not_there():
    with pytest.raises(ModelNotFoundError, match=r"nowhere.*file\.pt does not exist"):
        weights.resolve("nowhere/file.pt")
