"""TrainConfig ↔ YAML ↔ flags, the learning rate's closed form, and which tensors are frozen."""

import argparse
import dataclasses
import math

import pytest

from imagereward_cli.commands.train import add_arguments, config_from, run
from imagereward_core.config import ModelConfig, VisionConfig
from imagereward_core.errors import ConfigError
from imagereward_core.model import RewardModel
from imagereward_train import TrainConfig
from imagereward_train.freezing import freeze, frozen_names
from imagereward_train.schedule import learning_rate

from .small import TINY


def parse(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_defaults_are_the_papers():
    c = TrainConfig()
    assert (c.lr, c.lr_decay_style, c.total_batch, c.fix_rate, c.init) == (1e-5, "cosine", 64, 0.7, "blip")
    assert (c.adam_beta1, c.adam_beta2, c.adam_eps, c.warmup, c.valid_per_epoch, c.epochs) == (
        0.9,
        0.999,
        1e-8,
        0.0,
        4,
        10,
    )
    assert c.model == ModelConfig()


def test_yaml_round_trip(tmp_path):
    config = TrainConfig(data="x.json", model=TINY, init="random", lr=3e-4, ema=0.99, fix_base=True)
    config.to_yaml(tmp_path / "run.yaml")
    assert TrainConfig.from_yaml(tmp_path / "run.yaml") == config
    assert TrainConfig.from_yaml(tmp_path / "run.yaml", lr=1).lr == 1.0


def test_yaml_spells_small_numbers_as_people_do(tmp_path):
    (tmp_path / "run.yaml").write_text("lr: 1e-4\nepochs: 3\nwarmup: 0\nmodel: small\ninit: random\nresume: true\n")
    config = TrainConfig.from_yaml(tmp_path / "run.yaml")
    assert (config.lr, config.warmup, config.resume, config.model.vision.width) == (1e-4, 0.0, True, 96)


def test_every_setting_is_a_flag_in_both_spellings():
    for entry in dataclasses.fields(TrainConfig):
        if entry.name == "model":
            continue
        kind, value = type(entry.default), {int: "3", float: "0.25", str: "abc", bool: "true"}[type(entry.default)]
        for flag in (f"--{entry.name}", f"--{entry.name.replace('_', '-')}"):
            assert kind(getattr(parse(flag, value), entry.name)) == kind(value)


def test_the_authors_command_line_is_understood(tmp_path, capsys):
    words = (
        "--savepath blip_uni_cross_mul --batch_size 4 --accumulation_steps 4 --epochs 10 --distributed True --gpu_num 4"
        " --gpu_id 0,1,2,3 --clear_visualizer --fix_rate 0.7 --lr 1e-05 --lr-decay-style cosine --warmup 0.0"
        " --rank_pair --load_pair_store --std_log --valid_per_epoch 4"
    )
    args = parse(*words.split(), "--data", "x", "--write-config", str(tmp_path / "run.yaml"))
    assert config_from(args) == TrainConfig(
        data="x", savepath="blip_uni_cross_mul", accumulation_steps=4, rank_pair=True
    )
    assert run(args) == 0
    captured = capsys.readouterr()
    assert "--gpu_num is not needed: accelerate launch decides" in captured.err
    assert TrainConfig.from_yaml(tmp_path / "run.yaml") == config_from(args)


def test_flags_override_the_file(tmp_path):
    TrainConfig(data="a", lr=1e-3, model=TINY, init="random").to_yaml(tmp_path / "c.yaml")
    config = config_from(parse("--config", str(tmp_path / "c.yaml"), "--lr", "0.5", "--fix_base"))
    assert (config.data, config.lr, config.fix_base, config.model) == ("a", 0.5, True, TINY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1}, "unknown settings ['learning_rate']"),
        ({"lr": "fast"}, "lr must be float, found 'fast'"),
        ({"epochs": 1.5}, "epochs must be int, found 1.5"),
        ({"epochs": 0}, "epochs must be at least 1, found 0"),
        ({"resume": "maybe"}, "resume must be bool, found 'maybe'"),
        ({"fix_rate": 1.5}, "fix_rate must be between 0 and 1, found 1.5"),
        (
            {"lr_decay_style": "exponential"},
            "lr_decay_style must be one of constant, linear, cosine, inverse_square_root",
        ),
        ({"model": "huge"}, "model must be blip-large, small or a JSON file"),
        ({"model": "small"}, "init blip fits the blip-large model only"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(values)
    assert message in str(caught.value)


def test_learning_rates_in_closed_form():
    cosine = TrainConfig(lr=2.0, warmup=0.1, lr_decay_ratio=0.5)
    assert [learning_rate(cosine, n, 100) for n in (0, 5, 10)] == pytest.approx([0, 1, 2])
    assert learning_rate(cosine, 55, 100) == pytest.approx(1 + math.cos(math.pi / 2) / 2 + 0.5)
    assert learning_rate(cosine, 100, 100) == pytest.approx(1.0)
    linear = TrainConfig(lr=2.0, lr_decay_style="linear", lr_decay_ratio=0.25)
    assert [learning_rate(linear, n, 100) for n in (0, 50, 100, 500)] == pytest.approx([2, 1.25, 0.5, 0.5])
    root = TrainConfig(lr=2.0, lr_decay_style="inverse_square_root", warmup=0.04)
    assert [learning_rate(root, n, 100) for n in (0, 4, 16, 64)] == pytest.approx([2, 2, 1, 0.5])
    assert learning_rate(TrainConfig(lr=2.0, lr_decay_style="constant"), 99, 100) == 2.0


def test_frozen_tensors_of_the_published_model():
    import torch

    with torch.device("meta"):
        net = RewardModel()
    trained = freeze(net, 0.7)
    text = [name for name in trained if name.startswith("blip.text_encoder.")]
    vision = [name for name in trained if name.startswith("blip.visual_encoder.")]
    assert {name.split(".")[4] for name in text} == {"8", "9", "10", "11"}
    assert {name.split(".")[3] for name in vision if ".blocks." in name} == set(map(str, range(16, 24)))
    assert [name for name in vision if ".blocks." not in name] == [
        "blip.visual_encoder.norm.weight",
        "blip.visual_encoder.norm.bias",
    ]
    frozen = set(frozen_names(net, 0.7))
    # The authors' loop stops after the first tensor of the first free layer, which therefore stays frozen.
    assert {name for name in frozen if ".layer.8." in name or ".blocks.16." in name} == {
        "blip.text_encoder.encoder.layer.8.attention.self.query.weight",
        "blip.visual_encoder.blocks.16.norm1.weight",
    }
    assert {
        "blip.vision_proj.weight",
        "blip.text_proj.bias",
        "blip.visual_encoder.pos_embed",
        "blip.text_encoder.embeddings.word_embeddings.weight",
    } <= frozen
    assert not any(name.startswith("mlp.") for name in frozen)


@pytest.mark.parametrize(
    ("rate", "base", "free"),
    [
        (0.0, False, {"blip.text_encoder", "blip.visual_encoder", "mlp.layers"}),
        (1.0, False, {"mlp.layers"}),
        (0.5, True, {"mlp.layers"}),
    ],
)
def test_freezing_nothing_and_everything(rate, base, free):
    net = RewardModel(TINY)
    assert {".".join(name.split(".")[:2]) for name in freeze(net, rate, base)} == free


def test_layer_one_is_not_taken_for_layer_ten():
    net = RewardModel(dataclasses.replace(TINY, vision=VisionConfig(16, 8, 16, 12, 2)))
    trained = freeze(net, 0.1)
    assert {int(name.split(".")[3]) for name in trained if ".blocks." in name} == set(range(1, 12))
