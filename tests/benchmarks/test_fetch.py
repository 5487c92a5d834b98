"""Downloads of the public data, from a server on the loopback interface."""

import dataclasses
import hashlib
import io
import json
import zipfile

import pytest

from imagereward_core.errors import DownloadError
from imagereward_train.public import extract, unpack
from imagereward_train.tables import fetch, published
from tests.unit.hub_server import Hub


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server


def put_plain(hub, monkeypatch, name, content):
    """Serve a file that the table names by URL."""
    source = getattr(published, name)
    hub.put("THUDM/ImageReward", source.filename, content)
    changed = dataclasses.replace(
        source, url=f"{hub.url}/plain/{source.filename}", size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(published, name, changed)


def test_test_set_is_fetched_verified_and_unpacked_once(hub, monkeypatch, tmp_path):
    put_plain(hub, monkeypatch, "TEST_JSON", b"[]")
    hub.put(
        "THUDM/ImageReward", "test_images.zip", zipped({"test_images/a/1.webp": b"one", "test_images/a/2.webp": b"two"})
    )
    for _ in range(2):
        data, images = fetch.fetch_preference(tmp_path / "data")
        assert json.loads(data.read_text()) == []
        assert (images / "a/1.webp").read_bytes() == b"one" and (images / "a/2.webp").read_bytes() == b"two"
    assert len([request for request in hub.downloads() if request.path.startswith("/cdn")]) == 1
    assert not list((tmp_path / "data").glob("*.zip"))


def test_rankings_that_are_not_the_published_ones_are_refused(hub, monkeypatch, tmp_path):
    put_plain(hub, monkeypatch, "TEST_JSON", b"[]")
    monkeypatch.setattr(published, "TEST_JSON", dataclasses.replace(published.TEST_JSON, sha256="0" * 64))
    with pytest.raises(DownloadError):
        fetch.fetch_preference(tmp_path / "data")
    assert not (tmp_path / "data/test.json").exists()


def test_generations_of_chosen_models(hub, monkeypatch, tmp_path):
    put_plain(hub, monkeypatch, "PROMPTS_JSON", b'[{"id": "1", "prompt": "x"}]')
    hub.put("THUDM/ImageReward", "generations/sd1-4.zip", zipped({"sd1-4/1_0.png": b"png"}))
    hub.put("THUDM/ImageReward", "generations/versatile-diffusion.zip", zipped({"1_0.png": b"flat"}))
    _, folder = fetch.fetch_models(tmp_path, ["sd1-4", "vd"])
    assert not any("vd.zip" in request.path for request in hub.downloads())
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")) == [
        "sd1-4/1_0.png",
        "vd/1_0.png",
    ]


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt"])
def test_a_zip_that_reaches_outside_is_refused(hub, tmp_path, name):
    hub.put("THUDM/ImageReward", "generations/dalle2.zip", zipped({name: b"x"}))
    (tmp_path / "generations").mkdir()
    with pytest.raises(DownloadError, match="lies outside the folder"):
        unpack(published.generations(published.GENERATORS[2])[0], tmp_path, "generations/dalle2")
    assert not (tmp_path / "outside.txt").exists() and not (tmp_path / "generations/dalle2").exists()


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped({"a": b"hello" * 100})[:-40])
    with pytest.raises(DownloadError, match=r"x\.zip cannot be unpacked"):
        extract(tmp_path / "x.zip", tmp_path / "x")
