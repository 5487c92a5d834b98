"""A run that is killed and resumed is the run that was never killed."""

import dataclasses
import pathlib
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from imagereward_core.errors import ConfigError, TrainingError
from imagereward_core.runs import RunDamaged
from imagereward_train import TrainConfig, train
from imagereward_train.resume import find_state

from .small import events, losses, quick

LAUNCH = str(pathlib.Path(__file__).parent / "launch.py")


def same_weights(first, second):
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_killed_twice_and_resumed_gives_the_same_run_to_the_bit(tmp_path):
    straight = quick(
        tmp_path, savepath=str(tmp_path / "straight"), epochs=4, dropout=1.0, ema=0.9, save_every=2, valid_per_epoch=2
    )
    train(straight)
    broken = dataclasses.replace(straight, savepath=str(tmp_path / "broken"), resume=True)
    broken.to_yaml(tmp_path / "broken.yaml")
    for kill_after in (4, 7):  # after a resume point, and between two
        process = subprocess.run(
            [sys.executable, LAUNCH, str(tmp_path / "broken.yaml"), str(kill_after)], capture_output=True, text=True
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert len(losses(tmp_path / "broken")) == kill_after
    train(broken)
    assert len(losses(tmp_path / "straight")) == 12
    assert (tmp_path / "broken/state/ema.safetensors").is_file() and not list(
        (tmp_path / "broken/state").glob("custom*")
    )
    for kind in ("train", "valid"):
        assert events(tmp_path / "broken", kind) == events(tmp_path / "straight", kind)
    for name in ("best", "last"):
        assert same_weights(tmp_path / f"broken/{name}.safetensors", tmp_path / f"straight/{name}.safetensors")


def test_stopping_at_every_update(tmp_path):
    train(quick(tmp_path, savepath=str(tmp_path / "straight"), train_iters=5))
    config = quick(tmp_path, train_iters=5, resume=True)
    for done in range(1, 6):
        train(config, should_stop=lambda: True)
        assert len(losses(tmp_path / "run")) == done
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    assert same_weights(tmp_path / "run/last.safetensors", tmp_path / "straight/last.safetensors")


def test_a_kill_while_saving_leaves_the_former_state(tmp_path, monkeypatch):
    from accelerate import Accelerator

    config = quick(tmp_path, train_iters=6, save_every=2, resume=True, valid_per_epoch=1)
    whole = Accelerator.save_state
    calls = []

    def dies(self, folder, *args, **kwargs):
        calls.append(folder)
        if len(calls) == 3:
            pathlib.Path(folder).mkdir()
            (pathlib.Path(folder) / "model.safetensors").write_bytes(b"torn")
            raise KeyboardInterrupt
        return whole(self, folder, *args, **kwargs)

    monkeypatch.setattr(Accelerator, "save_state", dies)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    assert find_state(config)[1].update == 2
    train(config)
    train(quick(tmp_path, savepath=str(tmp_path / "straight"), train_iters=6, save_every=2))
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


def test_a_second_run_in_the_same_folder_is_refused_and_the_lock_is_freed(tmp_path):
    config = quick(tmp_path, train_iters=2, resume=True)
    refused = []

    def second_run():
        with pytest.raises(TrainingError, match="another run is training in") as caught:
            train(config)
        refused.append(str(caught.value))
        return True

    train(config, should_stop=second_run)
    assert len(refused) == 1 and len(losses(tmp_path / "run")) == 1
    train(config)
    assert len(losses(tmp_path / "run")) == 2


def test_other_settings_are_refused_by_name(tmp_path):
    config = quick(tmp_path, train_iters=1)
    train(config)
    with pytest.raises(ConfigError, match="already holds a run: set resume"):
        train(config)
    with pytest.raises(ConfigError, match=r"epochs was 3, is 9; lr was 0.001, is 0.5"):
        train(dataclasses.replace(config, resume=True, lr=0.5, epochs=9))
    assert train(dataclasses.replace(config, resume=True, workers=1)).name == "best.safetensors"  # nothing left to do


def test_a_run_that_never_reached_a_state_starts_anew(tmp_path):
    config = quick(tmp_path, train_iters=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"kind": "train", "upd')
    with pytest.raises(ConfigError, match="choose another savepath or remove it"):
        train(config)
    train(dataclasses.replace(config, resume=True))
    assert len(losses(tmp_path / "run")) == 1


def test_config_is_written_beside_the_run(tmp_path):
    import json

    config = quick(tmp_path, train_iters=1)
    train(config)
    assert TrainConfig.from_dict(json.loads((tmp_path / "run/config.json").read_text())) == config


@pytest.mark.parametrize("torn", ['{"position": {"upd', "[]", "{}", '{"config": {}, "position": 3}'])
def test_a_torn_description_of_the_state_is_named(tmp_path, torn):
    state = tmp_path / "run" / "state"
    state.mkdir(parents=True)
    (state / "run.json").write_text(torn, encoding="utf-8")
    with pytest.raises(RunDamaged, match=r"run\.json is damaged"):
        find_state(quick(tmp_path, savepath=str(tmp_path / "run"), resume=True))
