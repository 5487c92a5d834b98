"""Saved states and results: torn ones, those of an earlier version, names that are taken, disks that are full."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagereward_core.runs import read_events, read_settings, read_status
from refl import Trainer, checkpoint
from refl.cli import main
from refl.config import ReFLConfig, load_config
from refl.engine import Engine
from refl.errors import CheckpointError, ConfigError, SaveError

from .tiny import ColourReward, colour_mix

FIXTURES = Path(__file__).parent / "fixtures"


def run(settings, **changes):
    trainer = Trainer(args=dataclasses.replace(settings, **changes), rewards=colour_mix(), judges=[])
    return trainer.train()


@pytest.fixture()
def quick(settings):
    """Three updates, a state after each, all kept."""
    return dataclasses.replace(settings, eval_steps=100, checkpoints_total_limit=5, gradient_accumulation_steps=1)


@pytest.fixture()
def three(quick):
    run(quick)
    return Path(quick.output_dir)


def states(folder):
    return checkpoint.saved(folder / "checkpoints")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "name", "word"),
    [
        (cut, "weights.safetensors", "bytes instead of"),
        (drop, "weights.safetensors", "weights.safetensors is missing"),
        (drop, "optimizer.safetensors", "optimizer.safetensors is missing"),
        (cut, "optimizer.safetensors", "bytes instead of"),
        (drop, "ema.safetensors", "ema.safetensors is missing"),
        (cut, "state.json", "state.json is damaged"),
    ],
)
def test_a_torn_newest_state_falls_back_to_the_last_sound_one(quick, three, harm, name, word):
    harm(three / "checkpoints" / "step-000003" / name)
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load(three / "checkpoints" / "step-000003")
    result = run(quick, resume_from_checkpoint="latest", max_train_steps=4)
    assert result.state == "finished" and result.step == 4
    resumed = [event for event in read_events(three / "events.jsonl") if event["type"] == "resumed"]
    assert resumed[-1]["step"] == 2 and word in resumed[-1]["torn"][0]
    message = read_status(three).message
    assert word in message and "Resumed from update 2, the last sound state" in message
    assert checkpoint.load(three / "checkpoints" / "step-000003").step == 3  # made again


def test_one_seed_has_no_diversity_and_resumes_all_the_same(quick):
    config = dataclasses.replace(quick, eval_seeds=1, max_train_steps=1)
    run(config)
    assert run(config, max_train_steps=2, resume_from_checkpoint="latest").step == 2


def test_without_a_sound_state_nothing_starts_anew(quick, three):
    for state in states(three):
        cut(state / "weights.safetensors")
    with pytest.raises(CheckpointError, match="none of the saved states can be read"):
        run(quick, resume_from_checkpoint="latest")
    assert len(states(three)) == 3


def test_a_state_of_an_earlier_version_without_its_optimizer_is_torn(three):
    state = three / "checkpoints" / "step-000003"
    data = json.loads((state / "state.json").read_text())
    del data["files"]  # sizes were not kept then
    (state / "state.json").write_text(json.dumps(data))
    assert checkpoint.load(state).step == 3
    (state / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is missing"):
        checkpoint.load(state)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": None},
        {"step": "3"},
        {"info": None},
        {"optimizer": []},
        {"info": {"seed": "x"}},
        {"info": {"history": 3}},
    ],
)
def test_a_state_of_other_kinds_is_torn(three, changes):
    state = three / "checkpoints" / "step-000003"
    data = {**json.loads((state / "state.json").read_text()), **changes}
    (state / "state.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="is torn"):
        checkpoint.load(state)


def test_the_best_state_lost_is_said_and_the_last_one_exported(settings):
    trainer = Trainer(args=dataclasses.replace(settings, eval_steps=1), rewards=colour_mix(), judges=[])
    real = trainer._finish

    def lose(*arguments):
        trainer.best = (1, 9.0)
        shutil.rmtree(Path(settings.output_dir) / "checkpoints" / "step-000001", ignore_errors=True)
        return real(*arguments)

    trainer._finish = lose
    result = trainer.train()
    assert result.exported.is_file()
    message = read_status(settings.output_dir).message
    assert "The best state, of update 1, is lost" in message and "the result is update 3" in message


# --- an unfinished run of an earlier version -------------------------------------------------------------------------


def with_drawn_text_encoder(source, target):
    """The tiny model with a text encoder drawn by name, whose numbers no library's initialisation decides."""
    state = load_file(source)
    for key, tensor in state.items():
        if key.startswith("cond_stage_model."):
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            noise = 0.1 * torch.randn(tensor.shape, generator=generator)
            state[key] = 1 + noise if "norm" in key and key.endswith("weight") else noise
    save_file(state, str(target), {"modelspec.title": "tiny"})
    return target


