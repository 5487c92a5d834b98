"""fp16 with a loss scale, on the CPU: the same code of accelerate's as on a GPU."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from imagereward_core.errors import ConfigError, TrainingError
from imagereward_train import train
from imagereward_train.trainer import Trainer
from imagereward_train.watch import SKIPS, Watch

from .small import events, losses, quick

pytestmark = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="fp16 on the CPU needs torch 2.3")


@pytest.fixture
def start_at(monkeypatch):
    """Lets the loss scale start elsewhere than at 2^16."""
    whole = torch.amp.GradScaler
    return lambda scale: monkeypatch.setattr(torch.amp, "GradScaler", lambda device: whole(device, init_scale=scale))


def test_fp16_trains_like_fp32_with_an_fp32_head(tmp_path):
    config = quick(tmp_path, savepath=str(tmp_path / "fp16"), train_iters=3, precision="fp16", max_grad_norm=0.5)
    trainer = Trainer(config)
    seen = {}
    trainer.net.mlp.register_forward_hook(lambda module, inputs, output: seen.update(head=output.dtype))
    trainer.net.blip.visual_encoder.blocks[0].mlp.fc1.register_forward_hook(
        lambda module, inputs, output: seen.update(backbone=output.dtype)
    )
    trainer.fit()
    assert seen == {"head": torch.float32, "backbone": torch.float16}
    train(dataclasses.replace(config, savepath=str(tmp_path / "fp32"), precision="fp32"))
    first, second = events(tmp_path / "fp16", "train"), events(tmp_path / "fp32", "train")
    assert losses(tmp_path / "fp16") == pytest.approx(losses(tmp_path / "fp32"), abs=3e-3) and losses(
        tmp_path / "fp16"
    ) != losses(tmp_path / "fp32")
    # Norms of unscaled gradients: at a scale of 65536 they would be that many times as large, and clipping would then
    # stop the run.
    assert [event["grad_norm"] for event in first] == pytest.approx([event["grad_norm"] for event in second], rel=0.02)
    assert {event["scale"] for event in first} == {65536.0} and not any(event["skipped"] for event in first)
    assert all("scale" not in event for event in second)
    assert {
        tensor.dtype
        for name, tensor in load_file(tmp_path / "fp16/best.safetensors").items()
        if "position_ids" not in name
    } == {torch.float32}


def test_an_overflowing_update_changes_nothing_and_halves_the_scale(tmp_path, start_at):
    start_at(2.0**60)
    config = quick(tmp_path, train_iters=1, precision="fp16", ema=0.5)
    trainer = Trainer(config)
    before = {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}
    trainer.fit()
    (event,) = events(tmp_path / "run", "train")
    assert event["skipped"] and event["scale"] == 2.0**59 and event["grad_norm"] is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.net.state_dict().items())
    assert trainer.ema.updates == 0 and trainer.position.skipped == 1


def test_resumed_at_every_update_it_is_the_same_run(tmp_path, start_at):
    start_at(2.0**22)  # far enough up that some updates are skipped before the scale fits
    straight = quick(tmp_path, savepath=str(tmp_path / "straight"), train_iters=9, precision="fp16", dropout=1.0)
    train(straight)
    broken = dataclasses.replace(straight, savepath=str(tmp_path / "broken"), resume=True)
    for _ in range(9):
        train(broken, should_stop=lambda: True)
    skipped = [event["skipped"] for event in events(tmp_path / "straight", "train")]
    assert skipped[0] and not skipped[-1]
    for kind in ("train", "valid"):
        assert events(tmp_path / "broken", kind) == events(tmp_path / "straight", kind)


def test_a_run_whose_every_update_overflows_is_caught():
    watch = Watch(0, skipped=SKIPS - 2)
    watch.check(1, 0.6, 1.0, 1.0, skipped=True)
    watch.check(2, 0.6, 1.0, 1.0)
    assert watch.skipped == 0
    watch.skipped = SKIPS - 1
    with pytest.raises(TrainingError, match=f"overflowed fp16 in {SKIPS} updates in a row"):
        watch.check(3, 0.6, 1.0, 1.0, skipped=True)


def test_a_torch_without_a_scaler_for_the_cpu_is_named(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.amp, "GradScaler")
    with pytest.raises(ConfigError, match=r"precision fp16 on the CPU needs torch 2.3 or newer, found"):
        train(quick(tmp_path, precision="fp16"))
