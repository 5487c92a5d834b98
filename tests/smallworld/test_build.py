"""The whole recipe with a handful of steps: it runs, repeats, and leaves files that load."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from imagereward_core.hashing import file_digest
from smallworld.__main__ import main
from smallworld.build import SHORT, build
from smallworld.errors import SmallWorldError
from smallworld.pipeline import generate, load_pipeline
from smallworld.train_oracle import OracleTraining

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")
pytest.importorskip("imagereward_train")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    stages = []
    record = build(folder, SHORT, lambda stage, done, total, values: stages.append((stage, done, total)))
    return folder, record, stages


def test_every_stage_ran_to_its_end(built):
    _, record, stages = built
    assert {stage.split(":")[0] for stage, _, _ in stages} == {"oracle", "vae", "text", "generator", "reward"}
    assert set(record["seconds"]) == {"oracle", "vae", "text", "generator", "reward"}


def test_the_record_names_the_files(built):
    folder, record, _ = built
    assert json.loads((folder / "build.json").read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    assert {name: file_digest(folder / name) for name in record["sha256"]} == record["sha256"]


@pytest.mark.parametrize("where", ["pre-training", "ranking"])
def test_a_build_cut_off_goes_on_behind_its_last_finished_stage(built, where):
    folder, _, _ = built
    # Not the files' hashes: safetensors writes its metadata in no fixed order.
    before = {name: load_file(folder / name) for name in ("tiny-sd.safetensors", "tiny-imagereward.safetensors")}
    unfinished = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    del unfinished["seconds"]["reward"]
    (folder / "build.json").write_text(json.dumps(unfinished), encoding="utf-8")
    (folder / "tiny-imagereward.safetensors").unlink()
    if where == "pre-training":
        shutil.rmtree(folder / "reward-run")
    stages = []
    build(folder, SHORT, lambda stage, done, total, values: stages.append(stage.split(":")[0]))
    assert set(stages) == {"reward"}
    for name, tensors in before.items():
        after = load_file(folder / name)
        assert tensors.keys() == after.keys()
        assert all(torch.equal(tensors[key], after[key]) for key in tensors)


def test_a_build_with_other_settings_is_refused(built):
    folder, _, _ = built
    with pytest.raises(SmallWorldError, match="other settings"):
        build(folder, replace(SHORT, oracle=OracleTraining(pictures=99)), lambda *_: None)


def test_a_build_is_measured(built, tmp_path):
    folder, _, _ = built
    assert main(["evaluate", "--weights", str(folder), "--count", "8", "--json", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    assert (
        measured["tiny-imagereward"]["renders"]["all"] < 0.8
    )  # four updates: these are not the shipped weights, at 0.98


def test_an_unfinished_build_is_not_measured(tmp_path, capsys):
    assert main(["evaluate", "--weights", str(tmp_path)]) == 1
    assert "has no oracle.safetensors" in capsys.readouterr().err


def test_the_checkpoint_draws(built):
    folder, _, _ = built
    picture = generate(
        load_pipeline(folder / "tiny-sd.safetensors"), ["a red star on a white background"], [1], steps=2
    )[0]
    assert picture.size == (64, 64)
    assert np.asarray(picture).std() > 0


def test_the_reward_model_scores(built):
    import imagereward_core

    folder, _, _ = built
    scorer = imagereward_core.load(str(folder / "tiny-imagereward.safetensors"), device="cpu")
    assert np.isfinite(scorer.score("a red star", np.zeros((64, 64, 3), np.uint8)))


def test_the_generator_learns(tmp_path):
    """A quick overfit: the loss of the real training step falls on a handful of latents."""
    from smallworld.train_sd import GeneratorTrainer, GeneratorTraining

    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, 8, 8, generator=generator)
    contexts = torch.randn(5, 77, 96, generator=generator)
    trainer = GeneratorTrainer(
        GeneratorTraining(steps=60, batch_size=8, warmup=5), latents, contexts, torch.arange(1, 5)
    )
    losses = [trainer.train_step() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
