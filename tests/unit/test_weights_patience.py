"""Servers that say nothing, drip, never end, or change their file half-way: downloads report, end, and never mix."""

import logging
import threading
import time

import pytest

from imagereward_cli import main as cli
from imagereward_core import exit_codes, weights
from imagereward_core.errors import DownloadError
from imagereward_core.registry import Source
from imagereward_core.weights import download, hub, waiting
from tests.unit.weights_samples import CONTENT, SOURCE, checkpoint, files


class Interrupted(Exception):
    pass


class Steps:
    """A progress that remembers its calls and, as the user's Interrupt does, raises at the n-th."""

    def __init__(self, stop_at=10**9):
        self.seen, self.stop_at = [], stop_at

    def __call__(self, done, total):
        self.seen.append((done, total))
        if len(self.seen) >= self.stop_at:
            raise Interrupted


@pytest.fixture
def plain(server):
    return Source("model.pt", url=f"{server.url}/plain/model.pt", about=len(CONTENT))


@pytest.mark.parametrize("where", ["hub", "plain"])
def test_interrupt_is_seen_while_a_server_is_silent(server, plain, tmp_path, where):
    server.faults.silent = threading.Event()
    steps = Steps(stop_at=3)
    with pytest.raises(Interrupted):
        weights.locate(SOURCE if where == "hub" else plain, download_root=tmp_path, progress=steps)
    assert len(server.requests) == 1  # nobody asked again: the first question was still open
    server.faults.silent.set()


def test_interrupt_is_seen_while_bytes_drip(server, tmp_path):
    server.faults.drip = 0.05
    steps = Steps(stop_at=8)
    with pytest.raises(Interrupted):
        weights.locate(SOURCE, download_root=tmp_path, progress=steps)
    assert steps.seen[-1][0] < 100


@pytest.mark.parametrize("fault", ["drip", "slow"])
def test_a_server_that_stalls_is_given_up_twice(server, tmp_path, monkeypatch, fault):
    """Bytes that come, but too few, are a stall as silence is."""
    monkeypatch.setattr(download, "STALL", 0.7)
    if fault == "drip":
        server.faults.drip = 0.02
    else:
        server.faults.slow = threading.Event()
    steps = Steps()
    with pytest.raises(DownloadError, match=r"broke off 2 times \(fewer than 64 KB came in 1 seconds\)"):
        weights.locate(SOURCE, download_root=tmp_path, progress=steps)
    assert len(server.downloads()) == 2 and len(steps.seen) >= 4
    if fault == "slow":
        server.faults.slow.set()
    server.faults.drip, server.faults.slow = 0.0, None
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT  # goes on from what arrived
    assert server.downloads()[-1].range


def test_a_question_without_an_answer_ends(server, tmp_path, monkeypatch):
    server.faults.silent = threading.Event()
    monkeypatch.setattr(hub, "LIMIT", 0.5)
    with pytest.raises(DownloadError, match="has not answered for"):
        weights.locate(SOURCE, download_root=tmp_path)
    server.faults.silent.set()


def test_a_file_without_an_end_is_cut_off(server, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LEAST", 3_000_000)
    server.faults.endless = True
    with pytest.raises(DownloadError, match=r"announces no size and has sent more than 0\.00 GB"):
        weights.locate(plain, download_root=tmp_path)
    assert files(tmp_path) == []


def test_a_file_that_changes_between_two_tries_is_not_mixed(server, plain, tmp_path, monkeypatch):
    """The second try names the version it has; the server, which has another by now, sends that whole."""
    newer = checkpoint(seed=1)
    assert len(newer) == len(CONTENT)
    server.faults.cuts = [200_000]

    def pause(seconds, tick):
        server.put("owner/name", "model.pt", newer)

    monkeypatch.setattr(waiting, "pause", pause)
    assert weights.locate(plain, download_root=tmp_path).read_bytes() == newer
    first, second = server.downloads()
    assert first.if_range == "" and second.if_range.startswith('"') and second.range


def test_what_the_hubs_storage_sends_is_named_too(server, tmp_path):
    server.faults.cuts = [200_000]
    assert weights.locate(SOURCE, download_root=tmp_path).read_bytes() == CONTENT
    assert server.downloads()[-1].if_range.startswith('"') and server.downloads()[-1].range


def test_a_good_server_gives_the_pieces_in_order():
    def work(put, stopped):
        for number in range(100):
            put(number)

    with waiting.Feed(work) as feed:
        assert list(feed.pieces(None, lambda piece: 1, 1, 5)) == list(range(100))


def test_a_pause_reports_and_can_be_ended():
    calls = []
    waiting.pause(0.5, lambda: calls.append(time.monotonic()))
    assert len(calls) >= 2

    def interrupt():
        raise Interrupted

    with pytest.raises(Interrupted):
        waiting.pause(60, interrupt)


# --- nobody there: one sentence, whoever asks -------------------------------------------------------


@pytest.fixture(params=["http://127.0.0.1:9", "http://127.0.0.1:9/with spaces\x01", "not an address"])
def nobody(request, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", request.param)


def test_an_unreachable_hub_is_one_sentence(nobody, tmp_path, capsys, monkeypatch):
    # the hub's client logs its tries to the stream of an earlier test, which is closed by now
    monkeypatch.setattr(logging, "raiseExceptions", False)
    commands = (
        ["fetch", "ImageReward-v1.0", "--download-root", str(tmp_path / "a")],
        ["dataset", "download", "--out", str(tmp_path / "b")],
    )
    for command in commands:
        assert cli.main(command) == exit_codes.MODEL
        error = capsys.readouterr().err.strip()
        assert "Traceback" not in error and error.startswith("imagereward: "), error
        assert len([line for line in error.splitlines() if "cannot be reached" in line]) == 1
        assert len(error.splitlines()) == 1 and len(error) < 900


@pytest.mark.parametrize("answer", [b"<html>", b"{", b"[1, 2]", b'{"error": 1}', b"\xff\xfe"])
def test_a_listing_that_is_nonsense_is_one_sentence(server, answer, tmp_path):
    from imagereward_train.download import download_imagerewarddb

    real = server.answer

    def nonsense(handler, body):
        if handler.path.startswith("/api/"):
            return server.send(handler, 200, {"Content-Type": "application/json"}, answer, body)
        return real(handler, body)

    server.answer = nonsense
    with pytest.raises(DownloadError):
        download_imagerewarddb(tmp_path)
