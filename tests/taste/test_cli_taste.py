"""`imagereward taste …`, and a taste among the scorers of the other commands."""

import json

import pytest

from imagereward_cli import main as cli
from imagereward_core import exit_codes

from .conftest import WEIGHTS


@pytest.fixture
def run(capsys, place):
    """Runs a command: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


MODEL = ("--scorer", WEIGHTS, "--device", "cpu", "-q")


def test_from_duels_to_scores(run, duels, pictures, place, tmp_path):
    code, out, err = run("taste", "add", duels)
    assert code == 0 and out == "120 duels added, 0 known already, 0 not usable; my-taste has 120\n"
    assert f"library {place}" in err
    code, out, _ = run("taste", "status")
    assert code == 0 and "not fitted yet" in out
    code, out, _ = run("taste", "fit", *MODEL, "--json")
    found = json.loads(out)
    assert code == 0 and found["state"] == "ready" and found["duels"] == 120 and found["more"] == 0
    assert found["interval"][0] < found["accuracy"] <= found["interval"][1] <= 1
    assert found["p"] < 0.01 and found["scorer_accuracy"] < 0.9 and found["library"] == str(place)
    code, out, _ = run("taste", "fit", "-q", "--device", "cpu")  # the scorer of last time
    assert code == 0 and "my-taste on tiny-imagereward [" in out and "--scorer my-taste" in out
    code, out, _ = run("taste", "status", "--json")
    (told,) = json.loads(out)["tastes"]
    assert told["taste"] == "my-taste" and told["fitted_duels"] == 120 and told["state"] == "ready"

    prompt, made = next(iter(pictures.items()))
    paths = [path for path, _ in made]
    code, out, _ = run(
        "score", *paths, "--scorer", "my-taste", "-p", prompt, "--json", "-q", "--device", "cpu", "--sort"
    )
    found = json.loads(out)
    assert code == 0 and found["model"].startswith("my-taste [")
    assert [image["file"] for image in found["images"]] == [str(path) for path in reversed(paths)]
    code, out, _ = run("rank", *paths, "--scorer", "my-taste", "-p", prompt, "--json", "-q", "--device", "cpu")
    assert code == 0 and json.loads(out)["images"][0]["file"] == str(paths[-1])

    code, out, _ = run("taste", "export", tmp_path / "mine.safetensors")
    assert code == 0 and (tmp_path / "mine.safetensors").is_file()
    code, _, err = run("taste", "forget")
    assert code == exit_codes.USAGE and "--yes" in err
    code, out, _ = run("taste", "forget", "--yes")
    assert code == 0 and out == "my-taste: 120 duels forgotten\n"
    code, _, err = run("score", *paths, "--scorer", "my-taste", "-p", prompt, "-q")
    assert code == exit_codes.MODEL and "no model is called 'my-taste'" in err
    code, out, _ = run("taste", "import", tmp_path / "mine.safetensors", "--name", "again", "--base", WEIGHTS)
    assert code == 0 and "again was taken in" in out
    assert run("score", *paths, "--scorer", "again", "-p", prompt, "-q", "--device", "cpu")[0] == 0


def test_scores_of_a_taste_go_into_files_under_its_own_name(run, duels, pictures, tmp_path):
    run("taste", "add", duels)
    run("taste", "fit", *MODEL)
    prompt, made = next(iter(pictures.items()))
    copy = tmp_path / "copy.png"
    copy.write_bytes(made[0][0].read_bytes())
    command = ("score", copy, "--scorer", "my-taste", "-p", prompt, "--write", "-q", "--device", "cpu", "--json")
    assert json.loads(run(*command)[1])["images"][0]["written"]
    assert json.loads(run(*command)[1])["images"][0]["stored"]
    assert b"Taste: " in copy.read_bytes() and b"Taste model: " in copy.read_bytes()


def test_few_duels_are_not_enough_and_it_says_how_many_more(run, duels, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(duels.read_text().splitlines()[:12]))
    run("taste", "add", few)
    code, out, _ = run("taste", "fit", *MODEL, "--json")
    found = json.loads(out)
    assert code == 0 and found["state"] == "not enough yet" and found["more"] == 188 and found["accuracy"] is None
    code, out, _ = run("taste", "fit", *MODEL)
    assert "12 duels, about 188 more; 50 duels are a hint" in out


def test_bad_lines_are_named_and_the_exit_code_says_so(run, duels, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(duels.read_text().splitlines()[0] + "\n{\n")
    code, out, err = run("taste", "add", bad)
    assert code == exit_codes.SOME_FAILED and out.startswith("1 duels added") and "bad.jsonl, line 2: no JSON" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("taste", "fit", "--precision", "int8"), "precision int8"),
        (("taste", "fit", "--scorer", "own:scorer"), "package.module:function"),
        (("taste", "fit", "--name", "../x"), "a taste's name is"),
        (("taste", "fit", "--name", "PickScore"), "is a scorer's name"),
        (("taste", "export", "x.safetensors"), "no taste called 'my-taste'"),
        (("taste", "forget", "--yes"), "no taste called 'my-taste'"),
        (("taste", "import", "none.safetensors"), "cannot be read"),
    ],
)
def test_what_cannot_be_is_said(run, duels, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if arguments[1] != "forget":
        run("taste", "add", duels)
    else:
        run("taste", "add", duels, "--name", "another")
    code, _, err = run(*arguments)
    assert code in (exit_codes.USAGE, exit_codes.MODEL) and words in err


def test_without_a_library_it_says_how_to_begin(run):
    code, _, err = run("taste", "fit", *MODEL)
    assert code == exit_codes.USAGE and "there is no library at" in err
