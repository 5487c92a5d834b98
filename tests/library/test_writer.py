"""Remembering in the background, through every fault: real processes, real SQLite."""

import logging
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from imagereward_core.errors import ImageError, LibraryError
from imagereward_core.library import (
    Features,
    Made,
    Record,
    Recorder,
    Score,
    delete_library,
    find,
    open_library,
    remember_now,
)

from .conftest import infotext, picture
from .test_store import ROOT, as_nobody, reachable  # noqa: F401 - a fixture


def record(path, score=0.5):
    return Record(path, scores=(Score("IR", score, "aa"),), features=(Features("IR", {"image": np.ones(8)}, "aa"),))


@pytest.fixture
def recorder(place):
    said = []
    made = Recorder(place, say=said.append)
    made.said = said
    yield made
    made.close()


def paths_in(place):
    with open_library(place) as library:
        assert library.query("PRAGMA integrity_check") == [("ok",)]
        return {found.path for found in find.newest(library, limit=None)}


def test_what_is_put_in_is_written(recorder, place, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed, infotext(f"fox {seed}")) for seed in range(5)]
    assert all(recorder.remember(record(path)) for path in paths)
    assert recorder.flush(60) and recorder.written == 5 and recorder.trouble == ""
    assert paths_in(place) == set(map(str, paths))
    with open_library(place) as library:
        assert library.query("SELECT COUNT(*) FROM features") == [(5,)]
        assert {found.made.prompt for found in find.newest(library)} == {f"fox {seed}" for seed in range(5)}
    assert recorder.said == []


def test_the_jobs_thread_waits_for_nothing(recorder, place, tmp_path):
    """Another process holds the library's lock: remembering goes on at once, writing when the lock is free."""
    path = picture(tmp_path / "a.png", 1)
    open_library(place).close()
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert recorder.remember(record(path)) and not recorder.flush(0.3) and recorder.written == 0
    other.execute("ROLLBACK")
    other.close()
    assert recorder.flush(60) and recorder.written == 1


def test_a_picture_that_is_gone_stops_nothing(recorder, place, tmp_path):
    good = picture(tmp_path / "a.png", 1)
    recorder.remember(record(tmp_path / "never.png"))
    recorder.remember(record(good))
    assert recorder.flush(60) and paths_in(place) == {str(good)} and recorder.said == []


def test_a_record_that_cannot_be_kept_stops_nothing(recorder, place, tmp_path):
    good = picture(tmp_path / "a.png", 1)
    recorder.remember(Record(good, scores=(Score("IR", None),)))
    recorder.remember(record(good))
    assert recorder.flush(60) and paths_in(place) == {str(good)}
    assert len(recorder.said) == 1 and "could not be remembered" in recorder.said[0]


def test_closing_writes_what_waits(place, tmp_path):
    recorder = Recorder(place)
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    for path in paths:
        recorder.remember(record(path))
    recorder.close(60)
    assert recorder.written == 4 and not recorder.remember(record(paths[0])) and recorder.flush(1)
    assert paths_in(place) == set(map(str, paths))


def test_too_many_are_dropped_and_it_is_said_once(place, tmp_path):
    said = []
    open_library(place).close()
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    recorder = Recorder(place, say=said.append, limit=3)
    path = picture(tmp_path / "a.png", 1)
    taken = [recorder.remember(record(path)) for _ in range(20)]
    other.execute("ROLLBACK")
    other.close()
    recorder.close(60)
    assert 3 <= sum(taken) <= 5 and recorder.written == sum(taken)
    assert len(said) == 1 and "too slow" in said[0]


def test_after_delete_it_begins_anew(recorder, place, tmp_path):
    first, second = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    recorder.remember(record(first))
    recorder.flush(60)
    delete_library(place)
    recorder.remember(record(second))
    assert recorder.flush(60) and paths_in(place) == {str(second)} and recorder.said == []


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let an open file be removed")
def test_another_process_deletes_it(recorder, place, tmp_path):
    first, second = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    recorder.remember(record(first))
    recorder.flush(60)
    code = "import sys; from imagereward_core.library import delete_library; delete_library(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, place], check=True, cwd=ROOT)
    recorder.remember(record(second))
    assert recorder.flush(60) and paths_in(place) == {str(second)}


