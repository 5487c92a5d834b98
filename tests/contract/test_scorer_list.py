"""The lists of scorers without weights: order, sizes, the default that falls, and the download with its routes."""

import html
import json
import re
import threading
import time

import pytest

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")
DOWNLOADS = "/imagereward/v1/downloads"


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    """No weights but those that a test puts into the models folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("imagereward_core.weights.hub.cached", lambda source: None)


@pytest.fixture
def folder(host, nothing_here):
    folder = host.part("host").models_dir()
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def scorers(host, folder):
    return host.part("scorer_list")


def test_without_weights_every_entry_has_its_size(scorers):
    sizes = scorers.sizes()
    assert sizes["ImageReward-v1.0"] == "1.8 GB"
    assert sizes["Aesthetic"] == "1.7 GB"  # a head of 4 MB on CLIP
    assert all(sizes.values())


def test_what_is_here_comes_first_and_parts_are_counted(scorers, folder):
    (folder / "mine.safetensors").write_bytes(b"x")
    (folder / "clip-vit-large-patch14.safetensors").write_bytes(b"x")
    assert scorers.choices()[:3] == ["CLIP", "mine.safetensors", "ImageReward-v1.0"]
    sizes = scorers.sizes()
    assert (sizes["CLIP"], sizes["mine.safetensors"], sizes["Aesthetic"]) == ("", "", "4 MB")
    assert set(sizes) == set(scorers.available(folder))
    text = scorers.status_html("CLIP")
    assert json.loads(html.unescape(re.search("data-sizes='(.*?)'", text)[1])) == sizes and "Download" not in text


def test_the_default_falls_to_one_that_is_here_and_says_so(scorers, folder):
    assert scorers.preferred("ImageReward-v1.0") == ("ImageReward-v1.0", "")  # nothing is here: it stays
    (folder / "clip-vit-large-patch14.safetensors").write_bytes(b"x")
    assert scorers.preferred("ImageReward-v1.0") == (
        "CLIP",
        "ImageReward-v1.0 is not on this machine (1.8 GB to download), so CLIP scores.",
    )
    (folder / "mine.safetensors").write_bytes(b"x")
    assert scorers.preferred("ImageReward-v1.0")[0] == "mine.safetensors"
    (folder / "ImageReward.pt").write_bytes(b"x")
    assert scorers.preferred("ImageReward-v1.0") == ("ImageReward-v1.0", "")


def test_a_default_whose_file_is_gone_falls_too(scorers, folder):
    assert scorers.preferred("gone.safetensors") == ("gone.safetensors", "")
    (folder / "mine.safetensors").write_bytes(b"x")
    assert scorers.preferred("gone.safetensors") == (
        "mine.safetensors",
        "gone.safetensors is not on this machine (its file is gone), so mine.safetensors scores.",
    )


def widgets(host, title="ImageReward"):
    script = next(s for s in host.runners["txt2img"].scripts if s.title() == title)
    return {widget.elem_id: widget for widget in script.ui(False)}


def test_the_accordions_list_begins_with_the_default_and_is_not_frozen(host, folder):
    (folder / "mine.safetensors").write_bytes(b"x")
    chosen = widgets(host)["script_txt2img_imagereward_scorer"]
    assert chosen.value == "mine.safetensors" and chosen.kwargs["choices"][0] == "mine.safetensors"
    assert chosen.do_not_save_to_config  # or the host's ui-config.json would keep what was here on the first day
    status = next(c for c in reversed(host.gradio.CREATED) if c.elem_id == "script_txt2img_imagereward_scorer_status")
    assert "so mine.safetensors scores." in status.value
    (folder / "ImageReward.pt").write_bytes(b"x")
    usual = widgets(host)["script_txt2img_imagereward_scorer"]  # which the host keeps, as it always did
    assert usual.value == "ImageReward-v1.0" and not usual.do_not_save_to_config
    ((event, said),) = chosen.events
    assert event == "change" and "PickScore is not on this machine: 3.9 GB to download" in said("PickScore")
    assert "is not on this machine" not in said("mine.safetensors")


def test_the_dropdown_script_says_that_its_default_fell(host, folder):
    (folder / "mine.safetensors").write_bytes(b"x")
    title = "ImageReward - generate human preference scores"
    processed = host.txt2img(script=title, script_args=[False, 0], seed=148)
    assert host.errors == [] and "so mine.safetensors scores." in processed.comments
    again = host.txt2img(accordion={"scorer": "CLIP"}, seed=148)
    assert "so mine.safetensors scores." not in again.comments


def test_names_of_files_are_text(scorers, folder):
    text = scorers.status_html('<img src=x onerror="1">.safetensors', "<b>why</b>")
    assert "<img" not in text and "<b>" not in text


# --- the download -----------------------------------------------------------------------------------


class Server:
    """Stands in for the network: sends a piece each time it is told to."""

    def __init__(self):
        self.go, self.asked, self.failure = threading.Semaphore(0), [], None

    def __call__(self, name, progress):
        self.asked.append(name)
        for done in (1_000_000, 2_000_000, 4_000_000):
            progress(done, 4_000_000)
            while not self.go.acquire(timeout=0.02):
                progress(done, 4_000_000)
        if self.failure:
            raise self.failure


@pytest.fixture
def server(host, folder):
    server = Server()
    host.part("downloads").downloads.fetch = server
    yield server
    server.go.release(9)
    wait(lambda: not host.part("downloads").downloads.running)


@pytest.fixture
def client(host):
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    return testclient.TestClient(app, headers={"X-ImageReward-Token": host.part("guard").TOKEN})


def wait(until):
    while not until():
        time.sleep(0.01)


def state(client):
    return client.get(DOWNLOADS).json()


def test_a_download_tells_how_far_it_is_and_ends(client, server):
    assert state(client) == {"scorer": "", "done": 0, "total": None, "outcome": "", "error": "", "running": False}
    assert client.post(DOWNLOADS, json={"scorer": "PickScore"}).json()["running"]
    wait(lambda: state(client)["done"] == 1_000_000)
    server.go.release()
    wait(lambda: state(client)["done"] == 2_000_000)
    assert state(client)["total"] == 4_000_000
    assert client.post(DOWNLOADS, json={"scorer": "PickScore"}).status_code == 200  # the same once more: it goes on
    refused = client.post(DOWNLOADS, json={"scorer": "MPS"})
    assert refused.status_code == 409 and "PickScore is being downloaded" in refused.json()["detail"]
    server.go.release(2)
    wait(lambda: not state(client)["running"])
    assert state(client)["outcome"] == "done" and server.asked == ["PickScore"]


def test_interrupt_ends_it_and_a_later_try_may_start(client, server):
    client.post(DOWNLOADS, json={"scorer": "PickScore"})
    client.post(f"{DOWNLOADS}/interrupt", json={})
    wait(lambda: not state(client)["running"])
    assert state(client)["outcome"] == "interrupted" and state(client)["error"] == ""
    client.post(DOWNLOADS, json={"scorer": "MPS"})
    server.go.release(3)
    wait(lambda: not state(client)["running"])
    assert state(client)["outcome"] == "done" and server.asked[-1] == "MPS"


def test_a_failure_is_told(client, server):
    server.failure = RuntimeError("the disk is full")
    server.go.release(3)
    client.post(DOWNLOADS, json={"scorer": "PickScore"})
    wait(lambda: not state(client)["running"])
    assert (state(client)["outcome"], state(client)["error"]) == ("failed", "the disk is full")


def test_only_our_page_and_only_known_scorers(client, server):
    assert client.post(DOWNLOADS, json={"scorer": "../etc"}).status_code == 404
    stranger = testclient.TestClient(client.app)
    assert stranger.post(DOWNLOADS, json={"scorer": "PickScore"}).status_code == 401
    assert stranger.get(DOWNLOADS).status_code == 401 and server.asked == []


def test_a_page_opened_during_a_download_follows_it(client, server, host):
    client.post(DOWNLOADS, json={"scorer": "PickScore"})
    shown = host.part("scorer_list").status_html
    assert "data-running='1'" in shown("PickScore") and "data-running='0'" in shown("MPS")
    token = html.unescape(re.search("data-token='(.*?)'", shown("MPS"))[1])
    assert token == host.part("guard").TOKEN


def test_the_real_one_brings_every_file_into_the_models_folder(host, folder, monkeypatch):
    from imagereward_core import registry, weights

    asked = []
    monkeypatch.setattr(weights, "fetch", lambda info, **more: asked.append((info, more["models_dir"])))
    host.part("downloads").fetch("Aesthetic", lambda done, total: None)
    assert asked == [(registry.get("Aesthetic"), folder)]
