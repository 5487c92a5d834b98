"""Keys of scores, and names of the models that gave them."""

import dataclasses

import pytest

from imagereward_core import naming, registry
from imagereward_core.errors import ConfigError


@pytest.mark.parametrize("key", ["ImageReward", "HPSv2-2", "My score/v2", "ab"])
def test_keys_that_can_be_used(key):
    assert naming.check_key(key) == registry.check_own_key(key) == key


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("HPSv2.1", "cannot be read back"),
        ("X", "two or more"),
        ("", "two or more"),
        ("-x", "starts with a letter"),
        ("score (v1)", "cannot be read back"),
        ("trailing ", "cannot be read back"),
        ("seed", "setting of the web UI's own"),
        ("CFG  Scale", "setting of the web UI's own"),
        ("Hires prompt", "setting of the web UI's own"),
        ("ImageReward limit", "setting of the web UI's own"),
        ("aesthetic_score", "image browsers"),
    ],
)
def test_keys_that_cannot(key, reason):
    with pytest.raises(ConfigError, match=reason):
        naming.check_key(key)


def test_an_entry_cannot_have_a_key_that_hosts_lose():
    with pytest.raises(ConfigError, match=r"'HPSv2\.1' cannot be read back"):
        dataclasses.replace(registry.MODELS[1], key="HPSv2.1")


def test_another_scorers_key_is_not_to_be_had():
    with pytest.raises(ConfigError, match="is that of CLIP"):
        registry.check_own_key("clip SCORE")


def test_own_models(tmp_path):
    path = tmp_path / "my model.safetensors"
    assert naming.own_model_name(path) == "my model [missing]"
    path.write_bytes(b"weights")
    assert naming.own_model_name(path) == "my model [9a129038d9]"
    assert "my model.safetensors" in naming.former_names(path) and "my model" not in naming.former_names(path)
    info = registry.describe(str(path))
    assert (info.name, info.key, info.kind) == ("my model.safetensors", "ImageReward", "imagereward")
    assert registry.describe("CLIP") is registry.get("CLIP")
