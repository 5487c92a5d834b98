"""Downloads against a server that answers as the hub does, and fails in the ways servers, networks and disks do."""

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from imagereward_core import download, hub, registry, weights
from imagereward_core.errors import DownloadError
from imagereward_core.registry import ModelInfo, Source
from tests.conftest import ROOT
from tests.unit.hub_server import COMMIT, Hub


def checkpoint(seed=0, size=100_000):
    buffer = io.BytesIO()
    torch.save({"w": torch.rand(size, generator=torch.Generator().manual_seed(seed))}, buffer)
    return buffer.getvalue()


CONTENT = checkpoint()  # about 400 KB, several chunks
SOURCE = Source("model.pt", repo="owner/name", about=len(CONTENT))


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The hub on the loopback interface, with the client allowed to reach it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "IMAGEREWARD_HOME", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr(hub, "DELAYS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "DELAYS", (0.0, 0.0, 0.0))
    forget_sessions()
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.put("owner/name", "model.pt", CONTENT)
        yield running
    forget_sessions()


def forget_sessions():
    """Older hub clients keep a session that was made while they were offline."""
    import huggingface_hub.utils

    for name in ("reset_sessions", "close_session"):
        getattr(huggingface_hub.utils, name, lambda: None)()


def files(folder):
    """What a user sees: no lock files."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_from_the_hub(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    steps = []
    path = weights.locate(SOURCE, download_root=tmp_path / "models", progress=lambda done, total: steps.append((done, total)))
    assert path == tmp_path / "models" / "model.pt" and path.read_bytes() == CONTENT
    assert files(path.parent) == ["model.pt"]
    assert steps == sorted(steps) and steps[-1] == (len(CONTENT), len(CONTENT)) and len(steps) > 3
    gets = [request for request in server.requests if request.method == "GET"]
    assert f"/{COMMIT}/" in gets[0].path  # the revision whose checksum was announced, not whatever main has become
    assert [request.token for request in gets] == ["Bearer hf_secret", ""]  # never sent on to where the bytes are
    asked = len(server.requests)
    assert weights.locate(SOURCE, download_root=tmp_path / "models") == path and len(server.requests) == asked


def test_where_downloads_go(server, tmp_path, monkeypatch):
    assert weights.locate(SOURCE).parent == tmp_path / "home" / ".cache" / "ImageReward"
    monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path / "env"))
    weights.default_root().mkdir()
    server.put("owner/name", "other.pt", CONTENT)
    other = replace(SOURCE, filename="other.pt", local="mine.pt")
    assert weights.locate(other) == tmp_path / "env" / "mine.pt"
    server.put("owner/name", "third.pt", CONTENT)
    assert weights.locate(replace(SOURCE, filename="third.pt"), models_dir=tmp_path / "host").parent == tmp_path / "host"


def test_small_files_are_checked_by_git_hash(server, tmp_path):
    server.put("owner/name", "config.json", b'{"a": 1}', small=True)
    source = replace(SOURCE, filename="config.json")
    assert hub.ask(source).digest == ("git-sha1", hashlib.sha1(b'blob 8\0{"a": 1}').hexdigest())
    assert weights.locate(source, download_root=tmp_path).read_bytes() == b'{"a": 1}'


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.faults.cuts = [200_000, 100_000]
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT
    starts = [int(request.range[6:-1] or 0) if request.range else 0 for request in server.downloads()]
    assert len(starts) == 3 and starts[0] == 0 and 100_000 < starts[1] <= 200_000 and starts[1] < starts[2] <= 300_000


def test_a_connection_that_keeps_breaking_is_an_error_and_the_next_call_goes_on(server, tmp_path):
    server.faults.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"broke off 4 times.*will not be asked for again.*To do it by hand, download http"):
        weights.locate(SOURCE, download_root=tmp_path)
    (part,) = files(tmp_path)
    assert part.startswith("model.pt.") and part.endswith(".part")
    server.faults.cuts, server.requests = [], []
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT
    assert server.downloads()[0].range.startswith("bytes=") and files(tmp_path) == ["model.pt"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.faults.cuts, server.faults.ignore_range = [200_000], True
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_version_is_not_continued(server, tmp_path):
    server.faults.cuts = [200_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        weights.locate(SOURCE, download_root=tmp_path)
    newer = checkpoint(seed=1)
    server.faults.cuts, server.requests = [], []
    server.put("owner/name", "model.pt", newer)
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == newer
    assert server.downloads()[0].range == "" and files(tmp_path) == ["model.pt"]


def test_a_damaged_part_costs_one_more_try(server, tmp_path):
    server.faults.cuts = [200_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        weights.locate(SOURCE, download_root=tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(b"x" * part.stat().st_size)
    server.faults.cuts = []
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "no such file"),
        (401, r"HF_TOKEN.*hf auth login"),
        (403, "Accept its terms at http://127.0.0.1:[0-9]+/owner/name,"),
        (503, "answers 503"),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_refusals(server, tmp_path, method, status, message):
    server.faults.status[method] = [status] * 10
    with pytest.raises(DownloadError, match=message) as caught:
        weights.locate(SOURCE, download_root=tmp_path)
    assert f"put it as model.pt into {tmp_path}" in str(caught.value)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_server_error_that_passes_is_sat_out(server, tmp_path, method):
    server.faults.status[method] = [503, 429]
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT


def test_a_file_that_is_not_on_the_hub(server, tmp_path):
    with pytest.raises(DownloadError, match=r"nothere\.pt answers 404"):
        weights.locate(replace(SOURCE, filename="nothere.pt"), download_root=tmp_path)


def test_no_server_at_all(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for source in (SOURCE, Source("model.pth", url="http://127.0.0.1:9/model.pth")):
        with pytest.raises(DownloadError, match=r"cannot be reached.*To do it by hand"):
            weights.locate(source, download_root=tmp_path)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"announced_sha256": "0" * 64}, "sha256 [0-9a-f]{64} where 0{64} was announced"),
        ({"announced_size": len(CONTENT) + 10}, "broke off"),
        ({"announced_size": len(CONTENT) - 10}, f"bytes where {len(CONTENT) - 10} were announced"),
        ({"page": b"<html>Please log in</html>"}, "web page instead of the file"),
    ],
)
def test_what_is_not_the_announced_file_is_never_kept(server, tmp_path, faults, message):
    for name, value in faults.items():
        setattr(server.faults, name, value)
    with pytest.raises(DownloadError, match=message):
        weights.locate(SOURCE, download_root=tmp_path)
    assert not (tmp_path / "model.pt").exists()


def test_a_failed_download_leaves_the_old_file(server, tmp_path):
    target = tmp_path / "model.pt"
    target.write_bytes(b"what was there")
    server.faults.announced_sha256 = "0" * 64
    with pytest.raises(DownloadError):
        download.download(hub.ask(SOURCE), target)
    assert target.read_bytes() == b"what was there"
    server.faults.announced_sha256 = ""
    download.download(hub.ask(SOURCE), target)
    assert target.read_bytes() == CONTENT


def test_no_room_is_seen_before_anything_is_asked_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imagereward_core.download.shutil.disk_usage", lambda _: type("usage", (), {"free": 300_000}))
    with pytest.raises(DownloadError, match=r"has 0\.00 GB free and 0\.07 GB are needed"):
        weights.locate(SOURCE, download_root=tmp_path)
    assert files(tmp_path) == []


def test_a_disk_that_fills_up(server, tmp_path, monkeypatch):
    written = download._write

    def full(file, chunk, part):
        if part.stat().st_size > 200_000:
            file = type("full", (), {"write": staticmethod(lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))})
        written(file, chunk, part)

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(DownloadError, match=r"the disk is full. What arrived is kept"):
        weights.locate(SOURCE, download_root=tmp_path)
    assert not (tmp_path / "model.pt").exists()
    monkeypatch.setattr(download, "_write", written)
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT
    assert int(server.downloads()[-1].range[6:-1]) > 200_000


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written to"):
        weights.locate(SOURCE, download_root=tmp_path / "file" / "models")


def test_cancelling_keeps_what_arrived(server, tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        if done > total // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        weights.locate(SOURCE, download_root=tmp_path, progress=cancel)
    assert not (tmp_path / "model.pt").exists()
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT
    assert int(server.downloads()[-1].range[6:-1]) > len(CONTENT) // 2


# --- plain web servers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_missing", [False, True])
def test_plain_url(server, tmp_path, head_missing):
    server.faults.cuts, server.faults.head_missing = [200_000], head_missing
    source = Source("BLIP.pth", url=f"{server.url}/plain/model.pt", sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT))
    assert weights.locate(source, download_root=tmp_path).read_bytes() == CONTENT
    assert server.downloads()[-1].range


@pytest.mark.parametrize(
    ("known", "message"),
    [({"sha256": "1" * 64}, "1{64} was announced"), ({"size": 100}, "where 100 were announced"), ({"url": "/plain/other.pt"}, "no such file")],
)
def test_plain_url_that_is_not_what_we_know(server, tmp_path, known, message):
    known = {"url": "/plain/model.pt", **known}
    with pytest.raises(DownloadError, match=message):
        weights.locate(Source("BLIP.pth", **{**known, "url": server.url + known["url"]}), download_root=tmp_path)
    assert files(tmp_path) == []


def test_a_web_page_of_the_wrong_type_is_seen_by_its_content(server, tmp_path):
    server.faults.page, server.faults.page_type, server.faults.head_missing = b"<!DOCTYPE html>" + b" " * 5000, "application/octet-stream", True
    with pytest.raises(DownloadError, match="is a web page"):
        weights.locate(Source("BLIP.pth", url=f"{server.url}/plain/model.pt"), download_root=tmp_path)
    assert files(tmp_path) == []


def test_google_announces_md5():
    assert download._google_md5("crc32c=n03x6A==,md5=XrY7u+Ae7tCTyyK7j1rNww==") == ("md5", "5eb63bbbe01eeed093cb22bb8f5acdc3")
    assert download._google_md5("crc32c=n03x6A==") is None


def test_digests_of_hello_world(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello world")
    assert download.file_digest(path, "md5") == "5eb63bbbe01eeed093cb22bb8f5acdc3"
    assert download.file_digest(path) == "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    assert download.file_digest(path, "git-sha1") == "95d09f2b10159347eece71399a7e2e907ea3df4f"  # git hash-object


# --- fetch -------------------------------------------------------------------------------------------------------------


def model(*sources):
    return ModelInfo("Test", "imagereward", tuple(sources), "Apache-2.0", "a model of this test")


def test_fetch_counts_all_files_together_and_converts(server, tmp_path):
    config = b'{"a": 1}'
    server.put("owner/name", "config.json", config, small=True)
    info = model(replace(SOURCE, about=1), replace(SOURCE, filename="config.json", about=2))
    steps = []
    paths = weights.fetch(info, download_root=tmp_path, progress=lambda done, total: steps.append((done, total)), convert="fp16")
    assert [path.name for path in paths] == ["model.fp16.safetensors", "config.json"]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (len(CONTENT) + len(config),) * 2
    assert weights.fetch(info, download_root=tmp_path) == [tmp_path / "model.pt", tmp_path / "config.json"]


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


# --- several processes -------------------------------------------------------------------------------------------------


def start(server, folder):
    code = (
        "import sys; from imagereward_core import weights; from imagereward_core.registry import Source;"
        "print(weights.locate(Source('model.pt', repo='owner/name'), download_root=sys.argv[1]))"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.url, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_download_once(server, tmp_path):
    import threading

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
    import threading

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
