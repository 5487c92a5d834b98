"""The memory estimate against measured peaks of the published architectures."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from refl.config import ReFLConfig
from refl.families import family
from refl.memory import OVERHEAD, MemoryEstimate, StorageTracker, estimate, estimate_config

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
