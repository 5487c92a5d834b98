"""A folder of pictures, the small world's reward model, and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

WEIGHTS = ROOT / "smallworld" / "weights" / "tiny-imagereward.safetensors"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Twelve pictures and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(12):
        pixels = generator.integers(0, 256, (48 + number, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def manifest(pictures, tmp_path):
    """Each picture twice, with prompts of its own."""
    path = tmp_path / "rows.jsonl"
    names = sorted(pictures.iterdir())
    rows = [
        {"id": f"{turn}-{name.stem}", "image": str(name), "prompt": f"a red circle {turn}"}
        for turn in (0, 1)
        for name in names
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(*arguments, **changes):
    """How the command line is started, and in which environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    line = [sys.executable, "-m", "imagereward_core", "score", "--model", str(WEIGHTS), *map(str, arguments)]
    return line, environment


def score(*arguments, cwd=ROOT, **changes):
    """Run `imagereward score`; the finished process."""
    line, environment = command(*arguments, **changes)
    return subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def lines(path):
    """The results in a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
