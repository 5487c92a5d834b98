"""What a run trains, keeps and refuses."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import imagereward_core as RM
from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig
from imagereward_core.errors import ConfigError, DataError, TrainingError
from imagereward_core.model import RewardModel
from imagereward_core.weights.find import read_state
from imagereward_train import train
from imagereward_train.dataset import build_dataset
from imagereward_train.ema import Ema
from imagereward_train.export import TRAINING_KEY
from imagereward_train.freezing import freeze
from imagereward_train.initial import initial_model, initialise
from imagereward_train.items import pairs_of
from imagereward_train.trainer import Trainer
from imagereward_train.watch import Watch, no_better_than_chance

from .drawn import write_rankings
from .small import TINY, events, losses, quick


def moved(config, path):
    """Names of the tensors that differ between a run's start and a checkpoint."""
    start, end = initial_model(config).state_dict(), load_file(path)
    return {name for name in start if not torch.equal(start[name], end[name])}


@pytest.mark.parametrize("fix_rate", [0.0, 0.7, 1.0])
def test_every_trainable_tensor_changes_and_no_other(tmp_path, fix_rate):
    config = quick(tmp_path, train_iters=3, fix_rate=fix_rate)
    path = train(config)
    assert path == tmp_path / "run/best.safetensors"
    assert moved(config, tmp_path / "run/last.safetensors") == set(freeze(RewardModel(TINY), fix_rate))


def test_checkpoint_scores_are_standardised_on_the_validation_set(tmp_path):
    config = quick(tmp_path, train_iters=4, test_fraction=0.2)
    scorer = RM.load(train(config), device="cpu")
    trainer_data = Trainer(dataclasses.replace(config, resume=True)).data
    scores = torch.tensor(
        [score for item in trainer_data.valid for score in scorer.score(item.prompt, list(item.images))]
    )
    assert scores.mean().item() == pytest.approx(0, abs=1e-4) and scores.std(correction=0).item() == pytest.approx(
        1, abs=1e-4
    )
    _, metadata = read_state(tmp_path / "run/best.safetensors")
    assert ModelConfig.from_json(metadata[METADATA_KEY]).vision == TINY.vision
    assert json.loads(metadata[TRAINING_KEY])["pairs"] == events(tmp_path / "run", "valid")[0]["pairs"]
    assert json.loads((tmp_path / "run/result.json").read_text())["test"]["pairs"] > 0


def test_best_is_kept_when_later_ones_are_worse(tmp_path):
    config = quick(tmp_path, train_iters=12, lr=0.3, max_grad_norm=1.0)  # far too fast: validation gets worse
    train(config)
    valid = events(tmp_path / "run", "valid")
    best = min(valid, key=lambda event: event["loss"])
    assert best["update"] < valid[-1]["update"]
    _, metadata = read_state(tmp_path / "run/best.safetensors")
    assert json.loads(metadata[TRAINING_KEY])["update"] == best["update"]
    _, metadata = read_state(tmp_path / "run/last.safetensors")
    assert json.loads(metadata[TRAINING_KEY])["update"] == valid[-1]["update"]


def test_early_stop(tmp_path):
    train(quick(tmp_path, epochs=40, lr=0.3, max_grad_norm=1.0, patience=2))
    valid = [event["loss"] for event in events(tmp_path / "run", "valid")]
    assert len(valid) < 41 and min(valid) < min(valid[-2:]) and valid.index(min(valid)) == len(valid) - 3


def test_validations_before_during_and_after(tmp_path):
    train(quick(tmp_path, epochs=2, valid_per_epoch=1))
    assert [event["update"] for event in events(tmp_path / "run", "valid")] == [0, 3, 6]


def test_gradient_checkpointing_changes_nothing(tmp_path):
    config = quick(tmp_path, savepath=str(tmp_path / "plain"), train_iters=3, dropout=1.0)
    train(config)
    train(dataclasses.replace(config, savepath=str(tmp_path / "saving"), gradient_checkpointing=True))
    assert losses(tmp_path / "saving") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)


