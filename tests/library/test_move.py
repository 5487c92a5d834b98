"""Pictures moved with their texts and rows: nothing is ever replaced, and what fails leaves everything as it was."""

import errno
import os

import pytest

from imagereward_core.errors import LibraryError
from imagereward_core.library import Record, Score, find, marks, move, remember_now

from .conftest import infotext, picture


@pytest.fixture
def known(library, tmp_path):
    """(library, id, path) of a picture with a text beside it."""
    path = picture(tmp_path / "out" / "a.png", 1, infotext("a fox"))
    path.with_suffix(".txt").write_text("a fox")
    (tmp_path / "best").mkdir()
    return library, remember_now(library, Record(path, scores=(Score("x", 1.0),))), path


def test_file_text_and_row_move_together_and_back(known, tmp_path):
    library, number, path = known
    marks.set_stars(library, number, 4)
    before = path.read_bytes()
    moved = move.move(library, number, tmp_path / "best")
    target = tmp_path / "best" / "a.png"
    assert (moved.before, moved.after) == (str(path), str(target))
    assert target.read_bytes() == before and target.with_suffix(".txt").read_text() == "a fox"
    assert os.listdir(path.parent) == []
    found = find.by_id(library, number)
    assert (found.path, found.stars, found.scores) == (str(target), 4, {"x": 1.0})
    move.move(library, number, path.parent)
    assert path.read_bytes() == before and find.by_path(library, path).id == number


@pytest.mark.parametrize("taken", ["a.png", "a.txt"])
def test_what_is_there_stays(known, tmp_path, taken):
    library, number, path = known
    (tmp_path / "best" / taken).write_text("mine")
    moved = move.move(library, number, tmp_path / "best")
    assert moved.after == str(tmp_path / "best" / "a-1.png")
    assert (tmp_path / "best" / taken).read_text() == "mine"
    assert (tmp_path / "best" / "a-1.txt").read_text() == "a fox"
    back = move.move(library, number, path.parent, "a.png")
    assert back.after == str(path) and path.with_suffix(".txt").is_file()


def test_rename_takes_no_name_that_is_taken(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        move.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "a" and (tmp_path / "b").read_text() == "b"


def test_a_text_of_two_pictures_stays(known, tmp_path):
    library, number, path = known
    picture(path.with_suffix(".webp"), 2)
    move.move(library, number, tmp_path / "best")
    assert path.with_suffix(".txt").is_file() and os.listdir(tmp_path / "best") == ["a.png"]


def test_a_failure_half_way_puts_everything_back(known, tmp_path, monkeypatch):
    library, number, path = known
    real = move.atomic.replace

    def fails(source, target):
        if source.suffix == ".txt":
            raise OSError(errno.EACCES, "Permission denied")
        real(source, target)

    monkeypatch.setattr(move.atomic, "replace", fails)
    with pytest.raises(LibraryError, match="stays where it is: Permission denied"):
        move.move(library, number, tmp_path / "best")
    assert sorted(os.listdir(path.parent)) == ["a.png", "a.txt"] and os.listdir(tmp_path / "best") == []
    assert find.by_id(library, number).path == str(path)


def test_to_another_disk(known, tmp_path, monkeypatch):
    library, number, path = known
    monkeypatch.setattr(move, "same_disk", lambda first, second: False)
    before = path.read_bytes()
    moved = move.move(library, number, tmp_path / "best")
    assert moved.after == str(tmp_path / "best" / "a.png") and not path.exists()
    assert (tmp_path / "best" / "a.png").read_bytes() == before
    assert sorted(os.listdir(tmp_path / "best")) == ["a.png", "a.txt"]


def test_links_and_what_is_gone_are_refused(known, tmp_path):
    library, number, path = known
    with pytest.raises(LibraryError, match="no picture 999"):
        move.move(library, 999, tmp_path / "best")
    link = tmp_path / "out" / "link.png"
    link.symlink_to(picture(tmp_path / "private" / "x.png", 3))
    linked = remember_now(library, Record(link))
    with pytest.raises(LibraryError, match="is a link"):
        move.move(library, linked, tmp_path / "best")
    path.unlink()
    with pytest.raises(LibraryError, match="not there any more"):
        move.move(library, number, tmp_path / "best")


def test_a_row_of_a_deleted_file_gives_up_its_place(known, tmp_path):
    library, number, path = known
    old = picture(tmp_path / "best" / "a.png", 7)
    stale = remember_now(library, Record(old))
    old.unlink()
    moved = move.move(library, number, tmp_path / "best")
    assert moved.after == str(old)
    assert find.by_id(library, stale).missing and find.by_path(library, old).id == number


def test_ids_in_order(library, tmp_path):
    numbers = []
    for index, score in enumerate([0.5, None, 2.0, 1.0]):
        path = picture(tmp_path / f"{index}.png", index, infotext("a fox" if index % 2 else "a bear"))
        scores = () if score is None else (Score("x", score),)
        numbers.append(remember_now(library, Record(path, scores=scores, time=1000.0 + index)))
    marks.set_stars(library, numbers[1], 3)
    scorer, _ = find.scorer_named(library, "x")

    def ids(*args, **options):
        return [numbers.index(number) for number, _, _ in find.ordered(library, *args, **options)]

    assert ids() == [3, 2, 1, 0] and ids(first_is_best=False) == [0, 1, 2, 3]
    assert ids(by=scorer) == [2, 3, 0] and ids(by=scorer, first_is_best=False) == [0, 3, 2]
    assert ids(by="stars") == [1, 3, 2, 0]
    assert ids(find.where_of(library, "prompt~fox")) == [3, 1]
    some = find.among(library, [numbers[0], numbers[2], numbers[2], 999])
    assert ids(some) == [2, 0] and ids(find.among(library, [])) == []
    pictures = find.by_ids(library, [numbers[2], 999, numbers[0]])
    assert [picture.id for picture in pictures] == [numbers[2], numbers[0]] and pictures[0].scores == {"x": 2.0}
    used = find.used(library)
    assert used == {"checkpoint": [("jugg", "abcdef1234", 4)], "lora": []}
