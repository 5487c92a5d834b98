"""Files that were made to hurt, other writers, and what a file has beside its content."""

import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import pytest
from PIL import Image

from imagereward_core.errors import MetadataError
from imagereward_core.locks import lock_for
from imagereward_core.metadata import NoPrompt, prompt_of, read_infotext, read_score, write_score
from imagereward_core.metadata import writing as writing_module
from imagereward_core.metadata.files import read_image
from imagereward_core.metadata.formats import HEAD, read_text, read_texts
from imagereward_core.metadata.infotext import StoredScore
from imagereward_core.metadata.limits import LARGEST_CAPTION, LARGEST_FILE, LARGEST_TEXT, MOST_PARTS
from tests.conftest import ROOT
from tests.unit.program_files import INFOTEXT, PROMPT, chunk, insert, picture, png

SCORE = StoredScore(0.5, "m", PROMPT)
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
POSIX = pytest.mark.skipif(os.name != "posix", reason="files of this kind are POSIX's")


# --- small files that announce much ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_compressed_texts_are_limited_together(tmp_path, kind):
    packed = zlib.compress(bytes(LARGEST_TEXT // 8), 9)
    head = {"zTXt": b"%s\0\0", "iTXt": b"%s\0\1\0\0\0"}[kind]
    names = (b"parameters", b"Description", b"Comment", b"workflow") * 3
    path = insert(png(tmp_path / "x.png"), *(chunk(kind.encode(), head % name + packed) for name in names))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(MetadataError, match=r"x\.png.*more than 64 MiB"):
            prompt_of(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * LARGEST_TEXT
    finally:
        tracemalloc.stop()


def test_texts_that_nobody_reads_are_not_unfolded(tmp_path):
    bomb = chunk(b"zTXt", b"a keyword of somebody's\0\0" + zlib.compress(bytes(2 * LARGEST_TEXT), 9))
    assert prompt_of(insert(png(tmp_path / "x.png", {"parameters": INFOTEXT}), bomb)).text == PROMPT


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_an_avif_table_of_pieces_without_size(tmp_path):
    """Fields of no bytes: every item of six bytes announces 65,535 pieces."""
    items = struct.pack(">HHH", 1, 0, 0xFFFF) * 200
    tables = box(b"iinf", bytes(6)) + box(b"iloc", bytes(4) + struct.pack(">HH", 0, 200) + items)
    path = tmp_path / "x.avif"
    path.write_bytes(box(b"ftyp", b"avif\0\0\0\0avif") + box(b"meta", bytes(4) + tables))
    with pytest.raises(MetadataError, match=r"x\.avif.*pieces of items"):
        prompt_of(path)
    with pytest.raises(MetadataError, match="pieces of items"):
        write_score(path, SCORE)


@pytest.mark.parametrize(
    "data",
    [
        PNG_HEAD + chunk(b"junk", b"") * (MOST_PARTS + 1),
        b"\xff\xd8" + b"\xff\xec\0\2" * (MOST_PARTS + 1),
        b"RIFF" + struct.pack("<I", 4 + 8 * (MOST_PARTS + 1)) + b"WEBP" + b"junk\0\0\0\0" * (MOST_PARTS + 1),
        b"GIF89a" + bytes(7) + b"\x21\xf9\0" * (MOST_PARTS + 1),
        box(b"ftyp", b"avif\0\0\0\0avif") + box(b"free", b"") * (MOST_PARTS + 1),
    ],
    ids=["png", "jpg", "webp", "gif", "avif"],
)
def test_files_of_nothing_but_parts(data):
    with pytest.raises(MetadataError, match=f"more than {MOST_PARTS}"):
        read_texts(data)


def test_filled_up_jpeg_markers_are_skipped_at_once():
    buffer = b"\xff\xd8" + b"\xff" * (8 << 20) + b"\xda\0\2"
    assert read_text(buffer) is None


def test_large_files_are_not_read_whole(tmp_path):
    path = tmp_path / "x.png"
    for head in (b"something else", PNG_HEAD):
        with open(path, "wb") as file:  # a file with a hole: no byte of it lies on the disk
            file.write(head)
            file.truncate(2 << 30)
        if head == PNG_HEAD:
            with pytest.raises(MetadataError, match=rf"x\.png: 2048 MiB is more than the {LARGEST_FILE >> 20} MiB"):
                prompt_of(path)
        else:
            assert len(read_image(path)) == HEAD and prompt_of(path) == NoPrompt()
    picture().save(path)
    path.with_suffix(".txt").write_bytes(b"x" * (LARGEST_CAPTION + 1))
    with pytest.raises(MetadataError, match=r"x\.txt is larger than 4 MiB"):
        prompt_of(path)


@POSIX
def test_pipes_and_devices_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "x.png")  # opening it would wait for ever
    (tmp_path / "y.png").symlink_to("/dev/zero")
    for name in ("x.png", "y.png"):
        for function in (prompt_of, read_infotext, read_score):
            with pytest.raises(MetadataError, match=rf"{name}.*no file but a pipe, a socket or a device"):
                function(tmp_path / name)
        with pytest.raises(MetadataError, match="pipe"):
            write_score(tmp_path / name, SCORE)
    path = png(tmp_path / "z.png")
    os.mkfifo(path.with_suffix(".txt"))
    assert prompt_of(path) == NoPrompt()


@pytest.mark.parametrize("name", ["a\0b.png", "half \ud800 pair.png", "", "x" * 5000 + ".png"])
def test_names_that_no_file_can_have(name):
    for function in (prompt_of, read_infotext, read_score):
        with pytest.raises(MetadataError):
            function(name)
    with pytest.raises(MetadataError):
        write_score(name, SCORE)
    with pytest.raises(MetadataError):
        prompt_of(name, caption_first=True)


# --- several writers ------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from imagereward_core.metadata import write_score
from imagereward_core.metadata.infotext import StoredScore
name, folder = sys.argv[1:]
paths = sorted(path for path in Path(folder).iterdir() if path.name[0] != ".")
for number in range(20):
    for path in paths:
        write_score(path, StoredScore(number / 4, name, "a cat", f"{name}{number} score"))
        print(path.name, number, flush=True)
"""


def test_two_writers_never_lose_a_score(tmp_path):
    """800 acknowledged writes into the same 20 images by two processes."""
    for number in range(20):
        picture().save(tmp_path / f"{number:02}.{('png', 'jpg', 'webp')[number % 3]}")
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*command, name, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    acknowledged = [line.split() for writer in writers for line in writer.communicate()[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0] and len(acknowledged) == 800
    kept = [
        read_score(tmp_path / file, f"{name}{number} score")
        == StoredScore(number / 4, name, "a cat", f"{name}{number} score")
        for file in sorted(os.listdir(tmp_path))
        for name in "ab"
        for number in range(20)
    ]
    assert len(kept) == 800 and all(kept)


def test_a_writer_that_waits_too_long_says_so(tmp_path, monkeypatch):
    path = png(tmp_path / "x.png")
    monkeypatch.setattr(writing_module, "PATIENCE", 0.05)
    with lock_for(path), pytest.raises(MetadataError, match="being written by another process"):
        write_score(path, SCORE)
    assert read_score(path) is None


def test_a_change_that_hides_its_time_and_size_is_seen(tmp_path, monkeypatch):
    """As our own writes do, which give the old time back."""
    path = png(tmp_path / "x.png", {"parameters": INFOTEXT})
    before, other = path.stat(), path.read_bytes().replace(b"blurry", b"ugly!!")
    real = os.fsync

    def change(handle):
        path.write_bytes(other)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        real(handle)

    monkeypatch.setattr(os, "fsync", change)
    with pytest.raises(MetadataError, match="changed by another program"):
        write_score(path, SCORE)
    assert path.read_bytes() == other


# --- what a file has beside its content -----------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path):
    path = png(tmp_path / "x.png")
    os.chown(path, 1234, 2345)
    write_score(path, SCORE)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345) and read_score(path).value == 0.5


@POSIX
def test_an_owner_that_cannot_be_kept_is_named(tmp_path, monkeypatch, caplog):
    path = png(tmp_path / "x.png")

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    monkeypatch.setattr(writing_module, "_identity", lambda _: (0,))
    monkeypatch.setattr(
        writing_module, "read_image_as_it_is", lambda target: (target.read_bytes(), _Owned(target.stat()))
    )
    write_score(path, SCORE)
    assert "its owner could not be kept (Operation not permitted)" in caplog.text


class _Owned:
    """A file's state with another owner."""

    def __init__(self, state):
        self._state, self.st_uid = state, state.st_uid + 1

    def __getattr__(self, name):
        return getattr(self._state, name)


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes are Linux'")
def test_extended_attributes_stay(tmp_path):
    path = png(tmp_path / "x.png")
    try:
        os.setxattr(path, "user.rating", b"5")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    write_score(path, SCORE)
    assert os.getxattr(path, "user.rating") == b"5" and read_score(path).value == 0.5


@POSIX
def test_hard_links_are_not_parted(tmp_path):
    path = png(tmp_path / "x.png")
    before = path.read_bytes()
    os.link(path, tmp_path / "y.png")
    with pytest.raises(MetadataError, match=r"x\.png has 2 names \(hard links\)"):
        write_score(path, SCORE)
    assert path.read_bytes() == before and path.stat().st_nlink == 2


def test_leftovers_of_a_killed_writer_go_with_the_next_write(tmp_path):
    path = png(tmp_path / "x.png")
    leftover = tmp_path / ".imagereward-99999999-0123abcd.tmp"
    leftover.write_bytes(b"half an image")
    os.utime(leftover, (1, 1))
    write_score(path, SCORE)
    assert sorted(os.listdir(tmp_path)) == ["x.png"]
    with Image.open(path) as image:
        assert image.size == picture().size
