"""How a training process ends: signals, the host's end, exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagereward_core.runs import read_status
from refl import checkpoint

from .processes import ROOT, environment, steps_done, training, wait_for
from .test_rewards_and_metrics import reward_file  # noqa: F401  a fixture

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture()
def config(settings, reward_file, tmp_path):  # noqa: F811
    """A file of settings for `python -m refl train`."""

    def write(**changes) -> Path:
        values = {"rewards": [str(reward_file)], "max_train_steps": 100_000, "eval_steps": 100_000, **changes}
        path = tmp_path / "run.json"
        path.write_text(dataclasses.replace(settings, **values).to_json())
        return path

    return write


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_last_complete_update(config, settings, number, code):
    folder = Path(settings.output_dir)
    with training(config(checkpointing_steps=100_000)) as child:
        wait_for(lambda: steps_done(folder) >= 2, child)
        assert checkpoint.saved(folder / "checkpoints") == []
        child.send_signal(number)
        assert child.wait(120) == code, child.stderr.read()
    status = read_status(folder)
    assert status.state == "stopped" and status.step == steps_done(folder) and "can be resumed" in status.message
    state = checkpoint.load(folder / "checkpoints" / f"step-{status.step:06d}")
    assert state.step == status.step and state.optimizer["state"]
    again = config(max_train_steps=status.step + 1, resume_from_checkpoint="latest")
    with training(again) as child:
        assert child.wait(300) == 0, child.stderr.read()
    assert read_status(folder).state == "finished" and steps_done(folder) == status.step + 1


def test_a_signal_before_the_first_update_leaves_at_once(config, settings):
    with training(config()) as child:
        wait_for(lambda: (Path(settings.output_dir) / "status.json").exists(), child)
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 130, child.stderr.read()
    assert read_status(settings.output_dir).state == "stopped"


def test_a_second_signal_does_not_wait_for_saving(config, settings, tmp_path):
    folder = Path(settings.output_dir)
    (tmp_path / "sitecustomize.py").write_text(
        "import imagereward_core.atomic as atomic, time\n"
        "real = atomic.replacing_folder\n"
        "def slow(target):\n"
        f"    open({str(tmp_path / 'saving')!r}, 'w').close(); time.sleep(1000)\n"
        "atomic.replacing_folder = slow\n"
    )
    os.environ["PYTHONPATH"], before = (
        f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        os.environ.get("PYTHONPATH", ""),
    )
    try:
        with training(config(checkpointing_steps=100_000)) as child:
            wait_for(lambda: steps_done(folder) >= 1, child)
            child.send_signal(signal.SIGINT)
            wait_for((tmp_path / "saving").exists, child)
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
    finally:
        os.environ["PYTHONPATH"] = before
    assert checkpoint.saved(folder / "checkpoints") == []


def test_a_signal_while_paused_saves_too(config, settings):
    from refl.runfiles import send

    folder = Path(settings.output_dir)
    with training(config()) as child:
        wait_for(lambda: steps_done(folder) >= 1, child)
        send(folder, "pause")
        wait_for(lambda: read_status(folder).state == "paused", child)
        child.send_signal(signal.SIGTERM)
        assert child.wait(120) == 143
    assert read_status(folder).state == "stopped" and checkpoint.saved(folder / "checkpoints")


@pytest.mark.parametrize(("changes", "code", "state"), [({}, 0, "finished"), ({"max_eps_mse": 0.0}, 3, "stop_rule")])
def test_exit_codes_arrive_while_the_host_holds_the_pipe(config, settings, changes, code, state):
    """A thread that waits in sys.stdin's buffer at the end of the interpreter aborted the process (exit code -6)."""
    with training(
        config(max_train_steps=1, eval_steps=1, stop_rule="stop", **changes), "--follow-stdin", stdin=subprocess.PIPE
    ) as child:
        returned = child.wait(300)
        assert returned == code, child.stderr.read()
    assert read_status(settings.output_dir).state == state


def test_errors_have_their_exit_code_and_are_told_once(config, settings):
    path = config()
    path.write_text(json.dumps({**json.loads(path.read_text()), "pretrained_model_name_or_path": "/nothing"}))
    with training(path, "--follow-stdin", stdin=subprocess.PIPE) as child:
        assert child.wait(300) == 1
        told = child.stderr.read().decode()
    assert told.count("no such checkpoint") == 1 and "Choose another checkpoint" in told
    assert read_status(settings.output_dir).state == "failed"
    log = (Path(settings.output_dir) / "log.txt").read_text(encoding="utf-8")
    assert log.count("no such checkpoint: /nothing") == 1


def test_a_defect_leaves_its_traceback_once(config, settings, tmp_path):
    """Where the host has sent standard error to log.txt already, nothing is written twice either."""
    (tmp_path / "sitecustomize.py").write_text(
        "import refl.setup\ndef broken(*_): raise IndexError('a defect')\nrefl.setup.read_prompts = broken\n"
    )
    folder = Path(settings.output_dir)
    folder.mkdir()
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    for kept in (False, True):
        with open(folder / "log.txt" if kept else tmp_path / "err", "wb") as stream:
            command = [sys.executable, "-m", "refl", "train", "--config", str(config())]
            done = subprocess.run(
                command, env={**environment(), "PYTHONPATH": path}, stderr=stream, check=False, cwd=ROOT, timeout=300
            )
        assert done.returncode == 1
        for file in (folder / "log.txt", Path(stream.name)):
            text = file.read_text(encoding="utf-8")
            assert text.count("IndexError: a defect") == 1 and text.count("in broken") == 1, file