def test_bf16_trains_with_an_fp32_head(tmp_path):
    config = quick(tmp_path, savepath=str(tmp_path / "bf16"), train_iters=3, precision="bf16")
    trainer = Trainer(config)
    seen = {}
    trainer.net.mlp.register_forward_hook(lambda module, inputs, output: seen.update(head=output.dtype))
    trainer.net.blip.visual_encoder.blocks[0].mlp.fc1.register_forward_hook(
        lambda module, inputs, output: seen.update(backbone=output.dtype)
    )
    trainer.fit()
    assert seen == {"head": torch.float32, "backbone": torch.bfloat16}
    train(dataclasses.replace(config, savepath=str(tmp_path / "fp32"), precision="fp32"))
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), abs=0.03)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(tmp_path / "bf16/best.safetensors").values())


def test_head_only_learns_on_cached_features(tmp_path, monkeypatch):
    config = quick(tmp_path, epochs=10, fix_base=True, lr=1e-2, dropout=0.0)
    train(config)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    assert {name.split(".")[0] for name in moved(config, tmp_path / "run/last.safetensors")} == {"mlp"}
    assert not any("blip" in name for name in load_file(tmp_path / "run/state/model.safetensors"))
    # A second run finds the features; its first validation equals the full network's.
    monkeypatch.setattr(RewardModel, "features", lambda *args: pytest.fail("computed twice"))
    train(dataclasses.replace(config, savepath=str(tmp_path / "again"), cache=str(tmp_path / "run/cache")))
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    monkeypatch.undo()
    train(dataclasses.replace(config, savepath=str(tmp_path / "full"), fix_base=False, fix_rate=1.0))
    assert losses(tmp_path / "full") == pytest.approx(losses(tmp_path / "run"), abs=1e-5)


def test_features_cached_with_the_data_set_are_used(tmp_path, monkeypatch):
    base = train(quick(tmp_path, savepath=str(tmp_path / "base"), train_iters=1))
    data = tmp_path / "data/rankings.json"
    with pytest.raises(DataError, match="takes images of 16 pixels, and size is 32"):
        build_dataset(data, tmp_path / "wrong", size=32, features=str(base))
    manifest = build_dataset(data, tmp_path / "built", size=16, valid_fraction=0.25, features=str(base))
    assert manifest["features"] in {path.name for path in (tmp_path / "built/cache").iterdir()}
    monkeypatch.setattr(RewardModel, "features", lambda *args: pytest.fail("computed again"))
    train(
        quick(
            tmp_path,
            data=str(tmp_path / "built"),
            model=ModelConfig(),
            preload_path=str(base),
            fix_base=True,
            train_iters=2,
        )
    )
    assert len(losses(tmp_path / "run")) == 2


def test_ema_of_known_numbers(tmp_path):
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    ema = Ema(module, 0.5)
    module.weight.data.fill_(3.0)
    ema.update()  # d = min(0.5, 2/11)
    averaged = 1 * 2 / 11 + 3 * 9 / 11
    with ema.applied():
        assert module.weight.item() == pytest.approx(averaged)
    assert module.weight.item() == 3.0
    other = Ema(torch.nn.Linear(1, 1, bias=False), 0.5)
    ema.save(tmp_path / "ema.safetensors")
    other.load(tmp_path / "ema.safetensors")
    assert other.shadow["weight"].item() == pytest.approx(averaged) and other.updates == 1


def test_ema_is_what_is_validated_and_saved(tmp_path):
    config = quick(tmp_path, savepath=str(tmp_path / "plain"), train_iters=6, lr=1e-2)
    train(config)
    train(dataclasses.replace(config, savepath=str(tmp_path / "ema"), ema=0.99))
    assert losses(tmp_path / "ema") == losses(tmp_path / "plain")
    assert events(tmp_path / "ema", "valid")[-1]["loss"] != events(tmp_path / "plain", "valid")[-1]["loss"]


# --- dead runs --------------------------------------------------------------------------------------------------------


