"""Settings, flags, the command line, and what an import costs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

import refl
from refl.cli import main
from refl.config import PRESETS, ReFLConfig, load_config
from refl.errors import ConfigError
from refl.families import FAMILIES
from refl.options import UNUSED_REFERENCE_FLAGS, add_options, config_from_argv
from refl.resolved import FLOW_INFLATION, Usual, resolve

# Every flag of the reference's ReFL script.
REFERENCE_FLAGS = [
    "grad_scale",
    "input_pertubation",
    "revision",
    "dataset_name",
    "dataset_config_name",
    "image_column",
    "caption_column",
    "max_train_samples",
    "validation_prompts",
    "output_dir",
    "cache_dir",
    "seed",
    "resolution",
    "center_crop",
    "random_flip",
    "train_batch_size",
    "num_train_epochs",
    "max_train_steps",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "learning_rate",
    "scale_lr",
    "lr_scheduler",
    "lr_warmup_steps",
    "snr_gamma",
    "use_8bit_adam",
    "allow_tf32",
    "use_ema",
    "non_ema_revision",
    "dataloader_num_workers",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "push_to_hub",
    "hub_token",
    "hub_model_id",
    "logging_dir",
    "mixed_precision",
    "report_to",
    "local_rank",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "enable_xformers_memory_efficient_attention",
    "noise_offset",
    "validation_epochs",
    "tracker_project_name",
]


def test_every_flag_of_the_reference_is_accepted():
    import argparse

    parser = argparse.ArgumentParser()
    add_options(parser)
    known = {name.lstrip("-") for action in parser._actions for name in action.option_strings}
    assert set(REFERENCE_FLAGS) <= known
    fields = {item.name for item in dataclasses.fields(ReFLConfig)}
    assert set(REFERENCE_FLAGS) - fields == set(UNUSED_REFERENCE_FLAGS)


def test_flags_reach_the_settings_and_unused_ones_are_explained(caplog):
    config = config_from_argv(
        ["--grad_scale", "0.002", "--train_batch_size", "4", "--no-use_ema", "--prompts", "a", "b", "--revision", "x"]
    )
    assert (config.grad_scale, config.train_batch_size, config.use_ema, config.prompts) == (0.002, 4, False, ["a", "b"])
    assert "--revision has no effect" in caplog.text


@pytest.mark.parametrize("flag", ["--dataset_config_name 2m_random_1k"])
def test_flags_that_would_be_missed_are_refused_by_name(flag):
    with pytest.raises(ConfigError, match=f"{flag} is not supported: "):
        config_from_argv(flag.split())
    assert config_from_argv(["--report_to", "none"]) == ReFLConfig()


def test_schedules_of_the_reference():
    """Restarts are one cycle, as diffusers has them by default, and the polynomial's degree is one."""
    from types import SimpleNamespace

    from refl.engine import Engine

    def rates(name):
        flags = ["--lr_warmup_steps", "2", "--max_train_steps", "10", "--learning_rate", "1"]
        config = config_from_argv(["--lr_scheduler", name, *flags])
        engine = SimpleNamespace(config=config, processes=SimpleNamespace(count=1))
        return [Engine.learning_rate(engine, step) for step in range(11)]

    assert rates("cosine_with_restarts") == rates("cosine")
    linear = rates("linear")
    assert rates("polynomial") == pytest.approx([*linear[:2], *(1e-7 + (1 - 1e-7) * rate for rate in linear[2:])])


def test_json_round_trip_and_flags_on_top(tmp_path):
    config = ReFLConfig(learning_rate=3e-4, rewards=["a", "b=0.5"], eta=0.5)
    path = tmp_path / "run.json"
    path.write_text(config.to_json())
    assert load_config(path) == config
    assert config_from_argv(["--config", str(path), "--eta", "1"]) == dataclasses.replace(config, eta=1.0)


