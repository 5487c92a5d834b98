"""Which files the command line takes, what it says of those it leaves out, and what it writes."""

import csv
import io
import json
import os
import stat

import pytest
from PIL import Image, PngImagePlugin

from imagereward_cli import main as cli
from imagereward_core import exit_codes
from imagereward_core.image_files import find_images, matching
from tests.unit.test_cli import picture, save

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


@pytest.fixture
def run(capsys, tiny_file):
    """Runs a command with the tiny model: (exit code, stdout, stderr)."""

    def run(command, *arguments):
        code = cli.main([command, *map(str, arguments), "--model", str(tiny_file), "--device", "cpu"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def files(out):
    return [os.path.basename(image["file"]) for image in json.loads(out)["images"]]


# --- patterns, links, grids ------------------------------------------------------------------------


def test_brackets_of_a_folder_in_a_pattern(run, tmp_path, monkeypatch):
    save(tmp_path / "out [v2]" / "10.png", 1, "a fox")
    save(tmp_path / "out [v2]" / "2.png", 2, "a fox")
    save(tmp_path / "out v" / "other.png", 3, "a fox")  # what the brackets would stand for as a class
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("score", "out [v2]/*.png", "--json")
    assert (code, files(out)) == (exit_codes.OK, ["2.png", "10.png"])
    assert [len(matching(pattern)) for pattern in ("out [v2]/[0-9].png", "out*/*.png", "**/*.png", "*/[v2]/*.png")] == [
        1,
        3,
        3,
        0,
    ]
    assert find_images([str(tmp_path / "out [v2]" / "*.png")])[0] == tmp_path / "out [v2]" / "2.png"


@needs_links
def test_linked_folders_are_followed_and_circles_end(run, tmp_path):
    save(tmp_path / "disk2" / "a" / "deep" / "1.png", 1, "a fox")
    outputs = tmp_path / "outputs"
    save(outputs / "2.png", 2, "a fox")
    (outputs / "b").symlink_to(tmp_path / "disk2" / "a")
    (outputs / "again").symlink_to(outputs / "b")
    (tmp_path / "disk2" / "a" / "up").symlink_to(outputs)
    code, out, err = run("score", outputs, "-r", "--json")
    assert code == exit_codes.OK and sorted(files(out)) == ["1.png", "2.png"]
    assert "up leads to a folder that was already looked through" in err
    assert len(find_images([str(outputs / "**" / "*.png")])) == 2


def test_grids_are_left_out_unless_asked_for(run, tmp_path):
    outputs = tmp_path / "outputs"
    save(outputs / "txt2img-images" / "0001.png", 1, "a fox")
    save(outputs / "txt2img-images" / "xyz_grid-0000-1.png", 2, "a fox")
    save(outputs / "txt2img-grids" / "2024-01-01" / "sheet.png", 3, "a fox")
    save(outputs / "txt2img-grids" / "grid-0000.png", 4, "a fox")
    code, out, err = run("score", outputs, "-r", "--json")
    assert (code, files(out)) == (exit_codes.OK, ["0001.png"])
    assert "3 grids left out; --include-grids takes them too" in err
    assert len(files(run("score", outputs, "-r", "--json", "--include-grids")[1])) == 4
    assert files(run("score", outputs / "txt2img-grids", "--json")[1]) == ["grid-0000.png"]  # asked for by name
    named = outputs / "txt2img-grids" / "grid-0000.png"
    assert files(run("score", named, "--json")[1]) == ["grid-0000.png"]
    assert find_images([str(outputs / "txt2img-images" / "*.png")]) == [outputs / "txt2img-images" / "0001.png"]


def test_exclude(run, tmp_path):
    for name in ("a/1.png", "a/2-old.png", "b/3.png", "c [x]/4.png", "c [x]/d/5.png"):
        save(tmp_path / name, 1, "a fox")
    code, out, err = run("score", tmp_path, "-r", "--json", "--exclude", "*-old*", "--exclude", "b")
    assert code == exit_codes.OK and sorted(files(out)) == ["1.png", "4.png", "5.png"]
    assert "2 images left out by --exclude" in err
    for pattern, left in (("c [x]", 3), ("a/*", 3), (str(tmp_path / "c*"), 3), ("*.png", 0)):
        assert len(find_images([tmp_path], True, exclude=[pattern])) == left, pattern


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_skipped_and_named(run, tmp_path):
    save(tmp_path / "1.png", 1, "a fox")
    os.mkfifo(tmp_path / "2.png")
    code, out, err = run("score", tmp_path, "--json")
    assert (code, files(out)) == (exit_codes.OK, ["1.png"]) and "2.png is no regular file" in err
    code, out, err = run("score", tmp_path / "1.png", tmp_path / "2.png", "--json")
    assert (code, files(out)) == (exit_codes.SOME_FAILED, ["1.png"]) and "2.png is no regular file" in err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_folders_that_may_not_be_read_are_named(run, tmp_path):
    save(tmp_path / "1.png", 1, "a fox")
    (tmp_path / "locked").mkdir(mode=0)
    code, _, err = run("score", tmp_path, "-r", "--json")
    assert code == exit_codes.OK and "cannot look into" in err


# --- a bad file never ends the run -----------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, MemoryError, OverflowError, KeyError])
@pytest.mark.parametrize("command", ["score", "rank"])
def test_whatever_a_decoder_raises_counts_for_its_file(run, tmp_path, monkeypatch, error, command):
    for name in ("1.png", "2.png", "3.png"):
        save(tmp_path / name, int(name[0]), "a fox")
    load = PngImagePlugin.PngImageFile.load

    def failing(self):
        if str(getattr(self, "filename", "")).endswith("2.png"):
            raise error("in the decoder")
        return load(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", failing)
    code, out, err = run(command, tmp_path, "-p", "a fox", "--json")
    assert code == exit_codes.SOME_FAILED and sorted(files(out)) == ["1.png", "3.png"]
    assert "2.png" in err and "1 with errors" in err
    assert json.loads(out)["failed"][0]["file"].endswith("2.png")


def test_an_image_whose_conversion_fails_does_not_take_its_batch_along(run, tmp_path, monkeypatch):
    for name in ("1.png", "3.png"):
        save(tmp_path / name, int(name[0]))
    info = PngImagePlugin.PngInfo()
    info.add_text("bad", "1")
    picture(2).save(tmp_path / "2.png", pnginfo=info)
    convert = Image.Image.convert

    def failing(self, mode=None, *arguments, **options):
        if self.info.get("bad"):
            raise ValueError("conversion not supported")
        return convert(self, mode, *arguments, **options)

    monkeypatch.setattr(Image.Image, "convert", failing)
    code, out, err = run("score", tmp_path, "-p", "a fox", "--json")
    assert code == exit_codes.SOME_FAILED and files(out) == ["1.png", "3.png"]
    assert "2.png" in err and "conversion not supported" in err


# --- what is written -------------------------------------------------------------------------------

CLEAR = "\x1b[2J"


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
def test_names_cannot_drive_the_terminal(run, tmp_path):
    save(tmp_path / f"{CLEAR}\u202egood\u009b.png", 1, f"a {CLEAR} fox")
    (tmp_path / f"{CLEAR}bad.png").write_bytes(b"x")
    for form in ((), ("--csv",), ("--json",)):
        code, out, err = run("score", tmp_path, *form)
        assert code == exit_codes.SOME_FAILED and "good" in out and "bad.png" in err
        assert not set(out + err) & set("\x1b\u202e\u009b"), form
    found = json.loads(out)["images"][0]["file"]
    assert found.endswith(f"{CLEAR}\u202egood\u009b.png")  # JSON loses nothing
    code, out, err = run("score", tmp_path / f"{CLEAR}none*")
    assert code == exit_codes.SOME_FAILED and "\x1b" not in err


@pytest.mark.parametrize("prompt", ["=1+2", "+1", "-1", "@SUM(A1)", ' =HYPERLINK("x")'])
def test_cells_of_a_csv_are_no_formulas(run, tmp_path, monkeypatch, prompt):
    save(tmp_path / "=x.png", 1)
    monkeypatch.chdir(tmp_path)
    _, out, _ = run("score", "=x.png", "-p", prompt, "--csv", "-o", "a.csv")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8")))
    assert (row["prompt"], row["file"]) == (f"'{prompt}", "'=x.png")
    float(row["score"])  # numbers stay numbers, negative ones too


@needs_links
def test_output_follows_no_link(run, tmp_path):
    save(tmp_path / "in" / "1.png", 1, "a fox")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out.json").symlink_to(tmp_path / "mine.txt")
    (tmp_path / "other.json.tmp").symlink_to(tmp_path / "mine.txt")  # beside the name that is written
    code, _, err = run("score", tmp_path / "in", "-o", tmp_path / "out.json")
    assert code == exit_codes.USAGE and "out.json is a link to" in err
    code, _, _ = run("score", tmp_path / "in", "-o", tmp_path / "other.json")
    assert code == exit_codes.OK and files((tmp_path / "other.json").read_text()) == ["1.png"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_known_before_anything_is_scored(run, tmp_path, monkeypatch):
    save(tmp_path / "1.png", 1, "a fox")

    def scored(*arguments):
        raise AssertionError("scored although the output cannot be written")

    monkeypatch.setattr("imagereward_cli.commands.score.score_files", scored)
    for target, words in ((tmp_path / "none" / "a.json", "there is no folder"), (tmp_path, "is not a file")):
        code, _, err = run("score", tmp_path / "1.png", "-o", target)
        assert code == exit_codes.USAGE and words in err
    if os.path.exists("/dev/null"):
        code, _, err = run("rank", tmp_path / "1.png", "-o", "/dev/null")
        assert code == exit_codes.USAGE and stat.S_ISCHR(os.stat("/dev/null").st_mode)