def test_the_papers_head_initialisation_stalls_and_is_caught(tmp_path):
    wide = dataclasses.replace(
        TINY, text=TextConfig(width=192, depth=1, heads=2, intermediate=32, max_positions=16), head=(1024, 128, 64, 16)
    )
    config = quick(tmp_path, epochs=30, model=wide, head_init="paper", fix_base=True, lr=1e-5, stall_steps=8)
    with pytest.raises(TrainingError, match="stayed at ln 2 = 0.6931 for 8 updates and all images get the same reward"):
        train(config)
    valid = events(tmp_path / "run", "valid")
    assert valid[0]["std"] < 1e-4 and valid[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_nan_is_caught(tmp_path):
    trainer = Trainer(quick(tmp_path, train_iters=3))
    with torch.no_grad():
        trainer.net.mlp.layers[0].weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="validation loss is NaN at update 0"):
        trainer.fit()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((float("nan"), 1.0, 1.0), "the loss became nan at update 3"),
        ((0.5, 1.0, 2e4), "a reward reached 2e\\+04 at update 3: the run is exploding"),
    ],
)
def test_watch_messages(values, message):
    with pytest.raises(TrainingError, match=message):
        Watch(10).check(3, *values)


def test_a_coin_could_do_it_too():
    # 58 of 100: one-sided, at 95 %, a coin reaches 58.2
    assert "orders 58% of 100 validation pairs" in no_better_than_chance({"validation": (0.58, 100)})
    assert (
        no_better_than_chance({"validation": (0.59, 100)}) == no_better_than_chance({"validation": (0.58, 400)}) == ""
    )


def test_the_best_of_many_coins_is_a_coin_still():
    # of 10 looks at 100 pairs the best coin reaches 0.5 + 2.57 * 0.05 = 62.8 %
    assert "62% of 100 validation pairs rightly (the best of 10 looks)" in no_better_than_chance(
        {"validation": (0.62, 100)}, 10
    )
    assert no_better_than_chance({"validation": (0.63, 100)}, 10) == ""


def test_the_test_set_counts_too():
    both = {"validation": (0.55, 100), "test": (0.56, 100)}
    assert "55% of 100 validation pairs and 56% of 100 test pairs" in no_better_than_chance(both, 2)
    assert no_better_than_chance({**both, "test": (0.7, 100)}, 2) == ""
    assert no_better_than_chance({"validation": (0.0, 0)}) == ""


def test_a_run_that_learnt_nothing_says_so_at_the_end(tmp_path, caplog):
    train(quick(tmp_path, train_iters=1, lr=1e-9))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert "a coin could do too" in result["warning"] and result["warning"] in caplog.text


def test_watch_forgives_an_interrupted_stall():
    watch = Watch(3)
    for loss in (0.6931, 0.6931, 0.5, 0.6931, 0.6931):
        watch.check(1, loss, 1e-6, 0.1)
    watch.check(1, 0.6931, 0.5, 0.1)  # chance, but rewards differ: it is learning or unlucky, not dead
    assert watch.stalled == 0


# --- where a run starts ---------------------------------------------------------------------------


def test_random_weights_give_different_rewards():
    net = RewardModel(dataclasses.replace(TINY, mean=0.0, std=1.0))
    torch.manual_seed(0)
    initialise(net)
    pixels = torch.randn(6, 3, 16, 16)
    ids = torch.tensor([[101, 1037, 4937, 102]])
    rewards = net(ids, torch.ones_like(ids), pixels)
    assert 0.01 < rewards.std().item() < 10


def test_preload_path_brings_architecture_and_weights(tmp_path):
    first = train(quick(tmp_path, savepath=str(tmp_path / "first"), train_iters=2))
    config = quick(
        tmp_path, savepath=str(tmp_path / "second"), train_iters=1, preload_path=str(first), model=ModelConfig()
    )
    start = initial_model(config)
    assert start.config == dataclasses.replace(TINY, mean=0.0, std=1.0)
    saved = load_file(first)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in start.state_dict().items())
    train(config)
    assert events(tmp_path / "second", "valid")[0]["loss"] == pytest.approx(
        min(event["loss"] for event in events(tmp_path / "first", "valid")), abs=1e-6
    )
    with pytest.raises(ConfigError, match="holds another architecture than `model`"):
        initial_model(dataclasses.replace(config, model=dataclasses.replace(TINY, max_tokens=9)))