def test_presets_set_batch_sizes_and_flags_win():
    config = config_from_argv(["--preset", "12 GB", "--train_batch_size", "4"])
    assert (config.train_batch_size, config.gradient_accumulation_steps) == (4, 8)
    for changes in PRESETS.values():
        assert ReFLConfig(**changes).resolved().samples_per_step == 16


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"learning_rat": 1}, "unknown setting learning_rat"),
        ({"learning_rate": "fast"}, "learning_rate must be float or null"),
        ({"max_train_steps": 1.5}, "max_train_steps must be int"),
        ({"use_ema": 1}, "use_ema must be bool"),
        ({"prompts": "a"}, "prompts must be"),
    ],
)
def test_wrong_names_and_kinds_are_refused(data, word):
    with pytest.raises(ConfigError, match=word):
        ReFLConfig.from_dict(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "ppo"},
        {"max_train_steps": 0},
        {"learning_rate": -1.0},
        {"draft_steps": 6},
        {"base_steps": -1},
        {"base_steps": 18},
        {"base_steps": 2, "algorithm": "refl"},
        {"resolution": 500},
        {"min_step": 19, "max_step": 5},
        {"max_step": 20},
        {"eta": 2.0},
        {"guidance_scale": 0.5},
        {"anchor": "pretrain"},
        {"ema_decay": 1.0},
        {"rewards": []},
        {"output_name": "../x"},
    ],
)
def test_values_out_of_range_are_refused_by_name(changes):
    with pytest.raises(ConfigError) as caught:
        ReFLConfig(**changes).resolved()
    assert any(name in str(caught.value) for name in changes)


def test_defaults_of_the_algorithms():
    plus, paper = ReFLConfig().resolved(), ReFLConfig(algorithm="refl").resolved()
    assert (
        plus.num_inference_steps,
        plus.min_step,
        plus.max_step,
        plus.guidance_scale,
        plus.grad_scale,
        plus.anchor,
    ) == (20, 14, 17, 7.0, 1.0, "kl")
    assert (
        paper.num_inference_steps,
        paper.min_step,
        paper.max_step,
        paper.guidance_scale,
        paper.grad_scale,
        paper.eta,
    ) == (
        40,
        30,
        39,
        1.0,
        1e-3,
        1.0,
    )
    assert paper.eval_guidance_scale == 7.0  # pictures are judged as users will sample them
    assert ReFLConfig(anchor_data="x").resolved().anchor == "pretrain"
    assert ReFLConfig().resolved(is_sdxl=True).resolution == 1024 and ReFLConfig().resolved(True).guidance_scale == 5.0
    assert plus.resolved() == plus


