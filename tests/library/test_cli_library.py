"""`imagereward library …` and `imagereward score --remember`."""

import csv
import json
import math
import re

import pytest

from imagereward_cli import main as cli
from imagereward_core import exit_codes
from imagereward_core.library import find, marks, open_library

from .conftest import infotext, picture


@pytest.fixture
def run(capsys, place):
    """Runs a command: (exit code, stdout, stderr)."""

    def run(command, *arguments, named=True):
        code = cli.main([command, *map(str, arguments), *(["--library", str(place)] if named else [])])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def pictures(tmp_path):
    """24 pictures: 12 prompts, each with two checkpoints; the second is better."""
    folder = tmp_path / "pictures"
    for number in range(24):
        prompt, which = divmod(number, 2)
        text = infotext(
            f"a fox in scene {prompt}, <lora:fur:0.8>",
            number,
            ("alpha", "beta")[which],
            "ab"[which] * 10,
            score=0.1 * prompt + which + 0.01 * (number * 7 % 5),
        )
        picture(folder / f"{number:02}.png", number, text)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def as_json(answer):
    code, out, _ = answer
    assert code == 0, answer
    return json.loads(out)


def test_add(run, pictures, place):
    code, out, err = run("library", "add", pictures, "-r")
    assert code == exit_codes.SOME_FAILED and out == "24 read, 0 known already, 1 not readable\n"
    assert "bad.png is not an image" in err and f"library {place}" in err
    code, out, _ = run("library", "add", pictures, "--json")
    assert json.loads(out)["known"] == 24 and json.loads(out)["library"] == str(place)
    (pictures / "bad.png").unlink()
    assert run("library", "add", pictures)[0] == 0
    code, _, err = run("library", "add", pictures.parent)
    assert code == exit_codes.USAGE and "no images" in err


def test_top(run, pictures):
    run("library", "add", pictures)
    found = as_json(run("library", "top", "--by", "ImageReward", "--limit", "3", "--json"))
    assert found["scorer"] == "ImageReward-v1.0"
    names = [record["file"][-6:] for record in found["images"]]
    assert names == ["23.png", "21.png", "19.png"]
    best = found["images"][0]
    assert best["scores"] == {"ImageReward-v1.0": pytest.approx(2.11)}
    assert best["checkpoint"] == "beta" and best["loras"] == [{"name": "fur", "weight": 0.8}] and best["seed"] == 23
    assert best["percentile"]["sentence"] == "better than 95 % of your 24 pictures"
    where = 'checkpoint=alpha prompt~"scene 1" ImageReward>0.05'
    found = as_json(run("library", "top", "--where", where, "--json"))
    assert [record["file"][-6:] for record in found["images"]] == ["22.png", "20.png", "02.png"]
    _, out, _ = run("library", "top", "--limit", "1")
    assert re.search(r"2\.1100 +95 % +beta +\S+23\.png +a fox in scene 11", out)


def test_unscored(run, pictures, tmp_path):
    run("library", "add", pictures)
    assert as_json(run("library", "top", "--unscored", "--json"))["images"] == []
    found = as_json(run("library", "top", "--by", "CLIP", "--unscored", "--limit", "0", "--json"))
    assert len(found["images"]) == 24
    run("library", "add", picture(tmp_path / "new.png", 99))
    found = as_json(run("library", "top", "--by", "ImageReward", "--unscored", "--json"))
    assert [record["file"] for record in found["images"]] == [str(tmp_path / "new.png")]
    code, _, err = run("library", "top", "--by", "CLIP")
    assert code == exit_codes.USAGE and "no picture has a score of 'CLIP'; there are ImageReward-v1.0" in err


def test_list_and_show(run, pictures):
    run("library", "add", pictures)
    assert len(as_json(run("library", "list", "--limit", "5", "--json"))["images"]) == 5
    shown = as_json(run("library", "show", pictures / "07.png", "--json"))
    assert shown["prompt"] == "a fox in scene 3, <lora:fur:0.8>" and shown["sampler"] == "Euler a"
    assert shown["percentiles"] == {"ImageReward-v1.0": "better than 62 % of your 24 pictures"}
    (standing,) = shown["standings"].values()
    assert (standing["percent"], standing["pictures"], standing["same_checkpoint"]) == (62, 24, False)
    caveat = "on pictures of generators of 2025, ImageReward-v1.0 agrees with people on 54 % of pairs"
    assert shown["caveats"]["ImageReward-v1.0"].startswith(caveat)
    _, out, _ = run("library", "show", pictures / "07.png")
    assert "better than 62 % of your 24 pictures" in out and caveat in out
    assert as_json(run("library", "top", "--json"))["caveat"].startswith(caveat)
    assert caveat in run("library", "top")[2]
    code, _, err = run("library", "show", pictures / "99.png")
    assert code == exit_codes.USAGE and "is not in" in err


