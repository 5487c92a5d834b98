"""The file: where it lies, its versions, damage, deletion. Real SQLite throughout."""

import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import threading

import pytest

from imagereward_core.errors import LibraryError
from imagereward_core.library import (
    Record,
    Score,
    delete_library,
    find,
    library_place,
    open_library,
    remember_now,
    schema,
    store,
)
from imagereward_core.library import (
    place as places,
)

from .conftest import infotext, picture

ROOT = pathlib.Path(__file__).resolve().parents[2]


def filled(place, tmp_path, count=3):
    with open_library(place) as library:
        for seed in range(count):
            path = picture(tmp_path / "pictures" / f"{seed}.png", seed, infotext(f"fox {seed}"))
            remember_now(library, Record(path, scores=(Score("IR", float(seed)),)))


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {"HOME": "/home/me"}, "/home/me/.local/share/imagereward"),
        ("linux", {"HOME": "/home/me", "XDG_DATA_HOME": "/data"}, "/data/imagereward"),
        ("linux", {"HOME": "/home/me", "XDG_DATA_HOME": "relative"}, "/home/me/.local/share/imagereward"),
        ("darwin", {"HOME": "/Users/me"}, "/Users/me/Library/Application Support/ImageReward"),
        ("win32", {"USERPROFILE": "/u/me", "LOCALAPPDATA": "/u/me/Local"}, "/u/me/Local/ImageReward"),
        ("win32", {"USERPROFILE": "/u/me"}, "/u/me/AppData/Local/ImageReward"),
    ],
)
def test_the_users_data_folder(platform, environ, folder):
    assert places.data_folder(platform, environ) == pathlib.Path(folder)


def test_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEREWARD_LIBRARY", str(tmp_path))
    assert library_place() == tmp_path / "imagereward-library.sqlite"
    assert library_place(tmp_path / "mine.db") == tmp_path / "mine.db"
    monkeypatch.delenv("IMAGEREWARD_LIBRARY")
    assert library_place() == places.data_folder() / "imagereward-library.sqlite"


MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
server:/home /mnt/nas nfs4 rw 0 0
//pc/share /mnt/two\040words cifs rw 0 0
/dev/sdb /mnt/nas/local xfs rw 0 0
me@pc:/ /mnt/ssh fuse.sshfs rw 0 0
drvfs /mnt/c 9p rw 0 0
/dev/sdc /mnt/usb fuseblk rw 0 0
"""
APPLE = """/dev/disk1s1 on / (apfs, local, journaled)
//me@pc/share on /Volumes/share (smbfs, nodev, nosuid)
"""


@pytest.mark.parametrize(
    ("path", "mounts", "kind"),
    [
        ("/home/me/x", MOUNTS, None),
        ("/mnt/nas/me/x", MOUNTS, "nfs4"),
        ("/mnt/nasty/x", MOUNTS, None),
        ("/mnt/two words/x", MOUNTS, "cifs"),
        ("/mnt/nas/local/x", MOUNTS, None),
        ("/mnt/ssh/x", MOUNTS, "fuse.sshfs"),
        ("/mnt/c/x", MOUNTS, "9p"),
        ("/mnt/usb/x", MOUNTS, None),
        ("/Volumes/share/x", APPLE, "smbfs"),
        ("/Users/me/x", APPLE, None),
        ("/x", "", None),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_network_drives(path, mounts, kind):
    assert places.on_network_drive(path, "linux", mounts) == kind


def test_the_journal(place, tmp_path, monkeypatch):
    with open_library(place) as library:
        assert library.journal == "wal" and library.notes == []
    monkeypatch.setattr(store, "on_network_drive", lambda path: "nfs4")
    with open_library(place) as library:
        assert library.journal == "delete" and "network drive (nfs4)" in library.notes[0]
        remember_now(library, Record(picture(tmp_path / "a.png", 1)))
        assert library.query("PRAGMA journal_mode") == [("delete",)]
        assert library.query("PRAGMA synchronous") == [(2,)]
        assert not pathlib.Path(f"{place}-wal").exists()


def test_a_newer_file_is_refused_and_left_alone(place, tmp_path):
    filled(place, tmp_path)
    with sqlite3.connect(place) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = place.read_bytes()
    for create in (True, False):
        with pytest.raises(
            LibraryError, match=r"newer version of ImageReward \(schema 7; this one reads up to \d\): update"
        ):
            open_library(place, create=create)
    assert place.read_bytes() == before


def test_another_programs_file_is_refused_and_left_alone(place):
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = place.read_bytes()
    with pytest.raises(LibraryError, match="another program's SQLite file"):
        open_library(place)
    assert place.read_bytes() == before


def test_an_older_file_is_brought_up_to_date(place, tmp_path):
    filled(place, tmp_path)
    later = (*schema.MIGRATIONS, ("ALTER TABLE images ADD COLUMN mood TEXT", "UPDATE images SET mood = 'calm'"))
    connection = sqlite3.connect(place, isolation_level=None)
    schema.prepare(connection, place, later)
    assert connection.execute("SELECT DISTINCT mood FROM images").fetchall() == [("calm",)]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(later),)
    schema.prepare(connection, place, later)  # a second time there is nothing to do
    connection.close()


def test_a_migration_that_fails_changes_nothing(place, tmp_path):
    filled(place, tmp_path)
    broken = (*schema.MIGRATIONS, ("ALTER TABLE images ADD COLUMN mood TEXT", "NONSENSE"))
    connection = sqlite3.connect(place, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        schema.prepare(connection, place, broken)
    assert "mood" not in [row[1] for row in connection.execute("PRAGMA table_info(images)")]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    connection.close()


def test_many_begin_the_same_library_at_once(tmp_path):
    """Eight at a time, ten times: each finds or makes all of it."""
    failures = []

    def begin(place, start, number):
        start.wait()
        try:
            with open_library(place) as library, library.transaction() as connection:
                connection.execute("INSERT INTO notes VALUES (?, '')", (str(number),))
        except (LibraryError, sqlite3.Error) as error:
            failures.append(error)

    for number in range(10):
        place, start = tmp_path / f"{number}.sqlite", threading.Barrier(8)
        threads = [threading.Thread(target=begin, args=(place, start, thread)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open_library(place) as library:
            assert not failures and library.query("SELECT COUNT(*) FROM notes") == [(8,)]


def test_reading_makes_no_library(place):
    with pytest.raises(LibraryError, match="there is no library at .*library add"):
        open_library(place, create=False)
    assert not place.exists()


def torn(data, kind):
    if kind == "no database":
        return b"what is this" * 500
    if kind == "cut off":
        return data[: len(data) // 2]
    return data[:100] + b"\xff" * 4000 + data[4100:]  # the first page but its header


@pytest.mark.parametrize("kind", ["no database", "cut off", "overwritten"])
def test_a_damaged_file_costs_the_memory_only(place, tmp_path, kind, caplog):
    from imagereward_core.library.scan import add_files

    filled(place, tmp_path, 40)
    damaged = torn(place.read_bytes(), kind)
    place.write_bytes(damaged)
    try:
        with open_library(place, create=False) as library:
            list(find.stream(library))
        pytest.fail("the damage was not seen")
    except LibraryError as error:
        assert "is damaged" in str(error) and "library add" in str(error)
    assert place.read_bytes() == damaged
    store.set_aside(place)
    with open_library(place) as library:
        assert add_files(library, [tmp_path / "pictures"]).read == 40
        assert library.query("PRAGMA integrity_check") == [("ok",)]
    (aside,) = [path for path in place.parent.iterdir() if ".damaged-" in path.name and path.suffix != ".sqlite-wal"]
    assert aside.read_bytes() == damaged
    assert "was set aside" in caplog.text


def test_opening_sets_aside_what_is_no_database(place, caplog):
    place.write_bytes(b"what is this" * 500)
    with open_library(place) as library:
        assert find.newest(library) == []
    assert any(".damaged-" in path.name for path in place.parent.iterdir()) and "was set aside" in caplog.text


def test_a_whole_file_is_not_set_aside(place, tmp_path):
    filled(place, tmp_path)
    assert store.set_aside(place) is None
    with open_library(place) as library:
        assert len(find.newest(library)) == 3


def test_an_empty_file_becomes_a_library(place):
    place.touch()
    with open_library(place) as library:
        assert find.newest(library) == []


def test_delete_removes_all_and_closes_handles_first(place, tmp_path):
    filled(place, tmp_path)
    library = open_library(place)
    remember_now(library, Record(picture(tmp_path / "pictures" / "more.png", 9)))
    thumbnails = places.thumbnails_folder(place)
    thumbnails.mkdir()
    (thumbnails / "1.webp").write_bytes(b"x")
    aside = place.with_name(f"{place.name}.damaged-1")
    aside.write_bytes(b"x")
    assert pathlib.Path(f"{place}-wal").exists()
    delete_library(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]
    assert len(list((tmp_path / "pictures").iterdir())) == 4
    assert library.closed
    with pytest.raises(LibraryError, match="was closed"):
        library.query("SELECT 1")
    delete_library(place)  # nothing there: nothing to do


def test_a_transaction_is_all_or_nothing(library):
    with pytest.raises(ZeroDivisionError):
        with library.transaction() as connection:
            connection.execute("INSERT INTO notes VALUES ('a', 'b')")
            raise ZeroDivisionError
    assert library.query("SELECT * FROM notes") == []
    with library.transaction() as connection:
        connection.execute("INSERT INTO notes VALUES ('a', 'b')")
    assert library.query("SELECT * FROM notes") == [("a", "b")]


def as_nobody(code, *arguments):
    """Run code as a user without rights here; the process is root in containers, whom no permission stops."""
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("needs another user's account: run as root on POSIX")
    prepared = (
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport imagereward_core.library.scan, PIL.Image, numpy\n"
    )
    prepared += f"from imagereward_core.library import *\nos.setgid(65534); os.setuid(65534)\n{code}"
    command = [sys.executable, "-c", prepared, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")


@pytest.fixture
def reachable():
    """A folder that every user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="imagereward-test-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_a_file_that_may_only_be_read_is_read(reachable):
    place = reachable / "library.sqlite"
    filled(place, reachable)
    place.chmod(0o644)
    code = """
library = open_library(sys.argv[1], create=False)
from imagereward_core.library import find
print(library.read_only, library.notes, len(find.newest(library, find.where_of(library, "prompt~fox"))))
try:
    with library.transaction() as connection:
        connection.execute("DELETE FROM images")
except Exception as error:
    print(type(error).__name__, error)
"""
    reachable.chmod(0o555)
    result = as_nobody(code, place)
    reachable.chmod(0o755)
    assert result.stdout.startswith(f"True ['{place} can only be read'] 3"), result.stderr
    assert "LibraryError" in result.stdout and "cannot be written" in result.stdout


def test_a_folder_that_may_not_be_written(reachable):
    reachable.chmod(0o555)
    result = as_nobody("open_library(sys.argv[1])", reachable / "new.sqlite")
    deeper = as_nobody("open_library(sys.argv[1])", reachable / "deep" / "new.sqlite")
    reachable.chmod(0o755)
    assert "LibraryError" in result.stderr and "cannot be written" in result.stderr
    assert "LibraryError" in deeper.stderr and "cannot make the folder" in deeper.stderr
