"""Two processes joined by accelerate compute what one computes with twice the batch."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from refl.runfiles import read_events

from .tiny import colour_mix

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from refl import Trainer
from refl.config import load_config
from tests.refl.tiny import colour_mix
Trainer(args=load_config({config!r}), rewards=colour_mix(), judges=[]).train()
"""


@pytest.mark.newest
def test_two_processes_equal_one_with_the_doubled_batch(settings, tmp_path):
    pytest.importorskip("accelerate")
    from refl import Trainer

    one = dataclasses.replace(
        settings,
        output_dir=str(tmp_path / "one"),
        train_batch_size=2,
        gradient_accumulation_steps=2,
        max_train_steps=2,
        eval_steps=5,
    )
    two = dataclasses.replace(one, output_dir=str(tmp_path / "two"), gradient_accumulation_steps=1)
    Trainer(args=one, rewards=colour_mix(), judges=[]).train()
    (tmp_path / "run.json").write_text(two.to_json())
    script = tmp_path / "child.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), config=str(tmp_path / "run.json")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # what `accelerate launch` starts for several processes; it offers none for several on one CPU without MPI
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(port),
        str(script),
    ]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
    a, b = (
        [event for event in read_events(Path(item.output_dir) / "events.jsonl") if event["type"] == "step"]
        for item in (one, two)
    )
    assert len(a) == len(b) == 2
    assert (
        json.loads((Path(two.output_dir) / "checkpoints" / "step-000002" / "state.json").read_text())["info"]["samples"]
        == 4
    )
    for single, double in zip(a, b, strict=True):
        for name in ("reward", "reward_std", "grad_norm", "loss"):
            assert double[name] == pytest.approx(single[name], rel=2e-4), name
    weights = [
        load_file(Path(item.output_dir) / "checkpoints" / "step-000002" / "weights.safetensors") for item in (one, two)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(
            weights[1][name], tensor, rtol=1e-2, atol=2e-5
        )  # Adam divides small gradients by their own size


def test_accelerate_that_starts_one_process_on_the_cpu_is_told_of(monkeypatch, caplog):
    """`accelerate launch --cpu --num_processes 2` starts one, with the port of two."""
    from refl.distributed import Processes

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert Processes("cpu").count == 1 and "torchrun" not in caplog.text
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert Processes("cpu").count == 1 and "torchrun --nproc_per_node 2 -m refl" in caplog.text
