"""Scoring by Ray Data on a local cluster of two actors: nothing lost, nothing twice, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from imagereward_core import load
from imagereward_core.errors import ConfigError, DataError
from tests.conftest import ROOT

from .conftest import WEIGHTS, score

pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.newest
CLOSE = 1e-5
SCRIPT = f"""
import sys, time
from imagereward_core import load
from imagereward_core.bulk.ray_engine import score_with_ray

def slow():
    scorer = load({str(WEIGHTS)!r}, device="cpu")
    inner = scorer.encode_images
    def encode_images(pixels):
        time.sleep(0.3)
        return inner(pixels)
    scorer.encode_images = encode_images
    return scorer

if __name__ == "__main__":
    print(score_with_ray(sys.argv[1], sys.argv[2], slow, "tiny", batch_size=2, actors=2, together=4, resume=True))
"""


def start(tmp_path, manifest, out):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(manifest), str(out)], env=environment, stdout=log, stderr=log
        )


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def actors(process):
    found = []
    for worker in psutil.process_iter(["cmdline"]):
        if "MapWorker" in " ".join(worker.info["cmdline"] or ()):
            found.append(worker)
    return found


def written(out):
    return [path for path in out.glob("*.parquet") if path.stat().st_size] if out.is_dir() else []


def check(out, manifest):
    rows = {row["id"]: row for row in map(json.loads, manifest.read_text().splitlines())}
    found = parquet.read_table(out).to_pylist()
    assert sorted(row["id"] for row in found) == sorted(rows)
    scorer = load(str(WEIGHTS), device="cpu")
    for row in found:
        if row["id"].endswith("broken"):
            assert row["score"] is None and "broken.png" in row["error"]
        else:
            wanted = rows[row["id"]]
            assert abs(row["score"] - scorer.score(wanted["prompt"], wanted["image"])) < CLOSE


def test_an_actor_that_is_killed_costs_nothing(manifest, tmp_path):
    out = tmp_path / "out"
    process = start(tmp_path, manifest, out)
    try:
        assert wait_for(lambda: written(out), process), (tmp_path / "log.txt").read_text()
        for victim in actors(process)[:1]:
            victim.send_signal(signal.SIGKILL)
        assert process.wait(400) == 0, (tmp_path / "log.txt").read_text()
    finally:
        process.kill()
    check(out, manifest)


def test_a_driver_that_is_killed_is_resumed(manifest, tmp_path):
    out = tmp_path / "out"
    process = start(tmp_path, manifest, out)
    assert wait_for(lambda: written(out), process), (tmp_path / "log.txt").read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = max(written(out), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:100])
    again = start(tmp_path, manifest, out)
    try:
        assert again.wait(400) == 0, (tmp_path / "log.txt").read_text()
    finally:
        again.kill()
    check(out, manifest)


def test_what_ray_cannot_score_is_said_before_it_starts(manifest, pictures, tmp_path):
    from imagereward_core.bulk.ray_engine import score_with_ray, written

    with pytest.raises(ConfigError, match=r"\.tar"):
        score_with_ray("shard.tar", tmp_path / "out", load, "tiny")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ConfigError, match="--resume"):
        score_with_ray(str(manifest), tmp_path / "full", load, "tiny")
    done = score(pictures, "-o", tmp_path / "out", "--engine", "ray")
    assert done.returncode == 2 and "--manifest" in done.stderr
    import pyarrow

    for name in ("a", "b"):
        parquet.write_table(
            pyarrow.table({"id": ["same"], "error": [""]}), (tmp_path / "full").joinpath(f"{name}.parquet")
        )
    with pytest.raises(DataError, match="twice"):
        written(tmp_path / "full")