def test_blip_initialisation_takes_the_backbone_and_leaves_the_rest(tmp_path, monkeypatch):
    """A file with BLIP's key names (momentum copies, queues and decoder included) fills the backbone; the head is
    new.
    """
    from imagereward_train import config as settings

    donor = RewardModel(dataclasses.replace(TINY, mean=0.0, std=1.0))
    torch.manual_seed(5)
    initialise(donor)
    state = {
        name.removeprefix("blip."): tensor for name, tensor in donor.state_dict().items() if name.startswith("blip.")
    }
    state |= {
        "visual_encoder_m.cls_token": torch.zeros(1),
        "image_queue": torch.zeros(2, 2),
        "temp": torch.zeros(1),
        "itm_head.weight": torch.zeros(2, 2),
    }
    state["text_decoder.bert.embeddings.word_embeddings.weight"] = torch.zeros(2)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model_large.safetensors")
    monkeypatch.setattr(settings, "ModelConfig", lambda: TINY)  # the check that BLIP's file fits the architecture
    net = initial_model(quick(tmp_path, init="blip", download_root=str(tmp_path)))
    ours = net.state_dict()
    assert all(
        torch.equal(ours[name], tensor) for name, tensor in donor.state_dict().items() if name.startswith("blip.")
    )
    assert not torch.equal(ours["mlp.layers.0.weight"], donor.state_dict()["mlp.layers.0.weight"])


# --- refusals -------------------------------------------------------------------------------------


def test_bad_data_is_refused_before_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "imagereward_train.initial.weights.locate", lambda *args, **options: pytest.fail("weights first")
    )
    config = quick(tmp_path, init="blip", model=ModelConfig())
    next((tmp_path / "data").glob("*.png")).unlink()
    with pytest.raises(DataError, match="no such image"):
        train(config)


def test_no_data(tmp_path):
    with pytest.raises(DataError, match="no training data"):
        train(quick(tmp_path, data=""))


def test_validation_prompts_are_taken_out_of_training(tmp_path, caplog):
    config = quick(tmp_path, train_iters=1)
    source = json.loads((tmp_path / "data/rankings.json").read_text())
    (tmp_path / "data/valid.json").write_text(
        json.dumps([{**item, "id": f"v{item['id']}", "prompt": item["prompt"].upper()} for item in source[:4]])
    )
    with caplog.at_level("WARNING", "imagereward"):
        trainer = Trainer(dataclasses.replace(config, valid=str(tmp_path / "data/valid.json")))
    assert (len(trainer.data.train), len(trainer.data.valid)) == (8, 4)
    assert "4 training items share a prompt or image with validation" in caplog.text


def test_curve_and_tensorboard(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(quick(tmp_path, train_iters=3, curve=True, tensorboard=True))
    with Image.open(tmp_path / "run/curve.png") as image:
        assert image.size == (1080, 432) and len(image.convert("RGB").getcolors(1 << 20)) > 10
    board = EventAccumulator(str(tmp_path / "run/tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx(losses(tmp_path / "run"))


def test_pairs_without_rankings_train_too(tmp_path):
    """A pair CSV, whole prompts or single pairs at a time, judged by the same count of pairs."""
    source = json.loads((write_rankings(tmp_path / "pictures", 8, size=16, k=4)).read_text())
    table = tmp_path / "pictures/pairs.csv"
    lines = [
        f'"{item["prompt"]}",{item["generations"][better]},{item["generations"][worse]}'
        for item in source
        for better, worse in pairs_of(item["ranking"])
    ]
    table.write_text("\n".join(["prompt,better,worse", *lines]))
    for name, rank_pair in (("whole", False), ("single", True)):
        train(
            quick(
                tmp_path,
                data=str(table),
                savepath=str(tmp_path / name),
                epochs=1,
                rank_pair=rank_pair,
                test_fraction=0.2,
            )
        )
        seen = sum(event["pairs"] for event in events(tmp_path / name, "train"))
        valid = events(tmp_path / name, "valid")[0]["pairs"]
        test = json.loads((tmp_path / name / "result.json").read_text())["test"]["pairs"]
        assert seen + valid + test == len(lines)
