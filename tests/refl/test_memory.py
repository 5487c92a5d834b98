"""The memory estimate against measured peaks of the published architectures."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from refl.config import ReFLConfig
from refl.families import family
from refl.fitting import CARDS, bases, smallest, table
from refl.memory import OVERHEAD, MemoryEstimate, StorageTracker, estimate, estimate_config, subject

from .test_rewards_and_metrics import reward_file  # noqa: F401  a fixture

GIB = 2**30


@pytest.mark.newest
@pytest.mark.newest
@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("sd1", {}, 4.20),
        ("sd1", {"gradient_checkpointing": False, "vae_checkpointing": False}, 6.23),
        ("sd1", {"train_batch_size": 4}, 9.19),
        ("sdxl", {"resolution": 1024}, 12.29),
    ],
)
def test_published_architectures_are_within_15_percent(model, changes, expected):
    config = ReFLConfig(mixed_precision="bf16", anchor="none", guidance_scale=1.0, **changes).resolved(
        device_type="cuda"
    )
    found = estimate(config, family(model), free=8 * GIB)
    assert found.tensors / GIB == pytest.approx(expected, rel=0.15)
    assert found.total == pytest.approx(found.tensors + OVERHEAD) and found.fits is (found.total < 8 * GIB)
    assert found.sentence() == f"needs {found.total / GIB:.1f} GB, free 8.0 GB"


@pytest.mark.newest
def test_single_file_sizes_are_read_from_the_file(settings):
    found = estimate_config(settings)
    assert 0 < found.weights < 3 * GIB and found.tensors > found.weights
    more = estimate_config(dataclasses.replace(settings, train_batch_size=16))
    assert more.tensors > found.tensors


@pytest.mark.parametrize("lasting", [None, False])  # False: as on torch 2.1, whose storages' objects die early
def test_tracker_counts_what_lives(lasting):
    with StorageTracker(lasting) as tracker:
        a = torch.zeros(1000)
        view = a[:10]
        b = a + 1
        assert tracker.now == 8000 and view.numel() == 10
        del b
        assert tracker.now == 4000 and tracker.peak == 8000


@pytest.mark.parametrize("lasting", [None, False])
def test_tracker_sees_what_only_the_graph_holds(lasting):
    """Activations that a backward pass will need live although no name in Python does."""
    with StorageTracker(lasting) as tracker:
        weight = torch.zeros(1000, requires_grad=True)
        loss = (weight.exp().exp() * 1.0).sum()
        assert tracker.now >= 3 * 4000  # the weight and the two results of exp
        loss.backward()
        del loss
        assert tracker.now <= 2 * 4000 + 100  # the weight and its gradient


def test_unet_calls_and_fit():
    config = ReFLConfig(
        algorithm="refl", anchor="none", gradient_checkpointing=False, train_batch_size=1, gradient_accumulation_steps=1
    ).resolved()
    from refl.memory import _unet_calls

    assert _unet_calls(config) == round(34.5 + 3)  # on average 34.5 steps without gradient, then forward and backward
    assert MemoryEstimate(1, 2, 3, 2, 1).fits is False and MemoryEstimate(1, 2, 3, None, 1).fits is None


@pytest.mark.newest
def test_the_chosen_rewards_own_size_is_counted(settings, reward_file):  # noqa: F811
    small = estimate_config(dataclasses.replace(settings, rewards=[str(reward_file)]))
    published = estimate_config(settings)  # its weights are not here: a model of the published size stands in
    judged = estimate_config(dataclasses.replace(settings, rewards=[str(reward_file)], judges=["ImageReward-v1.0"]))
    assert published.weights - small.weights > 1.5 * GIB  # 0.45 billion weights of fp32
    assert judged.weights == pytest.approx(published.weights, rel=0.02)


@pytest.mark.newest
def test_the_table_holds_the_runs_own_estimate_and_grows_evenly(settings, reward_file):  # noqa: F811
    given = subject(dataclasses.replace(settings, rewards=[str(reward_file)], train_batch_size=4))
    cells = {cell["batch"]: cell for cell in table(given)}
    assert list(cells) == [1, 2, 4, 8] and [size for size, cell in cells.items() if cell["chosen"]] == [4]
    assert cells[4]["gb"] * GIB == pytest.approx(given.estimate().total, rel=0.01)
    assert {cell["resolution"] for cell in cells.values()} == {given.config.resolution}


@pytest.mark.newest
def test_what_fits_which_card_by_the_base(settings, reward_file):  # noqa: F811
    given = subject(dataclasses.replace(settings, rewards=[str(reward_file)], base_precision="nf4"))
    auto, int8, nf4 = bases(given)
    assert [auto["base"], int8["base"], nf4["base"]] == ["auto", "int8", "nf4"] and nf4["chosen"] and not auto["chosen"]
    assert auto["gb"] > nf4["gb"] and nf4["gb"] * GIB == given.estimate().total and nf4["card"] == CARDS[0] == 8
    assert [smallest(gib * GIB) for gib in (8, 9, 24, 25)] == [8, 12, 24, None]
    full = dataclasses.replace(settings, tune="full", output="single-file", rewards=[str(reward_file)])
    assert bases(subject(full)) == []


def test_errors_of_an_estimate_are_one_json_object(tmp_path, capsys):
    from refl.cli import main

    config = tmp_path / "config.json"
    config.write_text('{"pretrained_model_name_or_path": "nowhere.safetensors"}')
    assert main(["estimate", "--config", str(config)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["error"].startswith("no such checkpoint: nowhere.safetensors. Choose another checkpoint")
