"""Published layouts and given files: names, prefixes, precisions, what is missing and what is too much."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

import imagereward_core as RM
from imagereward_core.errors import ConfigError, WeightsError
from tests.golden import sets

pytest.importorskip("transformers", reason="the CLIP towers come from transformers")
PROMPTS = ["a painting of an ocean with clouds and birds", "cat"]


def rows(name, path, **settings):
    config = {**sets.read(name, "config.json"), **settings}
    return RM.load_score(sets.NAMES[name], device="cpu", weights=path, config=config).score_matrix(
        PROMPTS, sets.images()[:3]
    )


def flat(values):
    return [value for row in values for value in row]


def halves(state):
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "clip_model.", "net.inner."])
def test_a_prefix_is_seen_and_taken_off(tmp_path, prefix):
    state = sets.state("pickscore")
    save_file({prefix + key: value for key, value in state.items()}, tmp_path / "p.safetensors")
    assert rows("pickscore", tmp_path / "p.safetensors") == rows("pickscore", sets.write("pickscore", tmp_path))


def test_open_clip_pt_in_fp16_under_state_dict(tmp_path):
    torch.save({"epoch": 1, "state_dict": halves(sets.state("hpsv2"))}, tmp_path / "HPS_v2.1_compressed.pt")
    found = flat(rows("hpsv2", tmp_path / "HPS_v2.1_compressed.pt"))
    assert found == pytest.approx(flat(rows("hpsv2", sets.write("hpsv2", tmp_path))), abs=5e-3)
    again = RM.load_score(
        "HPSv2.1",
        device="cpu",
        weights=tmp_path / "HPS_v2.1_compressed.pt",
        config=sets.read("hpsv2", "config.json"),
    )
    assert flat(again.score_matrix(PROMPTS, sets.images()[:3])) == pytest.approx(found, abs=1e-6)  # from its conversion


def test_pickscore_and_hpsv2_read_each_others_layout(tmp_path):
    """The two share code: a file in open_clip's names and one in Hugging Face's give the same towers."""
    from imagereward_core.scorers.towers.clip import hub_state

    hub = {key: value.clone() for key, value in hub_state(sets.state("hpsv2")).items()}
    save_file({key: value.contiguous() for key, value in hub.items()}, tmp_path / "hub.safetensors")
    assert rows("hpsv2", tmp_path / "hub.safetensors") == rows("hpsv2", sets.write("hpsv2", tmp_path))


def test_mps_as_its_hub_file_has_it(tmp_path):
    """`mps.` before everything, and the constants that the published modules keep as buffers."""
    state = {f"mps.{key}": value for key, value in sets.state("mps").items()}
    for layer in range(4):
        for half in (0, 1):
            state[f"mps.cross_model.layers.{layer}.{half}.fn.norm.bias"] = torch.zeros(64)
        state[f"mps.cross_model.layers.{layer}.1.fn.rotary_emb.inv_freq"] = torch.ones(32)
    save_file(state, tmp_path / "model.safetensors")
    assert rows("mps", tmp_path / "model.safetensors") == rows("mps", sets.write("mps", tmp_path))


def test_a_pickled_module_is_never_run(tmp_path):
    """The authors' MPS file is a whole pickled module: it is refused by name, not executed."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "MPS_overall_checkpoint.pth")
    with pytest.raises(WeightsError, match="could run code"):
        rows("mps", tmp_path / "MPS_overall_checkpoint.pth")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("pickscore", "text_model.encoder.layers.1.mlp.fc2.bias"),
        ("hpsv2", "visual.transformer.resblocks.2.ln_1.weight"),
        ("mps", "cross_model.layers.3.1.fn.attn_out.weight"),
        ("cyclereward", "mlp.layers.8.bias"),
        ("aesthetic_v25", "vision_model.head.mlp.fc1.weight"),
    ],
)
def test_a_missing_tensor_is_an_error(tmp_path, name, key):
    state = dict(sets.state(name))
    del state[key]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        rows(name, tmp_path / "short.safetensors")


@pytest.mark.parametrize("name", list(sets.NAMES))
def test_a_tensor_too_many_is_one_warning(tmp_path, name, caplog):
    save_file({**sets.state(name), "momentum.queue": torch.zeros(3)}, tmp_path / "long.safetensors")
    with caplog.at_level(logging.WARNING):
        found = rows(name, tmp_path / "long.safetensors")
    for row, wanted in zip(found, rows(name, sets.write(name, tmp_path)), strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)  # where weights begin in memory changes the last digit
    assert len([record for record in caplog.records if "momentum.queue" in record.getMessage()]) == 1


