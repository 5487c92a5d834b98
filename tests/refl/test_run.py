"""A whole run on a tiny model: files, events, states, resume, export."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from imagereward_core.runs import State
from refl import Trainer, checkpoint
from refl.checkpoint import resumable
from refl.errors import CheckpointError, ConfigError, RewardError, RunBusyError, SaveError, TrainingDiverged
from refl.journal import Journal
from refl.metrics import MIXED, paired_change
from refl.rewards import Component, RewardMix
from refl.runfiles import read_events, read_json, send

from .tiny import ColourReward, colour_mix


def run(settings, **changes):
    return Trainer(args=dataclasses.replace(settings, **changes), rewards=colour_mix(), judges=[]).train()


def test_run_leaves_all_files(settings):
    result = run(settings)
    folder = Path(settings.output_dir)
    assert result.state == "finished" and result.step == 3
    assert result.exported == folder / "tiny-sd1-refl.safetensors" and result.exported.is_file()
    events = read_events(folder / "events.jsonl")
    assert [event["step"] for event in events if event["type"] == "step"] == [1, 2, 3]
    assert [event["step"] for event in events if event["type"] == "evaluation"] == [0, 2, 3]
    status = read_json(folder / "status.json")
    assert status["state"] == "finished" and status["step"] == 3
    assert (folder / "samples" / "step-000000.png").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "redness" in page
    assert json.loads((folder / "config.json").read_text())["lora_alpha"] == 4.0


def test_log_and_report_show_which_prompts_a_file_gave(settings, tmp_path, caplog):
    table = tmp_path / "prompts.csv"
    table.write_text("id;Prompt\n" + "".join(f'{n};"a red\nfox {n}"\n' for n in range(6)), encoding="utf-8")
    caplog.set_level("INFO")
    run(settings, prompts=[], train_data=str(table), max_train_steps=1)
    assert '6 prompts: "a red fox 0", "a red fox 1", "a red fox 2", …' in caplog.text
    page = (Path(settings.output_dir) / "report.html").read_text(encoding="utf-8")
    assert "Trained on 3 prompts: &quot;a red fox" in page and "held out 3 prompts: &quot;a red fox" in page


def metrics(folder):
    """What must not depend on interruptions: losses, rewards, gradient norms, evaluations."""
    rows = []
    for event in read_events(Path(folder) / "events.jsonl"):
        if event["type"] in ("step", "evaluation"):
            rows.append(
                {
                    key: value
                    for key, value in event.items()
                    if key not in ("time", "seconds_per_update", "peak_memory_gib")
                }
            )
    return sorted(rows, key=lambda row: (row["step"], row["type"]))


def test_same_seed_same_numbers_other_seed_other_numbers(settings, tmp_path):
    runs = [
        settings,
        dataclasses.replace(settings, output_dir=str(tmp_path / "b")),
        dataclasses.replace(settings, output_dir=str(tmp_path / "c"), seed=1),
    ]
    for item in runs:
        run(item)
    a, b, c = (metrics(item.output_dir) for item in runs)
    assert a == b and a != c


@pytest.mark.newest
def test_stop_and_resume_equals_a_straight_run(settings, tmp_path):
    run(settings)
    parts = dataclasses.replace(settings, output_dir=str(tmp_path / "parts"), anchor="samples", anchor_samples=4)
    straight = dataclasses.replace(parts, output_dir=str(tmp_path / "straight"))
    run(straight)
    first = run(dataclasses.replace(parts, max_train_steps=2))
    result = run(dataclasses.replace(parts, resume_from_checkpoint="latest"))
    assert result.step == 3
    ours, theirs = metrics(parts.output_dir), metrics(straight.output_dir)
    assert [row for row in ours if row["step"] == 3] == [row for row in theirs if row["step"] == 3]
    assert first.exported.name == "tiny-sd1-refl.safetensors"  # stays: what exists is never replaced
    assert result.exported.name == "tiny-sd1-refl-2.safetensors"
    a, b = (load_file(path) for path in (result.exported, Path(straight.output_dir) / "tiny-sd1-refl.safetensors"))
    assert all(torch.equal(a[key], b[key]) for key in a)


CHILD = """
import dataclasses, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from refl import Trainer
from refl.config import load_config
from tests.refl.tiny import colour_mix
config = load_config({config!r})
Trainer(args=config, rewards=colour_mix(), judges=[]).train()
"""


def start_child(settings, tmp_path, **changes):
    config = tmp_path / "run.json"
    config.write_text(dataclasses.replace(settings, **changes).to_json())
    code = CHILD.format(root=str(Path(__file__).parents[2]), config=str(config))
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def wait_for(condition, child=None, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        if child is not None and child.poll() is not None:
            raise AssertionError(child.stderr.read())
        time.sleep(0.05)
    raise AssertionError("timed out")


def steps_done(folder):
    return max(
        (event["step"] for event in read_events(Path(folder) / "events.jsonl") if event["type"] == "step"), default=0
    )


@pytest.mark.newest
def test_killed_run_resumes_to_identical_numbers(settings, tmp_path):
    straight = dataclasses.replace(
        settings, output_dir=str(tmp_path / "straight"), max_train_steps=8, checkpointing_steps=3, eval_steps=4
    )
    run(straight)
    killed = dataclasses.replace(straight, output_dir=str(tmp_path / "killed"))
    child = start_child(killed, tmp_path)
    wait_for(lambda: steps_done(killed.output_dir) >= 4, child)
    child.kill()
    child.wait()
    (Path(killed.output_dir) / "checkpoints" / ".step-000099.1.tmp").mkdir()  # as if killed while saving
    result = run(dataclasses.replace(killed, resume_from_checkpoint="latest"))
    assert result.state == "finished"
    assert metrics(killed.output_dir) == metrics(straight.output_dir)
    assert not list((Path(killed.output_dir) / "checkpoints").glob(".step-*"))


@pytest.mark.newest
def test_two_processes_cannot_train_in_one_folder(settings, tmp_path):
    child = start_child(settings, tmp_path, max_train_steps=1000)
    try:
        wait_for(lambda: (read_json(Path(settings.output_dir) / "status.json") or {}).get("state"), child)
        with pytest.raises(RunBusyError, match="another process"):
            run(settings)
    finally:
        child.kill()
        child.wait()
    run(settings)  # a killed process leaves no lock behind


def test_pause_sample_resume_and_stop(settings):
    folder = Path(settings.output_dir)
    trainer = Trainer(
        args=dataclasses.replace(settings, max_train_steps=1000, eval_steps=1000), rewards=colour_mix(), judges=[]
    )
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer.train()))
    thread.start()

    def status():
        return read_json(folder / "status.json") or {}

    wait_for(lambda: status().get("state") == "training")
    send(folder, "pause")
    wait_for(lambda: status().get("state") == "paused")
    before = steps_done(folder)
    assert (
        checkpoint.saved(folder / "checkpoints")[-1].name == f"step-{before:06d}"
    )  # a pause can be killed without loss
    time.sleep(0.5)
    assert steps_done(folder) == before
    send(folder, "resume")
    wait_for(lambda: steps_done(folder) > before)
    send(folder, "sample")
    wait_for(lambda: list((folder / "samples").glob("*-now.png")))
    send(folder, "stop")
    thread.join(60)
    assert results[0].state == "stopped" and status()["state"] == "stopped"
    result = results[0]
    assert resumable(folder) == result.step and steps_of(result.exported) == result.step
    assert "no evaluation has been made yet" in status()["message"]
    assert "nothing vouches for" in (folder / "report.html").read_text(encoding="utf-8")


def test_training_does_not_say_what_was_going_on_before(settings, monkeypatch):
    """Every status that says "training" is about training: nothing of the base model's pictures, nor of a pause that
    the stop rule asked for and that was ended.
    """
    folder, said = Path(settings.output_dir), []
    say = Journal.say

    def watched(journal, state, **changes):
        say(journal, state, **changes)
        status = read_json(folder / "status.json")
        said.append((status["state"], status.get("message", "")))
        if state is State.PAUSED:
            send(folder, "resume")

    monkeypatch.setattr(Journal, "say", watched)
    collapsing(settings, 1, stop_rule="pause", max_train_steps=2).train()
    training = [message for state, message in said if state == "training"]
    assert training[0] == "" and [message for state, message in said if state == "paused"][0].startswith("Paused: ")
    after = said[[state for state, _ in said].index("paused") + 1 :]
    assert [message for state, message in after if state == "training"][0] == ""


def test_the_count_of_samples_is_back_when_a_pause_ends(settings, monkeypatch):
    """A change of state clears the count; seen in a running WebUI as "update 1 of 20" alone, for a whole sample."""
    folder, seen = Path(settings.output_dir), []
    say, progress = Journal.say, Journal.progress

    def watched(journal, state, **changes):
        say(journal, state, **changes)
        seen.append(state.value)
        if state is State.TRAINING and State.PAUSED.value not in seen:
            send(folder, "pause")  # heard before the first sample of the update
        if state is State.PAUSED:
            send(folder, "resume")

    def counted(journal, done, total):
        progress(journal, done, total)
        seen.append(done)

    monkeypatch.setattr(Journal, "say", watched)
    monkeypatch.setattr(Journal, "progress", counted)
    Trainer(args=dataclasses.replace(settings, max_train_steps=1), rewards=colour_mix(), judges=[]).train()
    after = seen[seen.index("paused") + 1 :]
    assert after[:2] == ["training", 0]


def test_stop_now_leaves_without_saving(settings):
    folder = Path(settings.output_dir)
    trainer = Trainer(
        args=dataclasses.replace(settings, max_train_steps=1000, checkpointing_steps=1000, eval_steps=1000),
        rewards=colour_mix(),
        judges=[],
    )
    thread = threading.Thread(target=trainer.train)
    thread.start()
    wait_for(lambda: steps_done(folder) >= 1)
    send(folder, "stop_now")
    thread.join(60)
    assert not thread.is_alive() and resumable(folder) is None


@pytest.mark.newest
def test_child_ends_with_its_parent(settings, tmp_path):
    """The host holds the child's standard input; when the host dies it closes, and the child saves and ends."""
    config = tmp_path / "run.json"
    config.write_text(dataclasses.replace(settings, max_train_steps=1000, rewards=["unused"]).to_json())
    code = CHILD.format(root=str(Path(__file__).parents[2]), config=str(config)).replace(
        "Trainer(args=config, rewards=colour_mix(), judges=[]).train()",
        "from refl.runfiles import follow_stdin\ntrainer = Trainer(args=config, rewards=colour_mix(),"
        " judges=[])\nfollow_stdin(trainer.request_stop)\ntrainer.train()",
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: steps_done(settings.output_dir) >= 1)
    child.stdin.close()
    assert child.wait(60) == 0
    assert resumable(settings.output_dir) >= 1
    assert read_json(Path(settings.output_dir) / "status.json")["state"] == "stopped"


