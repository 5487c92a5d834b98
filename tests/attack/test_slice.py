"""A slice of the attack with a fixed seed and a fixed number of inputs, small enough for every test run.

`python -m tests.attack --minutes 30` is the whole of it.
"""

import random
import subprocess
import sys

import pytest

from . import faults, fuzz, mutations
from .targets import available

SEED = 13
INPUTS = {"metadata": 400, "images": 400, "texts": 400, "prompt_files": 300, "weights": 120, "api": 250}


@pytest.mark.parametrize("name", list(available()))
def test_no_input_is_a_finding(name):
    result = fuzz.attack(name, SEED, 600, 0, INPUTS[name])
    assert result.findings == [] and result.done == INPUTS[name]
    if name not in ("texts", "api"):  # these two refuse nothing by an error
        assert 0 < result.refused < result.done


@pytest.mark.parametrize("name", list(faults.FAULTS))
def test_no_fault_loses_anything(name):
    result = faults.inject(name, SEED, 0)
    if result.note:
        pytest.skip(result.note)
    assert result.findings == [] and result.rounds == 1


def test_inputs_are_a_function_of_the_seed():
    seeds = [b"\x89PNG\r\n\x1a\n" + bytes(200), b"GIF89a" + bytes(50)]
    made = [[mutations.mutated(random.Random(f"7 x {i}"), seeds) for i in range(50)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 40


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("\n        while True: pass", "hang"),
        ("keep.append(b'x' * (1400 << 20)); keep.clear()", "memory"),
        ("import os; os.kill(os.getpid(), 9)", "the process died"),
        ("raise ValueError", ""),
    ],
)
def test_the_attack_sees_what_it_is_there_to_see(body, finding, tmp_path):
    """A target with one fault each, run as the others are."""
    code = f"""
import sys
from tests.attack import targets, worker
keep = []
def make(folder):
    def feed(data):
        {body}
    return targets.Target(lambda rng: b"x", feed, (ValueError,))
targets.TARGETS["bad"] = make
worker.CPU = 1.0
sys.argv = ["worker", "bad", "1", "0", "1", "60", {str(tmp_path)!r}]
sys.exit(worker.main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=fuzz.ROOT)
    if finding == "the process died":
        assert done.returncode != 0 and (tmp_path / "now").read_text() == "0"
    elif finding:
        assert f'"kind": "{finding}"' in done.stdout, done.stdout + done.stderr
    else:
        assert '"refused": 1' in done.stdout and "kind" not in done.stdout
