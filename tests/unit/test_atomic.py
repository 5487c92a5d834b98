"""Files replaced whole, their leftovers, and digests."""

import json
import os
import subprocess
import sys

import pytest

from imagereward_core import atomic
from imagereward_core.hashing import file_digest, tensors_digest
from imagereward_core.locks import lock_for


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    atomic.write_json(target, {"a": "é"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(ZeroDivisionError), atomic.replacing(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.json"] and json.loads(target.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(ValueError):
        atomic.write_json(target, float("nan"))


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_new_file_has_the_permissions_of_its_siblings(tmp_path):
    old = os.umask(0o022)
    try:
        atomic.write_text(tmp_path / "a", "x", durable=True)
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    atomic.write_text(tmp_path / "a", "x", mode=0o600)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    code = (
        "import os, sys, pathlib; from imagereward_core import atomic\n"
        "with atomic.replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=False, cwd=os.getcwd())
    assert len(names(tmp_path)) == 1
    mine = tmp_path / f".imagereward-{os.getpid()}-00000000.tmp"  # this process still runs: it may be writing
    mine.write_text("x")
    atomic._tidied.clear()
    atomic.write_text(tmp_path / "b", "x")
    assert names(tmp_path) == sorted([mine.name, "b"] if os.name == "posix" else names(tmp_path))


def test_a_folder_takes_anothers_place(tmp_path):
    target = tmp_path / "run"
    for text in ("one", "two"):
        with atomic.replacing_folder(target) as temporary:
            (temporary / "f").write_text(text)
    with pytest.raises(ZeroDivisionError), atomic.replacing_folder(target):
        raise ZeroDivisionError
    assert names(tmp_path) == ["run"] and (target / "f").read_text() == "two"


def test_a_reader_on_windows_is_waited_for(tmp_path, monkeypatch):
    real, calls = os.replace, []

    def busy(source, target):
        calls.append(target)
        if len(calls) < 3:
            raise PermissionError(13, "in use")
        real(source, target)

    monkeypatch.setattr(atomic, "PAUSE", 0)
    monkeypatch.setattr(atomic.os, "replace", busy)
    with pytest.raises(PermissionError):
        atomic.write_text(tmp_path / "a", "x")
    monkeypatch.setattr(atomic.os, "name", "nt")
    (tmp_path / "s").write_text("x")
    atomic.replace(tmp_path / "s", tmp_path / "a")
    assert len(calls) == 3 and (tmp_path / "a").read_text() == "x"


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"hello world")
    assert file_digest(tmp_path / "a", "md5") == "5eb63bbbe01eeed093cb22bb8f5acdc3"


def test_digest_of_tensors_hashes_names_and_bytes_in_the_order_of_names():
    import hashlib

    import torch

    b, a = torch.tensor(1.5), torch.arange(6, dtype=torch.int16).reshape(2, 3).T
    raw = a.contiguous().numpy().tobytes(), b.numpy().tobytes()
    assert tensors_digest({"b": b, "a": a}) == hashlib.sha256(b"a" + raw[0] + b"b" + raw[1]).hexdigest()
    assert tensors_digest({"a": a}, start="{}") == hashlib.sha256(b"{}a" + raw[0]).hexdigest()
    described = b"a (3, 2) torch.int16" + raw[0]
    assert tensors_digest({"a": a}, shapes=True) == hashlib.sha256(described).hexdigest()
    assert len(tensors_digest({"half": torch.ones(2, dtype=torch.bfloat16)})) == 64  # numpy has no bfloat16


def test_one_lock_by_every_name(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to("a")
    assert lock_for(tmp_path / "link").lock_file == lock_for(tmp_path / "a").lock_file
    assert lock_for(tmp_path / "b").lock_file != lock_for(tmp_path / "a").lock_file
    assert names(tmp_path) == ["a", "link"]