def test_states_kept_are_the_last_two_and_the_best(settings):
    trainer = Trainer(
        args=dataclasses.replace(settings, max_train_steps=6, eval_steps=1), rewards=colour_mix(), judges=[]
    )
    result = trainer.train()
    names = {path.name for path in checkpoint.saved(Path(settings.output_dir) / "checkpoints")}
    best = max(result.evaluations[1:], key=lambda item: item.reward).step
    assert names == {"step-000005", "step-000006", f"step-{best:06d}"}


def test_resume_refuses_other_settings(settings):
    run(settings, max_train_steps=1)
    used = (Path(settings.output_dir) / "config.json").read_text()
    with pytest.raises(ConfigError, match="must keep seed"):
        run(settings, resume_from_checkpoint="latest", seed=5)
    for changes, told in (
        ({"lora_rank": 8}, "begun with lora_rank 4 and cannot go on with 8"),
        ({"algorithm": "draft-lv"}, "begun with algorithm refl\\+ and cannot go on with draft-lv"),
        ({"lora_targets": "all"}, "lora_targets attention"),
    ):
        with pytest.raises(ConfigError, match=told):
            run(settings, resume_from_checkpoint="latest", **changes)
    # the folder still says what the run is, and the run goes on
    assert (Path(settings.output_dir) / "config.json").read_text() == used
    assert run(settings, resume_from_checkpoint="latest", max_train_steps=2).step == 2
    assert json.loads((Path(settings.output_dir) / "config.json").read_text())["max_train_steps"] == 2
    with pytest.raises(CheckpointError, match="no saved training state"):
        run(settings, resume_from_checkpoint=str(Path(settings.output_dir) / "samples"))