def test_import_is_cheap():
    code = (
        "import refl, sys; refl.parse_args(['--seed', '1']); assert 'torch' not in sys.modules and 'diffusers' not in"
        " sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        refl.nothing  # noqa: B018


def test_cli_reports_errors_without_a_traceback(tmp_path, caplog):
    assert (
        main(
            [
                "train",
                "--output_dir",
                str(tmp_path / "run"),
                "--prompts",
                *"abcd",
                "--pretrained_model_name_or_path",
                str(tmp_path / "no.ckpt"),
            ]
        )
        == 1
    )
    assert "no such checkpoint" in caplog.text and "Choose another checkpoint" in caplog.text
    assert main(["--config", str(tmp_path / "none.json")]) == 1  # without a command it trains, for accelerate launch
    assert main(["control", str(tmp_path), "dance"]) == 2
    assert main(["control", str(tmp_path), "pause"]) == 0
    assert json.loads((tmp_path / "control.json").read_text()) == {"id": 1, "command": "pause"}
    assert main(["export", "--run-dir", str(tmp_path / "run")]) == 1


@pytest.mark.newest
def test_cli_estimate(settings, tmp_path, capsys):
    (tmp_path / "run.json").write_text(settings.to_json())
    assert main(["estimate", "--config", str(tmp_path / "run.json")]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["tensors"] > data["weights"] > 0 and data["text"].startswith("needs ")


ALTERNATIVES = [
    {},
    {"algorithm": "refl"},
    {"algorithm": "refl", "anchor": "samples"},
    {"anchor": "samples"},
    {"anchor": "none"},
    {"anchor_data": "images"},
    {"tune": "full", "max_train_samples": 5, "snr_gamma": 5.0, "clip_skip": 2, "seed": 7, "lora_rank": 3},
    {"guidance_scale": 1.0, "num_inference_steps": 3},
]


def test_how_long_a_networks_output_may_become_depends_on_what_it_predicts():
    found = {key: resolve(ReFLConfig(), family.usual).max_inflation for key, family in FAMILIES.items()}
    flow = {key for key, family in FAMILIES.items() if family.prediction == "flow"}
    assert flow and {found[key] for key in flow} == {FLOW_INFLATION}
    assert {found[key] for key in FAMILIES.keys() - flow} == {1.015}
    assert resolve(ReFLConfig(max_inflation=1.3), FAMILIES["sd3"].usual).max_inflation == 1.3
    with pytest.raises(ConfigError, match="max_inflation must be at least 1"):
        ReFLConfig(max_inflation=0.9).resolved()


def test_what_is_left_open_is_the_familys_usual():
    used = resolve(ReFLConfig(), Usual(resolution=768, guidance=3.5))
    assert (used.resolution, used.guidance_scale, used.eval_guidance_scale) == (768, 3.5, 3.5)
    assert FAMILIES["sd1"].usual == FAMILIES["sd2"].usual == Usual(512, 7.0)
    assert FAMILIES["sdxl"].usual == Usual(1024, 5.0)
    asked = ReFLConfig(resolution=640, guidance_scale=2.0)
    assert resolve(asked, Usual(768, 3.5)).resolution == 640 and resolve(asked, Usual(768, 3.5)).guidance_scale == 2.0


@pytest.mark.parametrize("changes", ALTERNATIVES)
@pytest.mark.parametrize("is_sdxl", [False, True])
def test_resolved_settings_leave_nothing_open_and_are_stored_without_loss(changes, is_sdxl):
    asked = ReFLConfig(**changes)
    used = asked.resolved(is_sdxl, "cpu")
    values = dataclasses.asdict(used)
    assert [name for name, value in values.items() if value is None] == []
    stored = ReFLConfig.from_dict(json.loads(json.dumps(used.decided())))
    assert stored.resolved(is_sdxl, "cpu") == used
    assert {name: getattr(used, name) for name in changes} == changes


def test_the_anchor_is_measured_where_no_weight_was_given():
    assert ReFLConfig(anchor="samples").resolved().anchor_measured
    assert ReFLConfig(anchor="samples").resolved().decided()["anchor_weight"] is None
    given = ReFLConfig(anchor="samples", anchor_weight=0.5).resolved()
    assert (given.anchor_measured, given.anchor_weight) == (False, 0.5)
    paper = ReFLConfig(anchor="samples", algorithm="refl").resolved()
    assert (paper.anchor_measured, paper.anchor_weight) == (False, 1.0)
    assert ReFLConfig().resolved().anchor_weight == 1.0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"learning_rate": NaN}', "not JSON"),
        ('{"learning_rate": 1e999}', "not JSON"),
        ('{"learning_rate": ' + "9" * 400 + "}", "learning_rate must be a finite number"),
        ('{"seed": ' + "9" * 30 + "}", "seed must fit into 64 bits"),
        ('{"vae": "a\\u0000b"}', "vae must not hold a NUL"),
        ('{"prompts": ["a\\u0000b"]}', "prompts must not hold a NUL"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_numbers_and_texts_that_are_none_are_refused(text, word):
    with pytest.raises(ConfigError, match=word):
        ReFLConfig.from_json(text)


@pytest.mark.parametrize("name", ["con", "a/b", "a" * 201, "a\udcff", "..", "a."])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(ConfigError, match="output_name"):
        ReFLConfig(output_name=name).resolved()