@pytest.fixture()
def old(tmp_path, models):
    """The folder of a run that was stopped after three of four updates, as version eb51ad8 wrote it for the tab."""
    folder = tmp_path / "runs" / "20260101-120000-tiny-sd1"
    shutil.copytree(FIXTURES / "unfinished_run_of_eb51ad8", folder)
    model = with_drawn_text_encoder(models["sd1"], tmp_path / "tiny-sd1.safetensors")
    for name in ("config.json", "asked.json", "status.json", "events.jsonl"):
        text = (folder / name).read_text()
        for word, path in (("MODEL", model), ("BPE", models["bpe"]), ("RUN", folder)):
            text = text.replace(f'"{word}', f'"{path}')
        (folder / name).write_text(text)
    return folder


def test_a_run_of_an_earlier_version_lists_resumes_and_finishes_as_before(old):
    from imagereward_webui.refl_tab.runs import Runs

    runs = Runs(old.parent, dict)
    summary = runs.summary(old.name)
    assert (summary["state"], summary["step"], summary["max_steps"]) == ("stopped", 3, 4)
    assert summary["resumable"] and summary["commands"] == ["resume"] and summary["algorithm"] == "refl+"
    assert [event["step"] for event in runs.events(old.name)["events"] if event["type"] == "step"] == [1, 2, 3]
    runs.wake = lambda: None  # the process is this one
    runs.resume(old.name)
    assert runs.summary(old.name)["state"] == "queued" and read_settings(old)["resume_from_checkpoint"] == "latest"
    (old / "queued").unlink()
    trainer = Trainer(args=load_config(old / "config.json"), rewards=colour_mix(), judges=[], name_reserved=True)
    result = trainer.train()
    assert result.state == "finished" and result.step == 4 and result.exported.is_file()
    expected = json.loads((FIXTURES / "finished_by_eb51ad8.json").read_text())
    events = read_events(old / "events.jsonl")
    for kind in ("step", "evaluation"):
        last = [event for event in events if event["type"] == kind][-1]
        found = {name: last[name] for name in expected[kind]}
        assert found == pytest.approx(expected[kind], rel=1e-3, abs=1e-6), kind
    assert runs.summary(old.name)["state"] == "finished"


# --- names and room --------------------------------------------------------------------------------------------------


def test_nothing_that_exists_is_replaced(quick, tmp_path):
    loras = tmp_path / "Lora"
    loras.mkdir()
    taken = loras / "tiny-sd1-refl.safetensors"
    taken.write_bytes(b"mine")
    result = run(quick, export_dir=str(loras), max_train_steps=1)
    assert result.exported == loras / "tiny-sd1-refl-2.safetensors" and taken.read_bytes() == b"mine"
    assert "the result is called tiny-sd1-refl-2" in read_status(quick.output_dir).message
    again = run(quick, export_dir=str(loras), max_train_steps=2, resume_from_checkpoint="latest")
    assert again.exported == loras / "tiny-sd1-refl-3.safetensors" and result.exported.is_file()


def test_a_name_that_was_asked_for_and_is_taken_is_refused_before_anything_is_loaded(quick, tmp_path, monkeypatch):
    (tmp_path / "taken.safetensors").write_bytes(b"mine")
    named = dataclasses.replace(quick, export_dir=str(tmp_path), output_name="Taken", max_train_steps=1)
    monkeypatch.setattr("refl.setup.load_backend", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=r"there is a Taken in .* already"):
        run(named)
    monkeypatch.undo()
    promised = Trainer(args=named, rewards=colour_mix(), judges=[], name_reserved=True)  # appeared since it was queued
    assert promised.train().exported == tmp_path / "Taken-2.safetensors"
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"