def test_compare_and_plan(run, pictures, tmp_path):
    run("library", "add", pictures)
    found = as_json(run("library", "compare", "--by", "checkpoint", "--json"))
    assert [level["level"] for level in found["levels"]] == ["beta [bbbbbbbbbb]", "alpha [aaaaaaaaaa]"]
    assert found["levels"][0]["effect"] == pytest.approx(0.5, abs=0.02)
    assert found["source"] == "from your history" and found["pairs"][0]["claimed"] is True
    _, out, _ = run("library", "compare")
    assert "ImageReward-v1.0 by checkpoint, from your history: 24 pictures, 12 prompts" in out
    assert re.search(r"beta \[b+\] scores \d\.\d\d higher than alpha \[a+\] \(from your history\)", out)
    assert "cannot tell yet" in run("library", "compare", "--by", "sampler")[1]
    plan = tmp_path / "plan.jsonl"
    summary = as_json(run("library", "compare", "--plan", plan, "--prompts", "3", "--json"))
    assert (summary["prompts"], summary["missing"], summary["made"]) == (3, 6, 0)
    assert len(plan.read_text(encoding="utf-8").splitlines()) == 6
    assert "cannot tell yet" in run("library", "compare", "--planned")[1]


def test_prune(run, pictures, place):
    run("library", "add", pictures)
    with open_library(place) as library:
        marks.set_stars(library, find.by_path(library, pictures / "00.png").id, 5)
    for name in ("00.png", "01.png", "02.png"):
        (pictures / name).unlink()
    tried = as_json(run("library", "prune", "--dry-run", "--json"))
    assert (tried["removed"], tried["kept"], tried["dry_run"]) == (2, 1, True)
    assert "2 taken out, 1 kept" in run("library", "prune")[1]
    assert as_json(run("library", "stats", "--json"))["pictures"] == 22


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_export(run, pictures, tmp_path, form):
    run("library", "add", pictures)
    target = tmp_path / f"out.{form}"
    assert as_json(run("library", "export", "-o", target, "--where", "checkpoint=beta", "--json"))["rows"] == 12
    text = target.read_text(encoding="utf-8")
    if form == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        by_name = {row["path"][-6:]: row for row in rows}
        assert len(rows) == 12 and float(by_name["23.png"]["score: ImageReward-v1.0"]) == 2.11
        assert by_name["23.png"]["loras"] == "fur:0.8"
    else:
        rows = [json.loads(line) for line in text.splitlines()]
        assert len(rows) == 12 and {row["checkpoint"] for row in rows} == {"beta"}


def test_no_prompt_is_a_formula_in_an_exported_table(run, place, tmp_path):
    from imagereward_core.library import Made, Record, remember_now

    from .conftest import picture

    path = picture(tmp_path / "a.png", 1)
    with open_library(place) as library:
        remember_now(library, Record(path, made=Made(prompt="=HYPERLINK(1)")))
    run("library", "export", "-o", tmp_path / "out.csv")
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines())
    assert row["prompt"] == "'=HYPERLINK(1)"


def test_export_to_parquet(run, pictures, tmp_path):
    run("library", "add", pictures)
    target = tmp_path / "out.parquet"
    code, _, err = run("library", "export", "-o", target)
    try:
        from pyarrow import parquet
    except ImportError:
        assert code == exit_codes.USAGE and "pip install pyarrow" in err and not target.exists()
        return
    table = parquet.read_table(target).to_pylist()
    assert len(table) == 24 and max(row["score: ImageReward-v1.0"] for row in table) == 2.11


