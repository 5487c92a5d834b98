"""Several scorers on the same images."""

import statistics

import pytest
import torch
from safetensors.torch import save_file

from imagereward_core import panel as panels
from imagereward_core.errors import ConfigError, PromptError
from imagereward_core.panel import Constants, Panel, combine, constants_of
from imagereward_core.registry import ModelInfo
from imagereward_core.scorers import Scorer, load_scorer
from tests.golden import sets
from tests.unit.test_scorers_files import aesthetic_head

PROMPTS = ["a", "a", "a", "b"]
VALUES = {"ImageReward-v1.0": [1.0, 0.0, -1.0, 0.5], "PickScore": [22.0, 21.0, 20.0, 19.0]}


def test_standardised_by_constants():
    found = combine(PROMPTS, VALUES, constants={"PickScore": Constants(20.0, 2.0, "own scores")})
    assert found.absolute and found.constants["ImageReward-v1.0"] == Constants(0.0, 1.0)
    assert found.constants["PickScore"].source == "own scores"
    first = found.scores[0]
    assert first.by_scorer == {"ImageReward-v1.0": 1.0, "PickScore": 22.0}
    assert (first.value, first.disagreement) == (1.0, 0.0)
    assert found.scores[2].value == -0.5 and found.scores[2].disagreement == 0.5
    alone = combine(["a"], {"ImageReward-v1.0": [1.0], "PickScore": [22.0]}, constants=found.constants)
    assert alone.scores[0].value == first.value  # the same in every job


def test_ranks_within_the_prompt_where_a_constant_is_unknown():
    found = combine(PROMPTS, VALUES)
    assert not found.absolute and found.constants == {}
    spread = statistics.pstdev([1, 2, 3])
    assert [score.value for score in found.scores] == pytest.approx([1 / spread, 0, -1 / spread, 0])
    assert panels.ranks(["a"] * 4, [1.0, 2.0, 2.0, 3.0]) == pytest.approx(
        [(rank - 2.5) / statistics.pstdev([1, 2.5, 2.5, 4]) for rank in (1, 2.5, 2.5, 4)]
    )
    assert panels.ranks(["a", "a"], [1.0, 1.0]) == [0.0, 0.0]


def test_lower_is_better_counts_the_other_way():
    found = combine(["a", "a"], {"x": [1.0, 2.0]}, {"x": False})
    assert found.scores[0].value > found.scores[1].value


def test_constants_of_the_users_own_scores():
    assert constants_of({"x": [1.0, 3.0]}) == {"x": Constants(2.0, 1.0, "own scores")}
    for values in ([1.0], [2.0, 2.0]):
        with pytest.raises(ConfigError, match="two scores that differ"):
            constants_of({"x": values})
    with pytest.raises(ConfigError, match="positive"):
        Constants(0.0, 0.0)


class Fake(Scorer):
    def encode_images(self, pixels):
        return pixels.mean((1, 2, 3)) * self.net.factor

    def combine(self, prompts, images):
        return images.expand(max(len(prompts), len(images)))


class Factor(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor


def fake_loader(log):
    def load(name, *, pool=None, **options):
        log.append(name)
        info = ModelInfo(name=name, kind="own", sources=(), licence="", description="", key=name)
        return Fake(Factor(len(name)), info, torch.device("cpu"))

    return load


def test_one_by_one_loads_anew_and_together_keeps():
    for policy, loads in (("one by one", 4), ("together", 2)):
        log: list[str] = []
        panel = Panel(["xx", "yyy"], policy=policy, load=fake_loader(log))
        results = [panel.score("cat", sets.images()[:3]) for _ in range(2)]
        assert len(log) == loads and results[0] == results[1]
        assert [list(score.by_scorer) for score in results[0].scores] == [["xx", "yyy"]] * 3
        panel.unload()
        panel.score("cat", sets.images()[:1])
        assert len(log) == loads + 2


def test_the_policy_goes_by_what_fits():
    names = ["CLIP", "Aesthetic", "PickScore"]
    wanted = panels.wanted_bytes(names, {"precision": "fp32"})
    assert wanted == 1_710_000_000 + 3_714_759 + 3_944_517_836  # CLIP's file once
    assert panels.wanted_bytes(names, {"precision": "fp16"}) == wanted // 2
    for free, together in ((wanted * 2, True), (wanted, False), (None, True)):
        assert Panel(names, free_bytes=lambda device, free=free: free, precision="fp32").together() is together
    assert panels.by_backbone(names) == [["CLIP", "Aesthetic"], ["PickScore"]]


def test_wrong_panels_are_refused():
    for names, said in (([], "at least one"), (["CLIP", "clip"], "twice")):
        with pytest.raises(ConfigError, match=said):
            Panel(names)
    with pytest.raises(ConfigError, match="policy"):
        Panel(["CLIP"], policy="fast")
    with pytest.raises(PromptError, match="one prompt per image"):
        Panel(["x"], load=fake_loader([])).score_pairs(["a"], [])


@pytest.fixture
def three(tmp_path, monkeypatch):
    """CLIP, Aesthetic and waifu-scorer on one small backbone where the registry's files are looked for."""
    pytest.importorskip("transformers")
    from imagereward_core.scorers.waifu import WaifuHead

    torch.manual_seed(3)
    save_file(dict(sets.state("pickscore")), tmp_path / "clip-vit-large-patch14.safetensors")
    save_file(aesthetic_head(64), tmp_path / "sac+logos+ava1-l14-linearMSE.safetensors")
    head = WaifuHead((64, 16, 16, 8, 8, 4))
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    save_file(head.eval().state_dict(), tmp_path / "waifu-scorer-v3.safetensors")
    return {"device": "cpu", "models_dir": tmp_path, "config": sets.read("pickscore", "config.json")}


def test_three_heads_of_one_backbone_cost_one_backbone_forward_per_image(three, monkeypatch):
    from transformers import CLIPModel

    names, paths = ["CLIP", "Aesthetic", "waifu-scorer v3"], sets.images()
    alone = {name: load_scorer(name, **three).score_pairs(["cat"] * 7, paths) for name in names}
    counted: list[int] = []
    net = load_scorer("CLIP", **three).net
    forward = type(net.vision_model).forward

    def counting(self, *args, **kwargs):
        counted.append(len(kwargs["pixel_values"]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(net.vision_model), "forward", counting)
    panel = Panel(names, policy="together", **three)
    reports: list[tuple[int, int]] = []
    result = panel.score_pairs(["cat"] * 7, paths, progress=lambda *report: reports.append(report))
    assert sum(counted) == 7
    assert reports[-1] == (21, 21)
    for name in names:
        assert [score.by_scorer[name] for score in result.scores] == alone[name]
        assert len(set(alone[name])) > 1
    kept = panel._kept
    assert kept["CLIP"].net is kept["Aesthetic"].net is kept["waifu-scorer v3"].net
    assert isinstance(kept["CLIP"].net, CLIPModel)


def test_a_prompt_is_encoded_once_however_many_images_it_meets(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    path = sets.write("pickscore", tmp_path)
    scorer = load_scorer("PickScore", device="cpu", weights=path, config=sets.read("pickscore", "config.json"))
    asked: list[str] = []
    encode = scorer.encode_prompts
    monkeypatch.setattr(scorer, "encode_prompts", lambda prompts: asked.extend(prompts) or encode(prompts))
    scorer.score_matrix(["a", "b"], sets.images())
    assert sorted(asked) == ["a", "b"]
    scorer.score("a", sets.images()[0])
    assert sorted(asked) == ["a", "a", "b"]  # nothing is kept beyond a call: weights may change