def test_exporting_again_replaces_nothing(quick, three, caplog):
    first = three / "tiny-sd1-refl.safetensors"
    before = first.read_bytes()
    assert main(["export", "--run-dir", str(three), "--step", "1"]) == 0
    assert first.read_bytes() == before and (three / "tiny-sd1-refl-2.safetensors").is_file()
    assert "the result is called tiny-sd1-refl-2" in caplog.text
    assert main(["export", "--run-dir", str(three), "--output_name", "tiny-sd1-refl"]) == 1
    assert "already" in caplog.text and first.read_bytes() == before
    assert main(["export", "--run-dir", str(three), "--output_name", "other"]) == 0
    assert (three / "other.safetensors").is_file()
    cut(three / "config.json")
    assert main(["export", "--run-dir", str(three)]) == 1
    assert "the settings of this run are damaged" in caplog.text


def test_a_disk_without_room_is_told_before_training(quick, monkeypatch):
    usage = shutil.disk_usage(Path(quick.output_dir).parent)
    monkeypatch.setattr("imagereward_core.runs.results.shutil.disk_usage", lambda _: usage._replace(free=50_000))
    with pytest.raises(SaveError, match=r"has 0 MB free, and this run needs .* for 7 saved states, .* for the result"):
        run(quick)
    assert not list((Path(quick.output_dir) / "samples").iterdir())