def test_forgetting_drops_what_waits_and_closes_first(recorder, place, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    recorder.remember(record(paths[0]))
    recorder.flush(60)
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for path in paths[1:3]:
        recorder.remember(record(path))
    while recorder._queue.qsize() > 1 or recorder.flush(0.5):  # until the thread waits for the lock
        pass
    with pytest.raises(LibraryError, match="will be deleted as soon as"):
        recorder.forget(0.05)
    other.execute("ROLLBACK")
    other.close()
    assert recorder.flush(60) and not list(tmp_path.glob("library.sqlite*"))
    recorder.remember(record(paths[3]))
    assert recorder.flush(60) and paths_in(place) == {str(paths[3])} and recorder.said == []


def test_forgetting_before_anything_was_written(recorder, place):
    recorder.forget()
    open_library(place).close()
    recorder.forget()
    assert not place.exists() and recorder._thread is None


def test_looking_comes_in_turn_and_makes_no_file(recorder, place, tmp_path, caplog):
    seen = []

    def count(library):
        seen.extend(library.query("SELECT COUNT(*) FROM images"))

    recorder.look(count)
    assert recorder.flush(60) and seen == [] and not place.exists()
    recorder.remember(record(picture(tmp_path / "a.png", 1)))
    recorder.look(count)
    with caplog.at_level(logging.WARNING, "imagereward"):
        recorder.look(lambda library: 1 / 0)
        recorder.look(count)
        assert recorder.flush(60) and seen == [(1,), (1,)]
    assert "division by zero" in caplog.text


def test_a_record_of_a_file_that_was_overwritten(place, tmp_path):
    path = picture(tmp_path / "a.png", 1, infotext("fox"))
    stamp = (path.stat().st_size, path.stat().st_mtime_ns)
    text = infotext("fox")
    with open_library(place) as library:
        remember_now(library, Record(path, (Score("IR", 0.5),), infotext=text, stamp=stamp))
        os.utime(path, ns=(1, 1))
        remember_now(library, Record(path, (Score("IR", 0.6),), infotext=text, stamp=stamp))  # says the same
        picture(path, 2, infotext("a wolf"))
        for told in (text, None):
            with pytest.raises(ImageError, match="overwritten"):
                remember_now(library, Record(path, (Score("IR", 0.7),), infotext=told, stamp=stamp))
        (found,) = find.newest(library)
    assert found.scores == {"IR": 0.6} and found.made.prompt == "fox"


def test_an_infotext_with_what_it_leaves_open(place, tmp_path):
    path = picture(tmp_path / "a.png", 1)  # as with the host's setting to write none into files
    made = Made(prompt="never", sampler="DDIM", checkpoint="jugg", loras=(("x", 1.0),), program="fake")
    text = "a fox, <lora:fur:0.5>\nSteps: 20, Sampler: Euler a, Seed: 7, ImageReward: 0.1000"
    with open_library(place) as library:
        remember_now(library, Record(path, infotext=text, made=made))
        (found,) = find.newest(library)
    assert found.made == Made(
        "a fox, <lora:fur:0.5>", None, 7, "Euler a", 20, None, "jugg", None, (("fur", 0.5),), "fake"
    )
    assert found.scores == {}  # those that count are given


def test_damage_is_set_aside_and_the_picture_kept(recorder, place, tmp_path, caplog):
    place.write_bytes(b"what is this" * 500)
    path = picture(tmp_path / "a.png", 1)
    with caplog.at_level(logging.WARNING, "imagereward"):
        recorder.remember(record(path))
        assert recorder.flush(60)
    assert paths_in(place) == {str(path)} and "was set aside" in caplog.text


def test_damage_while_it_is_open(recorder, place, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(30)]
    for path in paths[:-1]:
        recorder.remember(record(path))
    recorder.flush(60)
    with open_library(place) as library:
        library.query("PRAGMA wal_checkpoint(TRUNCATE)")
    size = place.stat().st_size
    with open(place, "r+b") as file:
        file.write(b"\xff" * size)
    recorder.remember(record(paths[-1]))
    assert recorder.flush(60) and paths_in(place) == {str(paths[-1])}


def test_a_newer_file_is_said_once(recorder, place, tmp_path):
    connection = sqlite3.connect(place)
    connection.execute("CREATE TABLE x (y)")
    connection.execute("PRAGMA application_id = 0x49525742")
    connection.execute("PRAGMA user_version = 9")
    connection.commit()
    connection.close()
    before = place.read_bytes()
    for seed in range(3):
        assert recorder.remember(record(picture(tmp_path / f"{seed}.png", seed)))
    assert recorder.flush(60) and place.read_bytes() == before
    assert len(recorder.said) == 1 and "scoring goes on" in recorder.said[0] and "newer version" in recorder.said[0]
    assert "newer version" in recorder.trouble


def test_a_full_disk_is_said_once_and_works_again(place, tmp_path):
    """SQLite's own limit of pages gives the error of a full disk, SQLITE_FULL."""
    now = [0.0]
    said = []
    recorder = Recorder(place, say=said.append, clock=lambda: now[0])
    paths = [picture(tmp_path / f"{seed}.png", seed, infotext(f"{seed} " + "long " * 4000)) for seed in range(8)]
    recorder.remember(record(paths[0]))
    recorder.flush(60)
    recorder._library.connection.execute(
        f"PRAGMA max_page_count = {recorder._library.query('PRAGMA page_count')[0][0]}"
    )
    for path in paths[1:7]:
        recorder.remember(record(path))
    recorder.flush(60)
    assert recorder.written == 1 and len(said) == 1 and "disk" in said[0] and "full" in said[0]
    assert "full" in recorder.trouble
    now[0] = 100.0  # somebody made room; the limit went with the old connection
    recorder.remember(record(paths[7]))
    recorder.close(60)
    assert recorder.written == 2 and recorder.trouble == ""
    assert paths_in(place) == {str(paths[0]), str(paths[7])}


FULL = """
import resource, signal, sys
from imagereward_core.library import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
said = []
recorder = Recorder(sys.argv[1], say=said.append)
recorder.remember(Record(sys.argv[2])); recorder.flush(60)
import os
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1] + "-wal") + 2000,) * 2)
for path in sys.argv[3:]:
    assert recorder.remember(Record(path))
recorder.close(60)
print(recorder.written, len(said), said[0])
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of processes")
def test_the_system_refuses_to_let_the_file_grow(place, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed, infotext(f"{seed} " + "long " * 4000)) for seed in range(6)]
    result = subprocess.run(
        [sys.executable, "-c", FULL, place, *paths], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert result.stdout.startswith("1 1 pictures are not remembered for now; scoring goes on"), result.stderr
    assert paths_in(place) == {str(paths[0])}


def test_read_only_is_said_once(reachable):  # noqa: F811
    place = reachable / "library.sqlite"
    path = picture(reachable / "a.png", 1)
    path.chmod(0o644)
    open_library(place).close()
    place.chmod(0o644)
    reachable.chmod(0o555)
    code = """
said = []
recorder = Recorder(sys.argv[1], say=said.append)
print([recorder.remember(Record(sys.argv[2])) for _ in range(3)])
recorder.close(60)
print(recorder.written, said)
"""
    result = as_nobody(code, place, path)
    reachable.chmod(0o755)
    lines = result.stdout.splitlines()
    assert lines[0] == "[True, True, True]", result.stderr
    assert (
        lines[1].startswith("0 ['pictures are not remembered for now; scoring goes on: ")
        and "can only be read" in lines[1]
    )


WRITE = """
import sys
from imagereward_core.library import *
place, *paths = sys.argv[1:]
recorder = Recorder(place)
for path in paths:
    sys.stdin.readline()
    recorder.remember(Record(path, scores=(Score("IR", 1.0),)))
    assert recorder.flush(60)
    print(path, flush=True)
recorder.close()
"""


def started(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_writer_loses_nothing_acknowledged(place, tmp_path, after):
    paths = [picture(tmp_path / f"{seed}.png", seed, infotext(f"fox {seed}")) for seed in range(40)]
    process = started(WRITE, place, *paths)
    process.stdin.write("\n" * (after + 3))  # further it may not get, however late the signal is
    process.stdin.flush()
    acknowledged = [process.stdout.readline().strip() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().split()
    process.wait()
    kept = paths_in(place)  # asks for the integrity, too
    assert set(acknowledged) <= kept and len(kept) <= len(acknowledged) + 1 < 40


BATCHES = """
import sys
from imagereward_core.library import open_library
from imagereward_core.library.scan import add_files
with open_library(sys.argv[1]) as library:
    add_files(library, [sys.argv[2]], progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_reader_of_folders_goes_on(place, tmp_path):
    from imagereward_core.library.scan import TOGETHER, add_files

    for seed in range(130):
        picture(tmp_path / "pictures" / f"{seed}.png", seed)
    process = started(BATCHES, place, tmp_path / "pictures")
    while int(process.stdout.readline()) < 2 * TOGETHER + 5:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(paths_in(place)) >= 2 * TOGETHER
    with open_library(place) as library:
        result = add_files(library, [tmp_path / "pictures"])
    assert result.known >= 2 * TOGETHER and len(paths_in(place)) == 130


def test_two_writers_and_a_reader_at_once(place, tmp_path):
    halves = [
        [picture(tmp_path / name / f"{seed}.png", 100 * index + seed, infotext("fox")) for seed in range(25)]
        for index, name in enumerate("ab")
    ]
    processes = [started(WRITE, place, *paths) for paths in halves]
    counts = []
    done = threading.Event()

    def read():
        while not done.is_set():
            if place.exists():
                with open_library(place) as library:
                    counts.append(len(find.newest(library, find.where_of(library, "prompt~fox"), None)))
            time.sleep(0.01)

    reader = threading.Thread(target=read)
    reader.start()
    acknowledged = {line for process in processes for line in process.communicate(timeout=120)[0].split()}
    done.set()
    reader.join(60)
    assert [process.returncode for process in processes] == [0, 0]
    assert acknowledged == paths_in(place) == {str(path) for paths in halves for path in paths}
    assert counts == sorted(counts) and len(set(counts)) > 1  # readers see what is committed, and only more of it


def test_a_process_that_ends_writes_what_waits(place, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(10)]
    code = """
import sys
from imagereward_core.library import *
recorder = Recorder(sys.argv[1])
for path in sys.argv[2:]:
    recorder.remember(Record(path))
"""
    subprocess.run([sys.executable, "-c", code, place, *paths], check=True, cwd=ROOT, timeout=120)
    assert paths_in(place) == set(map(str, paths))


def test_importing_the_library_is_cheap():
    code = "import imagereward_core.library, sys; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert pathlib.Path(ROOT, "imagereward_core", "library").is_dir()