def test_full_disk_keeps_the_last_state_and_says_so(settings, monkeypatch):
    real, calls = checkpoint.save_tensors, []

    def full(state, target, metadata=None):
        calls.append(target)
        if len(calls) > 4:  # the first state needs weights, average and optimizer
            raise SaveError(f"cannot write {target}: [Errno 28] No space left on device")
        return real(state, target, metadata)

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(SaveError, match="No space left"):
        run(settings)
    folder = Path(settings.output_dir)
    assert resumable(folder) == 1 and not list((folder / "checkpoints").glob(".step*"))
    error = [event for event in read_events(folder / "events.jsonl") if event["type"] == "error"][0]
    assert "Free space" in error["hint"] and read_json(folder / "status.json")["state"] == "failed"
    monkeypatch.setattr(checkpoint, "save_tensors", real)
    assert run(settings, resume_from_checkpoint="latest").step == 3


def test_nan_loss_ends_the_run_with_a_hint(settings):
    class Broken(ColourReward):
        calls = 0

        def differentiable(self, prompts, images):
            if images.requires_grad:
                self.calls += 1
            return super().differentiable(prompts, images) * (float("nan") if self.calls > 2 else 1.0)

    with pytest.raises(TrainingDiverged, match="update 2"):
        Trainer(args=settings, rewards=RewardMix([Component(Broken())]), judges=[]).train()
    folder = Path(settings.output_dir)
    error = [event for event in read_events(folder / "events.jsonl") if event["type"] == "error"][0]
    assert error["error"] == "TrainingDiverged" and "learning rate" in error["hint"]
    assert resumable(folder) == 1


