"""`imagereward score` for many images: every row once, whatever ends a run, however many processes share it."""

import csv
import json
import os
import signal
import subprocess
import time

import pytest

from imagereward_core import load
from imagereward_core.exit_codes import OK, SOME_FAILED, USAGE

from .conftest import WEIGHTS, command, lines, score

CLOSE = 1e-5  # scores in another batch differ by rounding


@pytest.fixture(scope="module")
def expected(pictures):
    """The scores one by one, by the package."""
    scorer = load(str(WEIGHTS), device="cpu")
    names = [path for path in sorted(pictures.iterdir()) if path.stem != "broken"]
    return {f"{turn}-{path.stem}": scorer.score(f"a red circle {turn}", str(path)) for turn in (0, 1) for path in names}


def check(found, expected):
    assert [row["id"] for row in found] == [f"{turn}-{n}" for turn in (0, 1) for n in (*NAMES, "broken")]
    for row in found:
        if row["id"].endswith("broken"):
            assert row["score"] in (None, "") and "broken.png" in row["error"]
        else:
            assert abs(float(row["score"]) - expected[row["id"]]) < CLOSE and not row["error"]


NAMES = [f"{number:02d}" for number in range(12)]


def test_lines_come_in_the_manifests_order(manifest, tmp_path, expected):
    done = score("--manifest", manifest, "-o", tmp_path / "out.jsonl", "--batch-size", 5)
    assert done.returncode == SOME_FAILED, done.stderr
    assert "26 rows scored" in done.stderr and "2 with errors" in done.stderr
    check(lines(tmp_path / "out.jsonl"), expected)


def test_a_run_that_was_killed_goes_on(manifest, tmp_path, expected):
    out = tmp_path / "out.jsonl"
    line, environment = command("--manifest", manifest, "-o", out, "--batch-size", 2, "--workers", 1)
    process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.wait()
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.rfind(b"\n", 0, -1) + 9])  # and the last line is torn
    again = score("--manifest", manifest, "-o", out, "--batch-size", 2, "--resume")
    assert again.returncode == SOME_FAILED and "were done" in again.stderr, again.stderr
    check(lines(out), expected)
    third = score("--manifest", manifest, "-o", out, "--resume")
    assert third.returncode == SOME_FAILED and "0 rows scored" in third.stderr
    check(lines(out), expected)


def test_tables_are_made_of_the_lines_at_the_end(manifest, tmp_path, expected):
    done = score("--manifest", manifest, "-o", tmp_path / "out.csv", "--resume")
    assert done.returncode == SOME_FAILED, done.stderr
    with open(tmp_path / "out.csv", newline="") as file:
        check(list(csv.DictReader(file)), expected)
    assert [path.name for path in tmp_path.iterdir() if "out.csv" in path.name] == ["out.csv"]
    parquet = pytest.importorskip("pyarrow.parquet")
    assert score("--manifest", manifest, "-o", tmp_path / "out.parquet").returncode == SOME_FAILED
    check(parquet.read_table(tmp_path / "out.parquet").to_pylist(), expected)


def test_processes_share_the_rows_and_the_last_one_joins_them(manifest, tmp_path, expected):
    out = tmp_path / "out.jsonl"
    runs = [
        score("--manifest", manifest, "-o", out, "--resume", RANK=str(rank), WORLD_SIZE="3", LOCAL_RANK=str(rank))
        for rank in (2, 0, 1)
    ]
    assert all(run.returncode in (OK, SOME_FAILED) for run in runs), [run.stderr for run in runs]
    assert "joins the results" in runs[0].stderr and "joins" not in runs[2].stderr
    check(lines(out), expected)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.jsonl"]


def test_folders_are_streamed_too(pictures, tmp_path, expected):
    done = score(pictures, "-p", "a red circle 0", "-o", tmp_path / "out.jsonl", "--quiet")
    assert done.returncode == SOME_FAILED and done.stderr == ""
    found = {os.path.basename(row["id"]): row for row in lines(tmp_path / "out.jsonl")}
    assert all(abs(found[f"{name}.png"]["score"] - expected[f"0-{name}"]) < CLOSE for name in NAMES)


def test_no_id_is_a_formula_in_a_csv(pictures, tmp_path):
    row = {"id": "=HYPERLINK(1)", "image": str(pictures / "00.png"), "prompt": "-x"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert score("--manifest", tmp_path / "rows.jsonl", "-o", tmp_path / "out.csv").returncode == OK
    with open(tmp_path / "out.csv", newline="") as file:
        (found,) = csv.DictReader(file)
    assert (found["id"], found["prompt"]) == ("'=HYPERLINK(1)", "'-x")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "or a --manifest"),
        (("--manifest", "rows.jsonl"), "-o FILE is needed"),
        (("--manifest", "rows.jsonl", "-o", "out.txt"), "should end in"),
        (("--manifest", "rows.jsonl", "-o", "out.jsonl", "--top", "3"), "--top needs all results"),
        (("a.png", "--manifest", "rows.jsonl", "-o", "out.jsonl"), "not both"),
        (("--manifest", "absent.jsonl", "-o", "out.jsonl"), "no file"),
        (("--manifest", "rows.jsonl", "-o", "done.jsonl"), "--resume goes on"),
    ],
)
def test_what_cannot_be_asked_for_is_said(manifest, arguments, told):
    (manifest.parent / "done.jsonl").write_text("")
    done = score(*arguments, cwd=manifest.parent)
    assert done.returncode == USAGE and told in done.stderr, done.stderr


def test_results_of_another_manifest_or_model_are_not_added_to(manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    for line, told in (
        ({"id": "elsewhere", "model": "?"}, "another manifest"),
        ({"id": "0-00", "model": "another [0123456789]"}, "holds scores of another"),
    ):
        out.write_text(json.dumps(line) + "\n")
        done = score("--manifest", manifest, "-o", out, "--resume")
        assert done.returncode == USAGE and told in done.stderr, done.stderr
        assert lines(out) == [line]
