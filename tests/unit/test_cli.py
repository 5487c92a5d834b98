"""The command line: what it prints, what it writes, how it ends."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

import imagereward_core as RM
from imagereward_cli import main as cli
from imagereward_cli.commands import options, output
from imagereward_core import exit_codes, registry, weights
from imagereward_core.config import METADATA_KEY
from imagereward_core.errors import DownloadError
from imagereward_core.image_files import find_images
from imagereward_core.metadata import read_infotext, read_score
from tests.conftest import ROOT, random_state, tiny_config

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 40x32"


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8))


def save(path, seed, prompt=None):
    info = PngImagePlugin.PngInfo()
    if prompt is not None:
        info.add_text("parameters", f"{prompt}\n{SETTINGS}")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **({"pnginfo": info} if path.suffix == ".png" else {}))
    return path


@pytest.fixture
def folder(tmp_path):
    """Four images: two with infotext, one with a text file, one with nothing."""
    folder = tmp_path / "images"
    save(folder / "10.png", 1, "a (red:1.2) cat, <lora:fur:0.8>")
    save(folder / "2.png", 2, "a dog")
    save(folder / "3.webp", 3)
    (folder / "3.txt").write_text("a bird\n", encoding="utf-8")
    save(folder / "4.jpg", 4)
    return folder


@pytest.fixture
def run(capsys, tiny_file):
    """Runs a command with the tiny model: (exit code, stdout, stderr)."""

    def run(command, *arguments, model=tiny_file):
        code = cli.main([command, *map(str, arguments), "--model", str(model), "--device", "cpu"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def scores_of(out):
    return {os.path.basename(image["file"]): image["score"] for image in json.loads(out)["images"]}


def test_own_prompts_and_the_apis_scores(run, folder, tiny_model):
    code, out, err = run("score", folder, "--json")
    assert code == exit_codes.SOME_FAILED
    data = json.loads(out)
    assert [(os.path.basename(image["file"]), image["prompt"], image["prompt_source"]) for image in data["images"]] == [
        ("2.png", "a dog", "infotext"),
        ("3.webp", "a bird", "text file"),
        ("10.png", "a red cat", "infotext"),
    ]
    expected = {"2.png": "a dog", "3.webp": "a bird", "10.png": "a red cat"}
    for name, prompt in expected.items():
        assert scores_of(out)[name] == pytest.approx(tiny_model.score(prompt, folder / name), abs=1e-5)
    assert [failed["file"] for failed in data["failed"]] == [str(folder / "4.jpg")]
    assert "4.jpg: no prompt" in err
    assert data["model"].startswith("tiny [") and not data["interrupted"]


def test_a_given_prompt_is_taken_as_it_is(run, folder, tiny_model):
    code, out, _ = run("score", folder, "--prompt", "a (red:1.2) cat", "--json")
    assert code == exit_codes.OK
    assert scores_of(out)["4.jpg"] == pytest.approx(tiny_model.score("a (red:1.2) cat", folder / "4.jpg"), abs=1e-5)
    assert {image["prompt_source"] for image in json.loads(out)["images"]} == {"given"}


def test_the_table(run, folder):
    _, out, err = run("score", folder, "-p", "a cat")
    lines = out.splitlines()
    assert lines[0].split() == ["score", "file", "prompt"]
    assert len(lines) == 5
    assert len({line.index(str(folder)) for line in lines[1:]}) == 1  # aligned
    assert "4 scored, 0 had a score, 0 with errors, of 4 images" in err


def test_csv_to_a_file_chosen_by_its_name(run, folder, tmp_path):
    target = tmp_path / "scores.csv"
    code, out, _ = run("score", folder, "-p", 'a "cat", ünï 猫', "-o", target)
    assert (code, out) == (exit_codes.OK, "")
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert len(rows) == 4 and rows[0]["prompt"] == 'a "cat", ünï 猫'
    assert [float(row["score"]) for row in rows] == [
        image["score"] for image in json.loads(run("score", folder, "-p", 'a "cat", ünï 猫', "--json")[1])["images"]
    ]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images", "scores.csv", "tiny.safetensors"]


def test_sort_top_and_limit(run, folder):
    by_name = scores_of(run("score", folder, "-p", "a cat", "--json")[1])
    assert list(by_name) == ["2.png", "3.webp", "4.jpg", "10.png"]
    best = sorted(by_name, key=by_name.get, reverse=True)
    assert list(scores_of(run("score", folder, "-p", "a cat", "--json", "--sort")[1])) == best
    assert list(scores_of(run("score", folder, "-p", "a cat", "--json", "--sort", "worst")[1])) == best[::-1]
    assert list(scores_of(run("score", folder, "-p", "a cat", "--json", "--top", 2)[1])) == best[:2]
    assert (
        list(scores_of(run("score", folder, "-p", "a cat", "--json", "--top", 2, "--sort", "worst")[1])) == best[1::-1]
    )
    middle = (by_name[best[1]] + by_name[best[2]]) / 2
    assert set(scores_of(run("score", folder, "-p", "a cat", "--json", "--min-score", middle)[1])) == set(best[:2])
    assert list(
        scores_of(
            run(
                "score",
                folder / "4.jpg",
                folder / "10.png",
                folder / "2.png",
                "-p",
                "a cat",
                "--json",
                "--sort",
                "name",
            )[1]
        )
    ) == [
        "2.png",
        "4.jpg",
        "10.png",
    ]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_bad_images_are_named_and_skipped(run, folder, batch, tiny_model):
    (folder / "empty.png").write_bytes(b"")
    (folder / "5.png").write_bytes((folder / "2.png").read_bytes()[:900])
    (folder / "text.png").write_bytes(b"no image")
    code, out, err = run("score", folder, folder / "missing.png", "-p", "a cat", "--json", "--batch-size", batch)
    assert code == exit_codes.SOME_FAILED
    assert {os.path.basename(failed["file"]) for failed in json.loads(out)["failed"]} == {
        "empty.png",
        "5.png",
        "text.png",
        "missing.png",
    }
    for name in ("empty.png", "5.png", "text.png", "missing.png"):
        assert err.count(name) >= 1
    found = scores_of(out)
    assert set(found) == {"2.png", "3.webp", "4.jpg", "10.png"}
    for name, score in found.items():
        assert score == pytest.approx(tiny_model.score("a cat", folder / name), abs=1e-5)


# --- writing and resuming -------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """Counts how often the model is loaded."""
    from imagereward_core import scorers

    count = []
    real = scorers.load_scorer
    monkeypatch.setattr(scorers, "load_scorer", lambda *args, **kwargs: count.append(args) or real(*args, **kwargs))
    return count


def test_written_scores_are_reused(run, folder, loads):
    (folder / "4.txt").write_text("a fish", encoding="utf-8")
    code, out, _ = run("score", folder, "--write", "--json")
    assert code == exit_codes.OK and len(loads) == 1
    first = scores_of(out)
    assert all(image["written"] and not image["stored"] for image in json.loads(out)["images"])
    assert read_infotext(folder / "2.png").startswith(
        f"a dog\n{SETTINGS}, ImageReward: {first['2.png']:.4f}, ImageReward model: tiny ["
    )
    assert read_infotext(folder / "4.jpg").startswith("a fish\nSize: 40x32, ImageReward: ")
    assert read_score(folder / "10.png").prompt == "a red cat"

    code, out, err = run("score", folder, "--write", "--json")
    assert code == exit_codes.OK and len(loads) == 1  # no model was needed
    assert all(image["stored"] for image in json.loads(out)["images"])
    assert scores_of(out) == {name: round(score, 4) for name, score in first.items()}
    assert "0 scored, 4 had a score" in err

    save(folder / "5.png", 5, "a tree")
    _, out, _ = run("score", folder, "--write", "--json")
    assert len(loads) == 2
    assert [image["stored"] for image in json.loads(out)["images"]] == [True, True, True, False, True]

    _, out, _ = run("score", folder, "--rescore", "--json")
    assert len(loads) == 3
    assert not any(image["stored"] for image in json.loads(out)["images"])
    assert {name: scores_of(out)[name] for name in first} == pytest.approx(first, abs=1e-5)


def test_another_prompt_or_model_is_scored_anew(run, folder, tmp_path, loads):
    run("score", folder / "2.png", "--write")
    _, out, _ = run("score", folder / "2.png", "-p", "a fish", "--write", "--json")
    assert not json.loads(out)["images"][0]["stored"]
    assert "ImageReward prompt: a fish" in read_infotext(folder / "2.png")
    _, out, _ = run("score", folder / "2.png", "-p", "a fish", "--json")
    assert json.loads(out)["images"][0]["stored"]

    other = tmp_path / "other" / "tiny.safetensors"  # the same name, other weights
    other.parent.mkdir()
    config = tiny_config()
    save_file(random_state(config, seed=5), other, metadata={METADATA_KEY: config.to_json()})
    _, out, _ = run("score", folder / "2.png", "-p", "a fish", "--json", model=other)
    assert not json.loads(out)["images"][0]["stored"]
    assert len(loads) == 3


def test_int8_scores_do_not_pass_for_exact_ones(run, folder):
    run("score", folder / "2.png", "--write", "--precision", "int8")
    assert read_score(folder / "2.png").model.endswith("] int8")
    _, out, _ = run("score", folder / "2.png", "--json", "--precision", "fp32")
    assert not json.loads(out)["images"][0]["stored"]


def test_a_score_that_cannot_be_written_is_still_listed(run, tmp_path):
    picture(1).save(tmp_path / "cat.gif")
    code, out, err = run("score", tmp_path / "cat.gif", "-p", "a cat", "--write", "--json")
    assert code == exit_codes.SOME_FAILED
    assert len(json.loads(out)["images"]) == 1 and not json.loads(out)["images"][0]["written"]
    assert "cat.gif: only PNG" in err


# --- finding images -------------------------------------------------------------------------------


def test_find_images(tmp_path, monkeypatch):
    for name in ("10.png", "2.PNG", "a/b/3.jpg", "a/4.webp", "[1].png", ".hidden.png", "notes.txt"):
        save(tmp_path / name, 1) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    names = lambda *arguments, **options: [path.as_posix() for path in find_images(arguments, **options)]  # noqa: E731
    assert names(".") == ["2.PNG", "10.png", "[1].png"]
    assert sorted(names(".", recursive=True)) == ["10.png", "2.PNG", "[1].png", "a/4.webp", "a/b/3.jpg"]
    assert names("a/**/*.jpg", "a") == ["a/b/3.jpg", "a/4.webp"]
    assert names("[1].png") == ["[1].png"]  # a file of that name comes before the pattern
    assert names("10.png", "./10.png", ".", str(tmp_path / "10.png")) == ["10.png", "2.PNG", "[1].png"]
    assert names("missing.png", "*.bmp") == ["missing.png", "*.bmp"]


# --- how it ends ----------------------------------------------------------------------------------


def test_no_images_is_a_usage_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = run("score", tmp_path / "empty", "-p", "a cat")
    assert (code, out) == (exit_codes.USAGE, "")
    assert "no images in" in err and "--recursive" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["score"],
        ["score", "x.png", "--top", "0"],
        ["score", "x.png", "--json", "--csv"],
        ["rank", "--sort"],
    ],
)
def test_wrong_command_lines(arguments, capsys):
    assert cli.main(arguments) == exit_codes.USAGE
    assert "usage: imagereward" in capsys.readouterr().err


def test_settings_that_do_not_exist(run, folder):
    code, _, err = run("score", folder, "-p", "x", "--precision", "fp7")
    assert code == exit_codes.USAGE and "fp7" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(folder, tiny_file, capsys):
    code = cli.main(["score", str(folder), "-p", "x", "--model", str(tiny_file), "--device", "cuda"])
    assert code == exit_codes.USAGE
    assert "on cuda: " in capsys.readouterr().err


def test_unknown_missing_and_damaged_models(run, folder, tmp_path):
    code, _, err = run("score", folder, "-p", "x", model="ImageReward-v9")
    assert code == exit_codes.MODEL and "ImageReward-v1.0" in err
    code, _, err = run("score", folder, "-p", "x", model=tmp_path / "missing.safetensors")
    assert code == exit_codes.MODEL and "missing.safetensors" in err
    (tmp_path / "page.pt").write_text("<!doctype html><title>Sign in</title>")
    code, _, err = run("score", folder, "-p", "x", model=tmp_path / "page.pt")
    assert code == exit_codes.MODEL and "page.pt" in err


def test_a_model_that_returns_nan_ends_the_run(run, folder, tiny_file, tmp_path):
    state = load_file(tiny_file)
    state["mlp.layers.0.weight"][:] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_file(state, path, metadata={METADATA_KEY: tiny_config().to_json()})
    code, _, err = run("score", folder, "-p", "x", model=path)
    assert code == exit_codes.MODEL and "nan" in err.lower()


def test_ctrl_c_prints_what_is_done(run, folder, monkeypatch):
    from imagereward_core.scorers.imagereward import ImageRewardScorer

    real, calls = ImageRewardScorer.score_pairs, []

    def interrupted(self, prompts, images, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, prompts, images, **more)

    monkeypatch.setattr(ImageRewardScorer, "score_pairs", interrupted)
    code, out, err = run("score", folder, "-p", "a cat", "--json", "--batch-size", 1)
    assert code == exit_codes.INTERRUPTED
    assert len(json.loads(out)["images"]) == 2 and json.loads(out)["interrupted"]
    assert "interrupted: 2 scored" in err


def test_an_error_of_the_model_midway_prints_what_is_done(run, folder, monkeypatch):
    from imagereward_core.scorers.imagereward import ImageRewardScorer

    real, calls = ImageRewardScorer.score_pairs, []

    def full(self, prompts, images, **more):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, prompts, images, **more)

    monkeypatch.setattr(ImageRewardScorer, "score_pairs", full)
    code, out, err = run("score", folder, "-p", "a cat", "--json", "--batch-size", 2)
    assert code == exit_codes.USAGE
    assert len(json.loads(out)["images"]) == 2
    assert "ended early" in err and "not enough memory for 2 images at once" in err


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_console_without_unicode_does_not_crash(folder, tiny_file, monkeypatch, form):
    save(folder / "猫ü.png", 7, "a 猫, ünï")
    consoles = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", consoles[0])
    monkeypatch.setattr(sys, "stderr", consoles[1])
    (folder / "坏.png").write_bytes(b"damaged")
    code = cli.main(["score", str(folder), "--model", str(tiny_file), "--device", "cpu", *form])
    consoles[1].flush()
    out, err = (console.buffer.getvalue().decode("cp1252") for console in consoles)
    assert code == exit_codes.SOME_FAILED
    assert "\\u574f.png" in err
    assert "\\u732b" in out
    if form == ["--json"]:
        assert "a 猫, ünï" in [image["prompt"] for image in json.loads(out)["images"]]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_name_that_is_no_text(run, folder):
    name = os.fsencode(folder) + b"/\xff.png"
    with open(name, "wb") as file:
        file.write((folder / "2.png").read_bytes())
    code, out, _ = run("score", os.fsdecode(name), "--json")
    assert code == exit_codes.OK
    assert os.fsencode(json.loads(out)["images"][0]["file"]) == name


@pytest.mark.skipif(os.name != "posix", reason="pipes end otherwise on Windows")
def test_a_closed_pipe_is_no_error(folder, tiny_file):
    command = (
        f'"{sys.executable}" -m imagereward_core score "{folder}" -p cat --model "{tiny_file}" --device cpu | true;'
        ' echo "${PIPESTATUS[0]}"'
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str(exit_codes.PIPE_CLOSED)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_help_imports_no_torch_and_names_every_exit_code():
    script = (
        "import sys\nfrom imagereward_cli import main as cli\n"
        "code = cli.main(sys.argv[1:])\nassert code == 0\nassert not"
        " {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    for arguments in (["--help"], ["--version"], ["score", "--help"], ["doctor", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    text = cli.build_parser().format_help()
    for code in (
        exit_codes.OK,
        exit_codes.SOME_FAILED,
        exit_codes.USAGE,
        exit_codes.MODEL,
        exit_codes.INTERRUPTED,
        exit_codes.PIPE_CLOSED,
    ):
        assert f"\n  {code:<5}" in text
    for name in cli.COMMANDS:
        assert f"\n    {name} " in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert cli.main([command, "--help"]) == exit_codes.OK
    assert f"usage: imagereward {command}" in capsys.readouterr().out


# --- the table's corners --------------------------------------------------------------------------


def test_file_names_cannot_drive_the_terminal():
    text = output.table(("score", "file"), [("1.0", "a\x1b[2Jb\u202ec\nd.png")])
    assert "\x1b" not in text and "\u202e" not in text
    assert text.splitlines()[1] == "  1.0  a?[2Jb?c d.png"


def test_wide_characters_are_aligned_and_cut():
    lines = output.table(("file", "prompt"), [("猫", "x" * 50), ("cat1", "猫" * 50)], width=30).splitlines()
    assert lines[1].startswith("猫    xxx") and lines[2].startswith("cat1  猫")
    assert len(lines[1]) == 29 and lines[1].endswith("...")
    assert lines[2].endswith("...") and len(lines[2]) < 24


# --- rank, fetch ----------------------------------------------------------------------------------


def test_rank(run, folder, tiny_model):
    code, out, _ = run("rank", folder, "-p", "a cat", "--json")
    assert code == exit_codes.OK
    paths = [folder / name for name in ("2.png", "3.webp", "4.jpg", "10.png")]
    ranking, _ = tiny_model.inference_rank("a cat", paths)
    expected = [path.name for _, path in sorted(zip(ranking, paths))]
    images = json.loads(out)["images"]
    assert [os.path.basename(image["file"]) for image in images] == expected
    assert [image["rank"] for image in images] == [1, 2, 3, 4]
    assert run("rank", folder, "-p", "a cat")[1].splitlines()[0].split() == ["rank", "score", "to", "best", "file"]


def test_rank_takes_the_images_own_prompt_only_if_it_is_one(run, tmp_path):
    first, second = save(tmp_path / "1.png", 1, "a cat"), save(tmp_path / "2.png", 2, "(a cat:1.3)")
    code, out, _ = run("rank", first, second, "--json")
    assert code == exit_codes.OK and json.loads(out)["prompt"] == "a cat"
    code, _, err = run("rank", first, save(tmp_path / "3.png", 3, "a dog"))
    assert code == exit_codes.USAGE and "2 different prompts" in err


def test_fetch(monkeypatch, capsys, tmp_path):
    asked = []

    def fetch(info, *, download_root=None, models_dir=None, progress=None, convert=None):
        asked.append((info.name, download_root, convert))
        progress(1, 2)
        if info.name == "BLIP":
            raise DownloadError("the connection was cut")
        return [tmp_path / f"{info.name}.pt"]

    monkeypatch.setattr(weights, "fetch", fetch)
    assert cli.main(["fetch"]) == exit_codes.OK
    assert cli.main(["fetch", "clip", "--download-root", str(tmp_path), "--convert", "fp16"]) == exit_codes.OK
    assert asked == [("ImageReward-v1.0", None, None), ("CLIP", str(tmp_path), "fp16")]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "ImageReward-v1.0.pt"), str(tmp_path / "CLIP.pt")]
    assert cli.main(["fetch", "CLIP", "Nothing"]) == exit_codes.MODEL
    assert len(asked) == 2  # a misspelt name is found before anything is downloaded
    assert cli.main(["fetch", "BLIP"]) == exit_codes.MODEL
    assert "connection was cut" in capsys.readouterr().err
    asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", registry.MODELS[:2])
        assert cli.main(["fetch", "--all", "-q"]) == exit_codes.OK
    assert [name for name, _, _ in asked] == ["ImageReward-v1.0", "CLIP"]


def test_fetch_list_downloads_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(weights, "fetch", None)
    monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path))
    assert cli.main(["fetch", "--list"]) == exit_codes.OK
    out = capsys.readouterr().out
    for name in RM.available_models() + RM.available_scores():
        assert name in out


def test_model_names_and_paths():
    assert options.model_path("imagereward-v1.0") is None
    assert options.model_path("nothing") is None
    assert options.model_path("x/y.safetensors").name == "y.safetensors"