def test_stats_and_delete(run, pictures, place):
    run("library", "add", pictures)
    found = as_json(run("library", "stats", "--json"))
    assert (found["pictures"], found["prompts"], found["checkpoints"]) == (24, 12, 2)
    assert found["scorers"][0]["scorer"] == "ImageReward-v1.0" and found["scorers"][0]["pictures"] == 24
    code, _, err = run("library", "delete")
    assert code == exit_codes.USAGE and "add --yes" in err and place.exists()
    assert run("library", "delete", "--yes")[0] == 0 and not place.exists() and len(list(pictures.iterdir())) == 25
    assert "there was no library" in run("library", "delete", "--yes")[1]


@pytest.mark.parametrize("action", ["list", "top", "show x.png", "compare", "prune", "export -o x.csv", "stats"])
def test_without_a_library(run, action, place):
    code, out, err = run("library", *action.split())
    assert code == exit_codes.USAGE and f"there is no library at {place}" in err and not out
    assert not place.exists()


def test_a_wrong_question_is_explained(run, pictures):
    run("library", "add", pictures)
    for action in (["list"], ["top"], ["compare"], ["export", "-o", "x.csv"]):
        code, _, err = run("library", *action, "--where", "colour=red")
        assert code == exit_codes.USAGE and "no field and no scorer 'colour'" in err


def test_the_place_is_named_by_the_environment(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEREWARD_LIBRARY", str(tmp_path))
    _, _, err = run("library", "add", pictures / "00.png", named=False)
    assert f"library {tmp_path / 'imagereward-library.sqlite'}" in err


def test_score_remember(run, pictures, place, tiny_file):
    scoring = ["score", pictures, "--model", tiny_file, "--device", "cpu", "--json", "-q"]
    _, out, err = run(*scoring, named=False)
    assert not place.exists() and "remembered" not in err
    code, out, err = run(*scoring[:-1], "--remember")
    scores = {record["file"]: record["score"] for record in json.loads(out)["images"]}
    assert code == exit_codes.SOME_FAILED and f"24 pictures remembered in {place}" in err
    name = json.loads(out)["model"]
    with open_library(place) as library:
        kept = {found.path: found.scores[name] for found in find.newest(library)}
        assert kept == scores and {found.made.checkpoint for found in find.newest(library)} == {"alpha", "beta"}
        digests = {called: digest for _, called, digest, _ in find.scorers(library)}
        assert re.fullmatch(r"[0-9a-f]{10}", digests[name]) and digests[name] in name
    found = as_json(run("library", "top", "--by", name, "--limit", "1", "--json"))
    assert found["images"][0]["scores"][name] == max(scores.values())


def test_scoring_goes_on_without_the_library(run, pictures, place, tiny_file):
    place.mkdir()
    (place / "imagereward-library.sqlite").mkdir()
    code, out, err = run("score", pictures / "00.png", "--model", tiny_file, "--device", "cpu", "--json", "--remember")
    assert code == 0 and len(json.loads(out)["images"]) == 1
    assert err.count("pictures are not remembered for now; scoring goes on") == 1


def test_win_is_unknown_until_k_was_fitted(run, pictures, tmp_path):
    run("library", "add", pictures)
    two = (pictures / "01.png", pictures / "00.png")
    found = as_json(run("library", "win", *two, "--by", "ImageReward", "--json"))
    assert found["k"] is None and found["probability"] is None
    assert "is unknown" in run("library", "win", *two)[1]
    table = {"scorers": {"ImageReward-v1.0": {"win": {"k": 0.8}}, "random": {"win": None}}}
    (tmp_path / "results.json").write_text(json.dumps(table))
    assert run("library", "win", "--learn", tmp_path / "results.json")[1] == "learnt k of ImageReward-v1.0 0.800\n"
    found = as_json(run("library", "win", *two, "--json"))
    difference = found["scores"][0] - found["scores"][1]
    assert found["k"] == 0.8 and found["probability"] == pytest.approx(1 / (1 + math.exp(-0.8 * difference)))
    assert f"{two[0]}: preferred in about" in run("library", "win", *reversed(two))[1]
    for arguments, words in (
        ((two[0],), "two pictures are compared"),
        ((two[0], tmp_path / "none.png"), "has no score of"),
        (("--learn", tmp_path / "none.json"), "is no results.json"),
    ):
        code, _, err = run("library", "win", *arguments)
        assert code == exit_codes.USAGE and words in err
