"""A run ended by a signal has saved its last complete update, and resumes to the numbers of one that was not."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from imagereward_train import train, trainer
from imagereward_train.interruption import Interruption
from imagereward_train.resume import find_state

from .small import events, losses, quick
from .test_resume import same_weights

ROOT = pathlib.Path(__file__).parents[2]


def interrupt_at(monkeypatch, place, call):
    """An interruption that is asked for at the n-th call of one of the trainer's functions."""
    interruption, real, calls = Interruption(), getattr(trainer, place), []

    def counted(*arguments):
        calls.append(place)
        if len(calls) == call:
            interruption.ask()
        return real(*arguments)

    monkeypatch.setattr(trainer, place, counted)
    return interruption


@pytest.mark.parametrize(
    ("place", "call", "saved", "valid"),
    [
        ("batch_loss", 4, 1, 1),  # in the middle of the second update, which has two batches
        ("learning_rate", 4, 3, 2),  # at the start of the fourth
        ("validate", 1, 0, 0),  # before the first update
        ("validate", 2, 3, 1),  # after the third, which is saved without its validation
        ("validate", 4, 9, 3),  # the last one
    ],
)
def test_interrupted_and_resumed_is_the_run_that_was_not(tmp_path, monkeypatch, place, call, saved, valid):
    straight = quick(tmp_path, savepath=str(tmp_path / "straight"), dropout=1.0, ema=0.9)
    train(straight)
    broken = dataclasses.replace(straight, savepath=str(tmp_path / "broken"), resume=True)
    with monkeypatch.context() as patched:
        train(broken, interruption=interrupt_at(patched, place, call))
    assert find_state(broken)[1].update == saved == len(losses(tmp_path / "broken"))
    assert len(events(tmp_path / "broken", "valid")) == valid
    assert not (tmp_path / "broken/result.json").exists()
    train(broken, interruption=Interruption())
    for kind in ("train", "valid"):
        assert events(tmp_path / "broken", kind) == events(tmp_path / "straight", kind)
    for name in ("best", "last"):
        assert same_weights(tmp_path / f"broken/{name}.safetensors", tmp_path / f"straight/{name}.safetensors")


def test_outside_training_an_interruption_does_not_wait():
    with pytest.raises(KeyboardInterrupt):
        Interruption().ask()


def in_front():
    """As a shell starts a program; a test runner in the background may have had Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_line_saves_and_returns_the_signals_code(tmp_path, number, code):
    config = quick(tmp_path, train_iters=1_000_000, save_every=1_000_000, valid_per_epoch=1, epochs=1)
    config.to_yaml(tmp_path / "run.yaml")
    command = [sys.executable, "-m", "imagereward_cli.main", "train", "--config", str(tmp_path / "run.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=in_front) as child:
        try:
            metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
            while not metrics.exists() or len(losses(tmp_path / "run")) < 3:
                assert child.poll() is None, child.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.1)
            child.send_signal(number)
            told = child.communicate(timeout=120)[1]
        finally:
            child.kill()
    assert child.returncode == code, told
    assert "give --resume" in told
    assert find_state(dataclasses.replace(config, resume=True))[1].update == len(losses(tmp_path / "run"))
