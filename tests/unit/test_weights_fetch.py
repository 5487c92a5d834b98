"""Plain URLs, whole models, and several processes at once, against the loopback server."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace

import pytest
import torch

from imagereward_core import registry, weights
from imagereward_core.errors import DownloadError
from imagereward_core.hashing import file_digest
from imagereward_core.registry import ModelInfo, Source
from imagereward_core.weights import download, hub
from imagereward_core.weights.checkpoint import read_state
from tests.conftest import ROOT
from tests.unit.weights_samples import CONTENT, SOURCE, files

# --- plain web servers ----------------------------------------------------------------------------


@pytest.mark.parametrize("head_missing", [False, True])
def test_plain_url(server, tmp_path, head_missing):
    server.faults.cuts, server.faults.head_missing = [200_000], head_missing
    source = Source(
        "BLIP.pth", url=f"{server.url}/plain/model.pt", sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT)
    )
    assert weights.locate(source, download_root=tmp_path).read_bytes() == CONTENT
    assert server.downloads()[-1].range


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"sha256": "1" * 64}, "1{64} was announced"),
        ({"size": 100}, "where 100 were announced"),
        ({"url": "/plain/other.pt"}, "no such file"),
    ],
)
def test_plain_url_that_is_not_what_we_know(server, tmp_path, known, message):
    known = {"url": "/plain/model.pt", **known}
    with pytest.raises(DownloadError, match=message):
        weights.locate(Source("BLIP.pth", **{**known, "url": server.url + known["url"]}), download_root=tmp_path)
    assert files(tmp_path) == []


def test_data_that_is_no_weights(server, tmp_path):
    """Benchmarks fetch their rankings and images the same way."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.png", b"x" * 1000)
    contents = {"images/a.zip": buffer.getvalue(), "rankings.json": b"[]", "notes.txt": b"text"}
    for name, content in contents.items():
        server.put("owner/name", name, content)
        assert weights.locate(Source(name, repo="owner/name"), download_root=tmp_path).read_bytes() == content
    server.put("owner/name", "b.zip", buffer.getvalue()[:500])
    with pytest.raises(DownloadError, match="truncated"):
        weights.locate(Source("b.zip", repo="owner/name"), download_root=tmp_path)


def test_a_web_page_of_the_wrong_type_is_seen_by_its_content(server, tmp_path):
    server.faults.page, server.faults.page_type, server.faults.head_missing = (
        b"<!DOCTYPE html>" + b" " * 5000,
        "application/octet-stream",
        True,
    )
    with pytest.raises(DownloadError, match="is a web page"):
        weights.locate(Source("BLIP.pth", url=f"{server.url}/plain/model.pt"), download_root=tmp_path)
    assert files(tmp_path) == []


def test_google_announces_md5():
    assert download._google_md5("crc32c=n03x6A==,md5=XrY7u+Ae7tCTyyK7j1rNww==") == (
        "md5",
        "5eb63bbbe01eeed093cb22bb8f5acdc3",
    )
    assert download._google_md5("crc32c=n03x6A==") is None


def test_digests_of_hello_world(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello world")
    assert file_digest(path, "md5") == "5eb63bbbe01eeed093cb22bb8f5acdc3"
    assert file_digest(path) == "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    assert file_digest(path, "git-sha1") == "95d09f2b10159347eece71399a7e2e907ea3df4f"  # git hash-object


# --- fetch ----------------------------------------------------------------------------------------


def model(*sources):
    return ModelInfo("Test", "imagereward", tuple(sources), "Apache-2.0", "a model of this test")


def test_fetch_counts_all_files_together_and_converts(server, tmp_path):
    config = b'{"a": 1}'
    server.put("owner/name", "config.json", config, small=True)
    info = model(replace(SOURCE, about=1), replace(SOURCE, filename="config.json", about=2))
    steps = []
    paths = weights.fetch(
        info, download_root=tmp_path, progress=lambda done, total: steps.append((done, total)), convert="fp16"
    )
    assert [path.name for path in paths] == ["model.fp16.safetensors", "config.json"]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (len(CONTENT) + len(config),) * 2
    assert weights.fetch(info, download_root=tmp_path) == [tmp_path / "model.pt", tmp_path / "config.json"]


def test_fetch_converts_what_is_left(server, tmp_path):
    info = model(SOURCE)
    (full,) = weights.fetch(info, download_root=tmp_path, convert="fp32")
    (tmp_path / "model.pt").unlink()
    server.requests = []
    assert weights.fetch(info, download_root=tmp_path, convert="fp32") == [full]
    (half,) = weights.fetch(info, download_root=tmp_path, convert="fp16")
    full.unlink()
    assert (
        weights.fetch(info, download_root=tmp_path, convert="fp16")
        == [half]
        == weights.fetch(info, download_root=tmp_path)
    )
    assert half.name == "model.fp16.safetensors" and server.requests == []
    assert read_state(half)[0]["w"].dtype == torch.float16


def test_fetch_replaces_a_damaged_file_once_the_new_one_is_verified(server, tmp_path):
    target = tmp_path / "model.pt"
    target.write_bytes(CONTENT[:-1000])
    server.faults.status["GET"] = [404]
    with pytest.raises(DownloadError):
        weights.fetch(model(SOURCE), download_root=tmp_path)
    assert target.read_bytes() == CONTENT[:-1000]
    assert weights.fetch(model(SOURCE), download_root=tmp_path) == [target]
    assert target.read_bytes() == CONTENT


def test_the_bar_is_for_terminals(server, tmp_path, capsys):
    weights.locate(SOURCE, download_root=tmp_path)
    assert capsys.readouterr().err == ""


def test_every_source_of_the_registry_has_one_address():
    for info in registry.MODELS:
        for source in info.sources:
            assert bool(source.repo) != bool(source.url) and hub.address(source).startswith("https://")


# --- several processes ----------------------------------------------------------------------------


def start(server, folder):
    code = (
        "import sys; from imagereward_core import weights; from imagereward_core.registry import Source;"
        "print(weights.locate(Source('model.pt', repo='owner/name'), download_root=sys.argv[1]))"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.url, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_download_once(server, tmp_path):
    server.faults.slow = threading.Event()
    first = start(server, tmp_path)
    assert server.halfway.wait(60)
    second = start(server, tmp_path)
    until(lambda: sum(request.method == "HEAD" for request in server.requests) == 2)
    server.faults.slow.set()
    for process in (first, second):
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert out.strip() == str(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT and len(server.downloads()) == 1


def test_a_killed_process_leaves_something_to_go_on_from(server, tmp_path):
    server.faults.slow = threading.Event()
    process = start(server, tmp_path)
    assert server.halfway.wait(60)
    until(lambda: sum(path.stat().st_size for path in tmp_path.glob("*.part")) > 100_000)
    process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    process.communicate(timeout=60)
    server.faults.slow.set()
    server.faults.slow = None
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT
    assert int(server.downloads()[-1].range[6:-1]) > 100_000
