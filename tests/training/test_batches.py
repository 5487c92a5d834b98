"""Cutting an update into parts changes nothing: accumulation, processes, and the plan behind them."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import imagereward_core as RM
from imagereward_train import TrainConfig, train
from imagereward_train.batches import Plan, share
from imagereward_train.formats import read_items
from imagereward_train.items import Item, pairs_of
from imagereward_train.loss import pairwise_loss

from .small import events, losses, quick

LAUNCH = str(pathlib.Path(__file__).parent / "launch.py")


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=8), st.data())
def test_loss_equals_the_two_class_cross_entropy(values, data):
    ranking = data.draw(st.lists(st.integers(1, 3), min_size=len(values), max_size=len(values)))
    pairs = pairs_of(ranking)
    if not pairs:
        return
    ours = torch.tensor(values, requires_grad=True)
    theirs = torch.tensor(values, requires_grad=True)
    loss = pairwise_loss(ours, torch.tensor(pairs), len(pairs))
    logits = torch.stack([torch.stack((theirs[better], theirs[worse])) for better, worse in pairs])
    reference = F.cross_entropy(logits, torch.zeros(len(pairs), dtype=torch.long))
    assert loss.item() == pytest.approx(reference.item(), abs=1e-5)
    loss.backward()
    reference.backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_shares_make_up_the_whole(count, micro, world, seed):
    whole = [(index, ((0, 1),)) for index in range(count)]
    dealt = [share(whole, micro, world, rank) for rank in range(world)]
    assert len({len(parts) for parts in dealt}) == 1
    found = [sample for parts in dealt for part in parts for sample in part if sample[1]]
    assert sorted(found) == whole
    assert all(part and len(part) <= micro for parts in dealt for part in parts)


def test_every_epoch_shows_every_sample_once_in_another_order():
    items = [Item(str(n), "p", ("a", "b", "c"), ((0, 1), (1, 2))) for n in range(10)]
    plan = Plan.of(TrainConfig(batch_size=2, total_batch=4), items, 1)
    epochs = [[sample for update in range(e * 3, e * 3 + 3) for sample in plan.update(update)] for e in range(2)]
    assert plan.updates_per_epoch == 3 and epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [(n, ((0, 1), (1, 2))) for n in range(10)]
    single = Plan.of(TrainConfig(batch_size=2, total_batch=4, rank_pair=True), items, 1)
    assert single.updates_per_epoch == 5 and all(len(pairs) == 1 for _, pairs in single.samples)


@pytest.mark.parametrize(
    ("world", "steps", "total", "micro"), [(1, 0, 64, 4), (8, 0, 64, 4), (32, 0, 64, 2), (2, 3, 24, 4)]
)
def test_total_batch_is_kept_on_any_number_of_devices(world, steps, total, micro):
    plan = Plan.of(TrainConfig(accumulation_steps=steps), [Item("1", "p", ("a", "b"), ((0, 1),))], world)
    assert (plan.total, plan.micro) == (total, micro)


def scores(folder, items):
    """Standardised scores of a run's last checkpoint. (Raw rewards have a free constant: the loss sees differences
    only, so the head's biases get gradients of rounding noise, which Adam turns into steps of full size.)
    """
    scorer = RM.load(folder / "last.safetensors", device="cpu")
    return [score for item in items for score in scorer.score(item.prompt, list(item.images))]


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 2, "rank_pair": True, "total_batch": 8}]
)
def test_accumulation_equals_the_large_batch(tmp_path, changes):
    whole = quick(tmp_path, savepath=str(tmp_path / "whole"), train_iters=4, **{**changes, "batch_size": 8})
    train(whole)
    train(dataclasses.replace(whole, savepath=str(tmp_path / "parts"), **changes))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    items = read_items(whole.data).items
    assert scores(tmp_path / "parts", items) == pytest.approx(scores(tmp_path / "whole", items), abs=1e-4)


def launched(processes, config, path):
    """Train in `processes` CPU processes joined by gloo, through torchrun, which accelerate builds on."""
    config.to_yaml(path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        LAUNCH,
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one(tmp_path):
    one = quick(
        tmp_path, savepath=str(tmp_path / "one"), prompts=14, batch_size=8, total_batch=8, train_iters=4, device=""
    )
    train(one)
    launched(2, dataclasses.replace(one, savepath=str(tmp_path / "two"), batch_size=4), tmp_path / "two.yaml")
    assert json.loads((tmp_path / "two/result.json").read_text())["processes"] == 2
    # 10 training prompts: the second update of each epoch has 2, so that a process without a share is covered too.
    assert [event["pairs"] for event in events(tmp_path / "two", "train")] == [
        event["pairs"] for event in events(tmp_path / "one", "train")
    ]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    for first, second in zip(events(tmp_path / "one", "valid"), events(tmp_path / "two", "valid")):
        assert {**second, "mean": 0} == pytest.approx({**first, "mean": 0}, abs=1e-5)
    items = read_items(one.data).items
    assert scores(tmp_path / "two", items) == pytest.approx(scores(tmp_path / "one", items), abs=1e-4)
