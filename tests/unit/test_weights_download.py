"""Downloads against a server that answers as the hub does, and fails in the ways servers, networks and disks do."""

import errno
import hashlib
from dataclasses import replace

import pytest

from imagereward_core import weights
from imagereward_core.errors import DownloadError
from imagereward_core.registry import Source
from imagereward_core.weights import download, hub
from tests.unit.hub_server import COMMIT
from tests.unit.weights_samples import CONTENT, SOURCE, checkpoint, files


def test_from_the_hub(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    steps = []
    path = weights.locate(
        SOURCE, download_root=tmp_path / "models", progress=lambda done, total: steps.append((done, total))
    )
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
    assert (
        weights.locate(replace(SOURCE, filename="third.pt"), models_dir=tmp_path / "host").parent == tmp_path / "host"
    )


def test_a_repository_that_was_renamed(server, tmp_path):
    server.renamed["former/name"] = "owner/name"
    assert weights.locate(replace(SOURCE, repo="former/name"), download_root=tmp_path).read_bytes() == CONTENT


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
    with pytest.raises(
        DownloadError, match=r"broke off 4 times.*will not be asked for again.*To do it by hand, download http"
    ):
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
    monkeypatch.setattr(
        "imagereward_core.weights.download.shutil.disk_usage", lambda _: type("usage", (), {"free": 300_000})
    )
    with pytest.raises(DownloadError, match=r"has 0\.00 GB free and 0\.07 GB are needed"):
        weights.locate(SOURCE, download_root=tmp_path)
    assert files(tmp_path) == []


def test_a_disk_that_fills_up(server, tmp_path, monkeypatch):
    write = download._write

    def full(file, chunk):
        if file.tell() > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, chunk)

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(DownloadError, match="the disk is full; what arrived is kept"):
        weights.locate(SOURCE, download_root=tmp_path)
    assert not (tmp_path / "model.pt").exists()
    monkeypatch.setattr(download, "_write", write)
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
