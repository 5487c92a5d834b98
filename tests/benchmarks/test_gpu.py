"""The GPU benchmark runs whole on a CPU, with tiny models: what needs a GPU says so, the rest gives figures."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.newest


def test_dry_run(tmp_path):
    pytest.importorskip("diffusers")
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    sections = result["sections"]
    assert result["dry_run"] and not [name for name, found in sections.items() if "failed" in found]
    exact = sections["parity"]["rows"][0]
    assert exact["precision"] == "fp32" and exact["max_score_difference"] < 1e-5 < exact["score_spread"]
    assert exact["gradient_cosine"] > 0.999
    assert {row["batch"] for row in sections["throughput"]["rows"]} == {1, 4}
    assert sections["pause"]["score_difference"] < 1e-6
    assert sections["refl_update"]["rows"][0]["seconds_per_update"] > 0
    for name in ("unload", "out_of_memory"):
        assert "CUDA" in sections[name]["skipped"]
    assert "| precision | max_score_difference |" in (tmp_path / "gpu.md").read_text()
