"""The door for everybody's own scorer: the example of docs/scorers.md from nothing to a ReFL judge."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import imagereward_core as RM
from imagereward_cli import main as cli
from imagereward_core.errors import ConfigError, ModelNotFoundError
from imagereward_core.scorers import load_scorer, own
from tests.conftest import ROOT

SPEC = "own_scorer:warmth"


def example() -> str:
    """The example's code as the page shows it."""
    page = (ROOT / "docs" / "scorers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    return next(block for block in blocks if "def warmth" in block)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The example in a folder that the command is run in, with two pictures."""
    (tmp_path / "own_scorer.py").write_text(example())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_scorer", raising=False)
    for name, colour in (("red.png", (220, 40, 30)), ("blue.png", (30, 40, 220))):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    yield tmp_path
    sys.modules.pop("own_scorer", None)


def expected(colour):
    mean, std = (0.48145466, 0.40821073), (0.26862954, 0.27577711)
    return (colour[0] / 255 - mean[0]) / std[0] - (colour[2] / 255 - mean[1]) / std[1]


def test_the_example_has_15_lines_and_scores(folder):
    assert len([line for line in example().splitlines() if line.strip()]) <= 15
    scorer = load_scorer(SPEC, own_code=True, device="cpu")
    assert scorer.name == "Warmth"
    assert scorer.score("x", ["red.png", "blue.png"]) == pytest.approx(
        [expected((220, 40, 30)), expected((30, 40, 220))], abs=1e-4
    )
    assert scorer.inference_rank("x", ["blue.png", "red.png"])[0] == [2, 1]


def test_the_command_line_scores_with_it(folder, capsys):
    assert cli.main(["score", ".", "--scorer", SPEC, "--prompt", "x", "--json", "-q", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "Warmth"
    by_name = {image["file"].split("/")[-1]: image["score"] for image in found["images"]}
    assert by_name["red.png"] == pytest.approx(expected((220, 40, 30)), abs=1e-4)
    assert by_name["blue.png"] < by_name["red.png"]


def test_bench_judges_with_it(folder):
    from imagereward_train.items import Item
    from imagereward_train.tables.judges import labels, load_judge

    judge = load_judge(SPEC, device="cpu")
    item = Item("1", "x", ("red.png", "blue.png"), (1.0, 2.0))
    assert labels([SPEC]) == [SPEC]
    warm, cold = judge.score(item)
    assert judge.name == "Warmth" and warm > cold


def test_refl_takes_it_as_reward_and_judge(folder):
    from refl.rewards import load_rewards, load_scorer

    images = torch.rand(2, 3, 48, 48, requires_grad=True)
    rewards = load_rewards([f"{SPEC}=2"], "cpu")
    rewards.differentiable(["a", "b"], images).sum().backward()
    assert float(images.grad.abs().sum()) > 0
    judge = load_scorer(SPEC, "cpu", "auto", "", "judge")
    assert judge.name == "Warmth"
    assert rewards.raw(["a", "b"], images)["Warmth"].shape == (2,)


def test_a_name_from_elsewhere_runs_no_code(folder):
    (folder / "trap.py").write_text("raise SystemExit('ran')")
    for load in (RM.load_score, load_scorer):
        with pytest.raises(ConfigError, match="from the command line only"):
            load("trap:anything")
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_module:f", "cannot be imported"),
        ("own_scorer:nothing", "nothing"),
        ("own_scorer:INFO", "a function that makes a scorer"),
        ("own_scorer:example_of_a_list", "made a list"),
        ("own_scorer:wants_more", "wants size"),
    ],
)
def test_what_is_no_scorer_is_named(folder, spec, said):
    with (folder / "own_scorer.py").open("a") as file:
        file.write("\ndef example_of_a_list(device):\n    return []\ndef wants_more(size, device):\n    return None\n")
    with pytest.raises(ConfigError, match=said):
        load_scorer(spec, own_code=True, device="cpu")
    assert str(folder) not in sys.path


def test_an_installed_package_offers_a_scorer_by_name(folder, monkeypatch):
    with pytest.raises(ModelNotFoundError, match="Warmth"):
        RM.load_score("Warmth")
    monkeypatch.syspath_prepend(str(folder))
    info = folder / "warm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: warm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{own.GROUP}]\nWarmth = {SPEC}\nBroken = no_such_module:f\n")
    importlib.invalidate_caches()
    assert RM.available_scores()[-2:] == ["Broken", "Warmth"]
    scorer = RM.load_score("Warmth", device="cpu")
    assert scorer.score("x", np.full((9, 9, 3), 200, np.uint8)) == pytest.approx(expected((200,) * 3), abs=1e-4)
    with pytest.raises(ConfigError, match="Broken of an installed package"):
        RM.load_score("Broken", device="cpu")
