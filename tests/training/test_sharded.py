"""FSDP, on two CPU processes joined by gloo: as accelerate's configuration in docs/ asks for it, and in both of torch's
versions.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from imagereward_core.errors import ConfigError
from imagereward_train import train
from imagereward_train.formats import read_items
from imagereward_train.freezing import freeze
from imagereward_train.initial import initial_model
from imagereward_train.items import Item
from imagereward_train.sharding import fsdp_plugin

from ..conftest import ROOT
from .small import events, losses, quick
from .test_batches import scores

pytest.importorskip("torch.distributed.fsdp", reason="FSDP2 needs torch 2.6")
fsdp = sys.modules["torch.distributed.fsdp"]
pytestmark = pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="FSDP2 needs torch 2.6")
RUN = {
    "prompts": 14,
    "batch_size": 8,
    "total_batch": 8,
    "train_iters": 4,
    "fix_rate": 0.5,
    "max_grad_norm": 0.5,
    "device": "",
}


def started(command, folder):
    """Run a launcher, which finds the package here; fails with what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_accelerates_configuration_of_the_documentation_equals_one_process(tmp_path):
    one = quick(tmp_path, savepath=str(tmp_path / "one"), **RUN)
    train(one)
    dataclasses.replace(one, savepath=str(tmp_path / "two"), batch_size=4).to_yaml(tmp_path / "run.yaml")
    launch = ["accelerate.commands.launch", "--config_file", ROOT / "docs/fsdp.yaml", "--main_process_port", 0]
    done = started([*launch, "-m", "imagereward_core", "train", "--config", tmp_path / "run.yaml"], tmp_path)
    assert done.stdout.splitlines() == [str(tmp_path / "two/best.safetensors")]  # not once per process
    assert json.loads((tmp_path / "two/result.json").read_text())["processes"] == 2
    assert (tmp_path / "two/state/pytorch_model_fsdp_0").is_dir()  # accelerate falls back to DDP on CPUs without a word
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    # Norms before clipping at 0.5, over all shards together; clipping by a shard's own norm would be about half of it.
    norms = [[event["grad_norm"] for event in events(tmp_path / name, "train")] for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5) and max(norms[0]) > 0.5
    start, end = initial_model(one).state_dict(), load_file(tmp_path / "two/last.safetensors")
    assert {name for name in start if not start[name].equal(end[name])} == set(freeze(initial_model(one), 0.5))
    items: list[Item] = read_items(one.data).items
    assert scores(tmp_path / "two", items) == pytest.approx(scores(tmp_path / "one", items), abs=1e-4)


def test_bf16_and_fp16_under_fsdp_equal_ddp_with_the_head_in_fp32(tmp_path):
    config = quick(tmp_path, savepath=str(tmp_path), **{**RUN, "batch_size": 4, "train_iters": 2})
    config.to_yaml(tmp_path / "run.yaml")
    script = pathlib.Path(__file__).parent / "launch_sharded.py"
    started(["torch.distributed.run", "--standalone", "--nproc_per_node", 2, script, tmp_path / "run.yaml"], tmp_path)
    train(dataclasses.replace(config, savepath=str(tmp_path / "fp32"), batch_size=8))
    for name, kind in (
        ("ddp", "DistributedDataParallel"),
        ("fsdp1", "FullyShardedDataParallel"),
        ("fsdp2", "FSDPRewardModel"),
    ):
        seen = json.loads((tmp_path / f"{name}-bf16.json").read_text())
        assert seen["kind"] == kind
        assert seen["head"] == ["torch.float32"]  # output and weight
        assert (
            seen["trained"] == seen["frozen"] == ["torch.bfloat16", "torch.float32"]
        )  # computed in bf16 from fp32 weights
        assert (seen["frozen trains"], seen["trained trains"]) == (False, True)
        assert losses(tmp_path / f"{name}-bf16") == pytest.approx(losses(tmp_path / "ddp-bf16"), abs=1e-5)
    assert losses(tmp_path / "ddp-bf16") != pytest.approx(losses(tmp_path / "fp32"), abs=1e-5)
    assert losses(tmp_path / "ddp-bf16") == pytest.approx(losses(tmp_path / "fp32"), abs=0.03)
    if (tmp_path / "fsdp2-fp16").exists():
        seen = json.loads((tmp_path / "fsdp2-fp16.json").read_text())
        assert (seen["head"], seen["trained"]) == (["torch.float32"], ["torch.float16", "torch.float32"])
        assert losses(tmp_path / "fsdp2-fp16") == pytest.approx(losses(tmp_path / "fp32"), abs=3e-3)
    for kind in ("train", "valid"):
        assert events(tmp_path / "broken", kind) == events(tmp_path / "fsdp2-bf16", kind)
    ends = [load_file(tmp_path / name / "last.safetensors") for name in ("broken", "fsdp2-bf16")]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[1])


def test_what_fsdp_cannot_do_is_said(tmp_path, monkeypatch):
    assert fsdp_plugin() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(ConfigError, match="fsdp_cpu_ram_efficient_loading is for transformers' own models"):
        fsdp_plugin()
