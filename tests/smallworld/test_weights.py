"""The files: sizes, and the model cards against what the files are."""

import json

import pytest

from imagereward_core.hashing import file_digest
from smallworld.pipeline import WEIGHTS

CARDS = sorted(WEIGHTS.glob("*.json"))


def test_there_is_a_card_for_every_file():
    assert (
        {path.stem for path in CARDS}
        == {path.stem for path in WEIGHTS.glob("*.safetensors")}
        == {"oracle", "tiny-flow", "tiny-imagereward", "tiny-sd"}
    )


def test_all_weights_together_stay_small():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 20 * 2**20


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_the_card_names_this_very_file(card):
    facts = json.loads(card.read_text(encoding="utf-8"))
    file = WEIGHTS / facts["file"]
    assert file.stat().st_size == facts["bytes"]
    assert file_digest(file) == facts["sha256"]


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_the_card_is_complete(card):
    facts = json.loads(card.read_text(encoding="utf-8"))
    assert {"name", "what", "parameters", "data", "training", "command", "quality", "limits", "licence"} <= set(facts)
    assert facts["training"]["minutes"] > 0


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_tensors_are_half_precision_and_finite(card):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors = load_file(card.with_suffix(".safetensors"))
    floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in floating)
    assert sum(tensor.numel() for tensor in floating) == json.loads(card.read_text(encoding="utf-8"))["parameters"]
