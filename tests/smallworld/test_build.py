"""The whole recipe with a handful of steps: it runs, repeats, and leaves files that load."""

import json

import numpy as np
import pytest

from smallworld.build import SHORT, build
from smallworld.demo import file_hash
from smallworld.pipeline import generate, load_pipeline

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")
pytest.importorskip("imagereward_core.training")


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
    assert {name: file_hash(folder / name) for name in record["sha256"]} == record["sha256"]


def test_the_checkpoint_draws(built):
    folder, _, _ = built
    picture = generate(load_pipeline(folder / "tiny-sd.safetensors"), ["a red star on a white background"], [1], steps=2)[0]
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
    trainer = GeneratorTrainer(GeneratorTraining(steps=60, batch_size=8, warmup=5), latents, contexts, torch.arange(1, 5))
    losses = [trainer.train_step() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