def test_another_kind_of_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="CLIP model"):
        RM.load_score("CycleReward", device="cpu", weights=sets.write("pickscore", tmp_path))
    with pytest.raises(WeightsError, match="cross-attention"):
        RM.load_score("MPS", device="cpu", weights=sets.write("pickscore", tmp_path))
    with pytest.raises(WeightsError, match="both towers"):
        RM.load_score("PickScore", device="cpu", weights=sets.write("cyclereward", tmp_path))


def test_without_a_config_the_heads_of_an_unpublished_width_are_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="num_attention_heads"):
        RM.load_score("PickScore", device="cpu", weights=sets.write("pickscore", tmp_path))


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("hpsv2", {"antialias": "no"}, "antialias must be true or false"),
        ("mps", {"threshold": True}, "threshold must be a number"),
        ("mps", {"condition": 3}, "condition must be words"),
        ("mps", {"cross": {"heads": 3}}, "cross.heads 3"),
        ("pickscore", {"text": {"num_attention_heads": 5}}, "not a multiple of 5"),
        ("pickscore", {"vision": [1]}, "must be a JSON object"),
        ("cyclereward", {"max_tokens": 0}, "max_tokens must be a positive whole number"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path, name, config, said):
    with pytest.raises(ConfigError, match=said):
        rows(name, sets.write(name, tmp_path), **config)


def test_the_config_may_be_a_file_and_lie_beside_the_weights(tmp_path):
    path = sets.write("hpsv2", tmp_path)
    config = {**sets.read("hpsv2", "config.json"), "antialias": False}
    (tmp_path / "settings.json").write_text(json.dumps(config))
    given = RM.load_score("HPSv2.1", device="cpu", weights=path, config=tmp_path / "settings.json")
    path.with_suffix(".json").write_text(json.dumps({"scorer": "HPSv2.1", **config}))
    beside = RM.load_score(str(path), device="cpu")
    assert beside.name == given.name == "HPSv2.1 antialias off"
    assert beside.score("cat", sets.images()[0]) == given.score("cat", sets.images()[0])
    with pytest.raises(ConfigError, match="cannot be read"):
        RM.load_score("HPSv2.1", device="cpu", weights=path, config=tmp_path / "none.json")


def test_a_clip_model_and_the_heads_on_it_from_given_files(tmp_path):
    clip = dict(sets.state("pickscore"))
    save_file(clip, tmp_path / "clip.safetensors")
    config = sets.read("pickscore", "config.json")
    scorer = RM.load_score("CLIP", device="cpu", weights=tmp_path / "clip.safetensors", config=config)
    reference = RM.load_score("PickScore", device="cpu", weights=tmp_path / "clip.safetensors", config=config)
    image = sets.images()[3]
    assert 100 * scorer.score("cat", image) == pytest.approx(reference.score("cat", image), abs=1e-3)
    head = aesthetic_head(64)
    save_file(head, tmp_path / "head.safetensors")
    save_file({**clip, **head}, tmp_path / "both.safetensors")
    both = RM.load_score("Aesthetic", device="cpu", weights=tmp_path / "both.safetensors", config=config)
    alone = RM.load_score(
        "Aesthetic",
        device="cpu",
        weights=tmp_path / "head.safetensors",
        config={**config, "backbone": str(tmp_path / "clip.safetensors")},
    )
    assert both.score("x", image) == alone.score("y", image) != 0


def aesthetic_head(width, seed=0):
    from imagereward_core.model.reward import RewardHead

    torch.manual_seed(seed)
    return RewardHead(width, (16, 8, 8, 4)).state_dict()


def test_the_command_line_gives_the_api_s_value_and_records_the_settings(tmp_path, capsys):
    from imagereward_cli import main as cli
    from imagereward_core.hashing import file_digest

    path = sets.write("hpsv2", tmp_path)
    config = {**sets.read("hpsv2", "config.json"), "antialias": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    image = str(sets.images()[1])
    flags = ["--scorer", "HPSv2.1", "--weights", str(path), "--scorer-config", str(tmp_path / "config.json")]
    assert cli.main(["score", image, "-p", "cat", *flags, "--json", "-q", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == f"HPSv2.1 antialias off [{file_digest(path)[:10]}]"
    scorer = RM.load_score("HPSv2.1", device="cpu", weights=path, config=config)
    assert found["images"][0]["score"] == pytest.approx(scorer.score("cat", image), abs=1e-6)
    assert cli.main(["score", image, "-p", "cat", *flags[:2], "--weights", "none.pt", "-q"]) == 2
    assert "none.pt cannot be read" in capsys.readouterr().err