def test_reward_without_spread_is_refused(settings):
    class Flat(ColourReward):
        def differentiable(self, prompts, images):
            return super().differentiable(prompts, images) * 0 + 0.5

    with pytest.raises(RewardError, match="same score"):
        Trainer(args=settings, rewards=RewardMix([Component(Flat())]), judges=[]).train()


def test_unwritable_folder(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot write in the run folder"):
        run(settings, output_dir=str(tmp_path / "file" / "run"))


class FallsAfter(ColourReward):
    """A judge that stands in for a broken picture statistic: it falls from evaluation `sound` on (the base model's is
    number 0).
    """

    sound, evaluations = 1, -1

    def differentiable(self, prompts, images):
        self.evaluations += 1
        return torch.full((len(prompts),), -float(max(self.evaluations - self.sound + 1, 0))) + 0.01 * torch.arange(
            len(prompts)
        )


def steps_of(path):
    with safe_open(path, "pt") as file:
        return int(file.metadata()["ss_steps"])


def collapsing(settings, sound, **changes):
    config = dataclasses.replace(settings, eval_steps=1, learning_rate=3e-3, **{"max_train_steps": 10, **changes})
    judge = FallsAfter("falling")
    judge.sound = sound * -(-settings.held_out * settings.eval_seeds // 4)  # one call per batch of four pictures
    return Trainer(args=config, rewards=colour_mix(), judges=[judge])


@pytest.mark.newest
def test_stop_rule_ends_a_collapsing_run_and_exports_the_best(settings):
    result = collapsing(settings, 3, stop_rule="stop").train()
    assert result.state == "stop_rule" and result.step == 3
    assert "falling, which is not trained on, falls" in result.reason and "The result is update" in result.reason
    assert result.exported.is_file()
    assert steps_of(result.exported) in (1, 2)  # of before the fall, not of update 3
    page = (Path(settings.output_dir) / "report.html").read_text(encoding="utf-8")
    assert "falling" in page and "not trained on" in page


def test_a_run_that_was_never_sound_says_so(settings):
    result = collapsing(settings, 1, stop_rule="stop").train()
    assert result.step == 1 and steps_of(result.exported) == 1 and "probably worse than the base model" in result.reason


def test_stop_rule_pauses_with_the_reason_and_the_best_so_far(settings):
    """What the tab does by default. Resumed, the run goes on from its own weights, not from those exported."""
    folder = Path(settings.output_dir)
    trainer = collapsing(settings, 3, stop_rule="pause")
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer.train()))
    thread.start()

    def status():
        return read_json(folder / "status.json") or {}

    wait_for(lambda: status().get("state") == "paused")
    assert (
        "falls by" in status()["message"]
        and "Resume goes on" in status()["message"]
        and Path(status()["result"]).is_file()
    )
    saved = checkpoint.load(folder / "checkpoints" / "step-000003")
    assert all(torch.equal(saved.weights[name], parameter.cpu()) for name, parameter in trainer.engine.params.items())
    send(folder, "stop")
    thread.join(60)
    assert results[0].state == "stopped" and results[0].step == 3 and results[0].exported.is_file()


@pytest.mark.newest
def test_training_raises_the_reward_it_is_trained_on(settings):
    """On held-out prompts, by more than three standard errors; the tiny model's untrained VAE leaves little to gain."""
    result = run(
        settings,
        max_train_steps=30,
        eval_steps=30,
        learning_rate=1e-2,
        anchor="none",
        use_ema=False,
        checkpointing_steps=30,
    )
    change, error = paired_change(result.evaluations[0].scores[MIXED], result.evaluations[-1].scores[MIXED])
    assert change > 3 * error and change > 0.01