@pytest.mark.parametrize("place", ["output_dir", "export_dir"])
def test_a_folder_that_cannot_be_written_is_told_before_training(quick, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot (be )?writ"):
        run(quick, **{place: str(tmp_path / "file" / "x")})


def test_a_full_disk_in_training_is_a_message(quick, monkeypatch):
    def full(self, step):
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/state.json")

    monkeypatch.setattr(Engine, "update", full)
    with pytest.raises(SaveError, match=r"cannot be written \(state\.json\): No space left"):
        run(quick)
    status = read_status(quick.output_dir)
    assert status.state == "failed" and "Free space" in status.hint


def test_settings_are_asked_once_and_never_torn(quick):
    folder = Path(quick.output_dir)
    run(quick, max_train_steps=1, lora_alpha=None)
    asked, used = json.loads((folder / "asked.json").read_text()), read_settings(folder)
    assert asked["lora_alpha"] is None and used["lora_alpha"] == 4.0
    run(ReFLConfig.from_dict(used), max_train_steps=2, resume_from_checkpoint="latest")
    assert json.loads((folder / "asked.json").read_text()) == asked
    assert {**read_settings(folder), "max_train_steps": 1, "resume_from_checkpoint": ""} == used


# --- a stop in the middle --------------------------------------------------------------------------------------------


class Interrupting(ColourReward):
    """Interrupts the run at its n-th call."""

    calls, at, trainer = 0, -1, None

    def differentiable(self, prompts, images):
        self.calls += 1
        if self.calls == self.at:
            self.trainer.interrupt()
        return super().differentiable(prompts, images)


def interrupted(settings, at):
    judge = Interrupting("judge", 1)
    judge.at = at
    judge.trainer = Trainer(args=settings, rewards=colour_mix(), judges=[judge])
    return judge.trainer.train()


def evaluations(folder):
    dropped = ("time", "type")
    events = [event for event in read_events(Path(folder) / "events.jsonl") if event["type"] == "evaluation"]
    return [{name: value for name, value in event.items() if name not in dropped} for event in events]


def test_an_evaluation_that_was_cut_off_is_made_up_for(settings, tmp_path):
    """Six pictures in batches of four: two calls of the judge per evaluation, of updates 0, 2 and 3."""
    straight = dataclasses.replace(settings, output_dir=str(tmp_path / "straight"))
    interrupted(straight, -1)
    result = interrupted(settings, 3)
    assert result.state == "stopped" and result.step == 2 and len(result.evaluations) == 1
    assert checkpoint.load(Path(settings.output_dir) / "checkpoints" / "step-000002").step == 2
    resumed = interrupted(dataclasses.replace(settings, resume_from_checkpoint="latest"), -1)
    assert resumed.state == "finished"
    assert evaluations(settings.output_dir) == evaluations(straight.output_dir)


def test_a_stop_between_the_two_updates_of_the_papers_algorithm_takes_the_first_back(settings):
    """Otherwise the saved state would hold half an update."""
    config = dataclasses.replace(
        settings, algorithm="refl", anchor="samples", anchor_samples=2, max_train_steps=2, guidance_scale=1.0
    )
    trainer = Trainer(args=config, rewards=colour_mix(), judges=[])
    reached, real = [], Engine._reward_gradients

    def stop(engine, step):
        if step == 1:
            reached.append({name: value.detach().clone() for name, value in engine.params.items()})
            trainer.interrupt()
        return real(engine, step)

    Engine._reward_gradients = stop
    try:
        assert trainer.train().step == 1
    finally:
        Engine._reward_gradients = real
    folder = Path(settings.output_dir) / "checkpoints"
    before, saved = (load_file(folder / "step-000001" / "weights.safetensors") for _ in range(2))
    assert any(not torch.equal(reached[0][name], before[name]) for name in before)  # the anchor had moved them
    assert all(torch.equal(trainer.engine.params[name].detach(), saved[name]) for name in saved)


def test_a_library_that_makes_an_error_of_the_stop_does_not_make_the_run_fail(settings, monkeypatch):
    """Imports of large libraries do: what is raised in their middle arrives as another exception."""
    trainer = Trainer(args=settings, rewards=colour_mix(), judges=[])

    def wrapping(*_):
        try:
            trainer.interrupt()
        except BaseException as error:
            raise RuntimeError("failed to import a module") from error

    monkeypatch.setattr("refl.trainer.Preparation.run", wrapping)
    assert trainer.train().state == "stopped"
    assert read_status(settings.output_dir).state == "stopped"


def test_an_error_of_the_preparation_without_a_stop_stays_one(settings, monkeypatch):
    def failing(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("refl.trainer.Preparation.run", failing)
    with pytest.raises(RuntimeError, match="broken"):
        Trainer(args=settings, rewards=colour_mix(), judges=[]).train()


# --- a branch --------------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_branch_goes_on_from_a_state_and_leaves_the_old_run_alone(quick, monkeypatch):
    """Without changes it makes the updates that the run made, bit by bit; its result has a name of its own."""
    result = run(quick)
    old = Path(quick.output_dir)
    before = contents(old)
    started = []
    monkeypatch.setattr("refl.cli._train", lambda args: started.append(args) or 0)
    assert main(["branch", "--run-dir", str(old), "--step", "2"]) == 0
    new = Path(f"{old}-from-2")
    assert [path.name for path in (new / "checkpoints").iterdir()] == ["step-000002"]
    (args,) = started
    config = load_config(args.config)
    assert args.run_dir == config.output_dir == str(new) and config.resume_from_checkpoint == "latest"
    assert all(event["step"] <= 2 for event in read_events(new / "events.jsonl"))
    assert (new / "samples" / "step-000000.png").is_file()
    again = Trainer(args=config, rewards=colour_mix(), judges=[]).train()
    assert again.step == result.step == 3 and again.exported != result.exported
    assert "-from-2" in again.exported.name
    ends = [checkpoint.load(folder / "checkpoints" / "step-000003").weights for folder in (old, new)]
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
    assert contents(old) == before


def test_a_branch_with_other_settings_and_a_best_state_of_before(quick):
    from refl.output import begin_branch

    run(quick, eval_steps=1, learning_rate=1e-2)
    old = Path(quick.output_dir)
    state = json.loads((old / "checkpoints" / "step-000003" / "state.json").read_text())
    state["info"]["best"] = [1, 0.5]
    (old / "checkpoints" / "step-000003" / "state.json").write_text(json.dumps(state))
    new = begin_branch(old, 3, None, {"learning_rate": 1e-5, "max_train_steps": 4})
    assert sorted(path.name for path in (new / "checkpoints").iterdir()) == ["step-000001", "step-000003"]
    config = load_config(new / "config.json")
    assert (config.learning_rate, config.max_train_steps) == (1e-5, 4)


@pytest.mark.parametrize(
    ("step", "changes", "word"),
    [(7, {}, "there are: 1, 2, 3"), (2, {"output_name": "taken"}, "there is a taken"), (2, {"lora_rak": 1}, "unknown")],
)
def test_a_branch_that_cannot_begin_is_refused_and_leaves_nothing(three, step, changes, word):
    from refl.output import begin_branch

    old = three
    (old.with_name("results")).mkdir()
    (old.with_name("results") / "taken.safetensors").write_bytes(b"")
    changes = {"export_dir": str(old.with_name("results")), **changes}
    with pytest.raises(ConfigError, match=word):
        begin_branch(old, step, str(old.with_name("new")), changes)
    assert not old.with_name("new").exists()
    (old.with_name("new")).mkdir()
    (old.with_name("new") / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="a folder of its own"):
        begin_branch(old, 2, str(old.with_name("new")), {})
    assert (old.with_name("new") / "mine.txt").read_text() == "mine"
