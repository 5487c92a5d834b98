"""Several scorers judge a job's images: every place that works with a score works with the panel's."""

import csv
import json
import statistics

import pytest
import torch

from imagereward_core import registry
from imagereward_core.scorers import Scorer

from .fakehost import infotext
from .test_rest import client, picture  # noqa: F401 - a fixture
from .test_xyz_and_extras import extras, image_with, xyz  # noqa: F401 - fixtures

THREE = ["ImageReward-v1.0", "PickScore", "CLIP"]
CONSTANTS = "PickScore 20 2; CLIP 0.2 0.1"
FACTORS = {"ImageReward-v1.0": (1.0, 0.0), "PickScore": (-2.0, 20.0), "CLIP": (0.1, 0.2)}


class Red(Scorer):
    """factor · (red - 50) / 10 + shift."""

    def pixels_from_image(self, image):
        return torch.full((3, 1, 1), float(image.convert("RGB").getpixel((0, 0))[0]))

    def encode_images(self, pixels):
        factor, shift = FACTORS[self.info.name]
        return factor * (pixels[:, 0, 0, 0] - 50) / 10 + shift

    def combine(self, prompts, images):
        return images.expand(max(len(prompts), len(images)))


@pytest.fixture
def loads(host):
    """Scorers as the panel has them; the names in the order they were loaded."""
    loaded = []

    def load(name, device, precision, folder, progress=None, pool=None):
        loaded.append(name)
        return Red(torch.nn.Linear(10, 10), registry.get(name), torch.device("cpu"))

    host.part("lifecycle").holder._load = load
    host.options.data["imagereward_panel_memory"] = "together"  # whatever is free on this machine
    return loaded


def expected(red):
    """(panel's value, disagreement, values) of a picture with that red."""
    own = {name: factor * (red - 50) / 10 + shift for name, (factor, shift) in FACTORS.items()}
    standard = [own["ImageReward-v1.0"], (own["PickScore"] - 20) / 2, (own["CLIP"] - 0.2) / 0.1]
    return statistics.fmean(standard), statistics.pstdev(standard), own


def with_constants(**changes):
    return {"panel": THREE, "panel_constants": CONSTANTS, **changes}


def test_each_own_value_stands_under_its_own_key_with_the_panels_and_the_constants(host, generate, loads):
    processed = generate(seeds=2, batch_size=1, start=160, accordion=with_constants())
    params = infotext.parse(processed.infotexts[1])
    value, disagreement, own = expected(60)
    keys = list(params)
    assert keys.index("Panel score") < keys.index("ImageReward")  # the page reads the first
    assert float(params["Panel score"]) == pytest.approx(value, abs=1e-4)
    assert float(params["Panel disagreement"]) == pytest.approx(disagreement, abs=1e-4)
    assert params["Panel score model"] == "ImageReward-v1.0 0 1; PickScore 20 2; CLIP 0.2 0.1"
    for name, key in (("ImageReward-v1.0", "ImageReward"), ("PickScore", "PickScore"), ("CLIP", "CLIP score")):
        assert float(params[key]) == pytest.approx(own[name], abs=1e-4) and params[f"{key} model"] == name
    assert loads == THREE
    result = processed.extra_generation_params["ImageReward result"]
    assert result["key"] == "Panel score" and result["panel"] == THREE
    assert result["scores"][1:] == pytest.approx([expected(60)[0], expected(61)[0]], abs=1e-5)
    assert result["disagreements"][0] is None
    assert result["disagreements"][1:] == pytest.approx([expected(60)[1], expected(61)[1]], abs=1e-5)
    assert result["by_scorer"]["PickScore"][1:] == pytest.approx([18.0, 17.8], abs=1e-5)
    assert "panel of 3" in result["summary"] and "disagreement" in result["summary"]
    json.dumps(result)


def test_the_image_brings_the_panel_back(host, generate, loads):
    processed = generate(seeds=1, batch_size=1, start=160, accordion=with_constants(filter_by="score", limit=-5))
    script = next(s for s in host.runners["txt2img"].scripts if s.title() == "ImageReward")
    script.ui(False)
    params = infotext.parse(processed.infotexts[0])
    fields = host.part("fields").FIELDS
    pasted = {field.attr: read(params) for field, (_, read) in zip(fields, script.infotext_fields)}
    assert pasted["panel"] == THREE and pasted["enabled"] and pasted["filter_by"] == "score"
    request = host.part("request").ScoreRequest.from_api(pasted)
    assert request.panel == tuple(THREE) and "PickScore 20 2" in request.panel_constants
    again = host.txt2img(seed=160, batch_size=1, accordion=pasted)
    assert again.infotexts[0] == processed.infotexts[0]


def test_filter_sort_and_best_of_n_go_by_the_panels_value(host, generate, loads):
    values = [expected(red)[0] for red in range(48, 52)]
    kept = generate(seeds=4, start=148, accordion=with_constants(filter_by="score", limit=-0.05, sort=True))
    shown = [float(infotext.parse(text)["Panel score"]) for text in kept.infotexts[kept.index_of_first_image :]]
    assert shown == pytest.approx(sorted((value for value in values if value >= -0.05), reverse=True), abs=1e-4)
    best = generate(seeds=2, start=148, batch_size=1, accordion=with_constants(filter_by="score", limit=0.05, wanted=1))
    assert best.extra_generation_params["ImageReward result"]["kept"] == 1


def test_without_constants_ranks_count_and_no_limit_can_be_set(host, generate, loads):
    processed = generate(seeds=4, start=148, accordion={"panel": THREE, "filter_by": "score", "limit": 5, "sort": True})
    result = processed.extra_generation_params["ImageReward result"]
    assert result["hidden"] == 0 and result["standardised_by"] == "ranks within the prompt"
    assert any("no limit on the panel's value" in note and "PickScore, CLIP" in note for note in result["notes"])
    # two of three scorers prefer red: the reddest is first
    seeds = [infotext.parse(text)["Seed"] for text in processed.infotexts[processed.index_of_first_image :]]
    assert seeds == ["151", "150", "149", "148"]
    scores = [score for score in result["scores"] if score is not None]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    params = infotext.parse(processed.infotexts[-1])
    assert "Panel score" not in params and float(params["PickScore"]) == pytest.approx(20.4)
    assert "ImageReward filter" not in params and params["ImageReward panel"] == "; ".join(THREE)
    top = generate(seeds=4, start=148, accordion={"panel": THREE, "filter_by": "top k", "top_k": 2})
    assert top.extra_generation_params["ImageReward result"]["kept"] == 2


def test_old_argument_lists_and_single_scorers_are_what_they_were(host, generate, loads):
    old = generate(
        seeds=1, batch_size=1, start=160, accordion=[True, "PickScore", "none", 0, 4, False, "keep", 0, 8, False]
    )
    params = infotext.parse(old.infotexts[0])
    assert params["PickScore"] == "18.0000" and "Panel score" not in params
    assert "panel" not in old.extra_generation_params["ImageReward result"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"panel": ["CLIP", "CLIP"]}, "names a scorer twice"),
        ({"panel": [1]}, "list of scorers"),
        ({"panel": THREE, "panel_constants": "PickScore much"}, "NAME MEAN SD"),
    ],
)
def test_wrong_panels_leave_the_images_and_say_why(host, generate, loads, wrong, said):
    processed = host.txt2img(seed=160, batch_size=1, n_iter=1, accordion=wrong)
    assert processed.images and loads == []
    assert said in processed.extra_generation_params["ImageReward result"]["notes"][0]


def test_a_scorer_that_fails_costs_no_image(host, generate, loads):
    holder = host.part("lifecycle").holder
    working = holder._load

    def load(name, *args, **options):
        if name == "PickScore":
            raise host.part("core").errors.ModelNotFoundError("PickScore_v1.safetensors is not here; fetch it from …")
        return working(name, *args, **options)

    holder._load = load
    processed = generate(seeds=2, batch_size=1, accordion=with_constants())
    result = processed.extra_generation_params["ImageReward result"]
    assert len(processed.images) == 3 and result["scored"] == 0 and "fetch it from" in result["notes"][0]


# --- memory -----------------------------------------------------------------------------------------


def test_together_each_is_loaded_once_and_unload_frees_all(host, generate, loads):
    holder = host.part("lifecycle").holder
    for _ in range(2):
        generate(seeds=2, batch_size=1, accordion=with_constants())
    assert loads == THREE
    assert holder.status()["loaded"] == "ImageReward-v1.0, PickScore, CLIP"
    assert holder.unload() == pytest.approx(3 * 110 * 4 / 1e6) and holder.status()["loaded"] is None


def test_one_after_another_one_is_in_memory_at_a_time(host, generate, loads, monkeypatch):
    host.options.data["imagereward_panel_memory"] = "one after another"
    holder = host.part("lifecycle").holder
    seen = []
    working = holder._load

    def load(*args, **options):
        seen.append(len(holder._held))
        return working(*args, **options)

    holder._load = load
    processed = generate(seeds=2, batch_size=1, start=160, accordion=with_constants())
    assert loads == THREE * 2 and set(seen) == {0}
    assert float(infotext.parse(processed.infotexts[1])["Panel score"]) == pytest.approx(expected(60)[0], abs=1e-4)


def test_what_does_not_fit_is_loaded_one_after_another_and_the_user_is_told(host, generate, loads, monkeypatch):
    host.options.data["imagereward_panel_memory"] = "automatic"
    monkeypatch.setattr("imagereward_core.panel.fits", lambda names, options: not names)
    processed = generate(seeds=1, batch_size=1, accordion=with_constants())
    assert any("one after another" in n for n in processed.extra_generation_params["ImageReward result"]["notes"])
    generate(seeds=1, batch_size=1, accordion={"scorer": "CLIP"})
    assert host.part("lifecycle").holder.status()["loaded"] == "CLIP"


# --- the other doors --------------------------------------------------------------------------------


def test_rest(client, host, loads):  # noqa: F811
    body = {"images": [picture(60), picture(45)], "prompt": "a cat", "panel": THREE}
    answer = client.post(
        "/imagereward/v1/score", json={**body, "constants": {"PickScore": [20, 2], "CLIP": [0.2, 0.1]}}
    )
    found = answer.json()
    assert found["scores"] == pytest.approx([expected(60)[0], expected(45)[0]], abs=1e-5)
    assert found["disagreements"] == pytest.approx([expected(60)[1], expected(45)[1]], abs=1e-5)
    assert found["by_scorer"]["PickScore"] == pytest.approx([18.0, 21.0], abs=1e-5) and found["panel"] == THREE
    assert found["constants"] == {"ImageReward-v1.0": [0, 1], "PickScore": [20, 2], "CLIP": [0.2, 0.1]}
    ranked = client.post("/imagereward/v1/rank", json=body).json()
    assert ranked["ranking"] == [1, 2] and ranked["standardised_by"] == "ranks within the prompt"
    assert client.post("/imagereward/v1/score", json={**body, "panel": ["CLIP", "nobody"]}).status_code == 404
    answer = client.post("/imagereward/v1/score", json={**body, "panel": ["CLIP", "CLIP"]})
    assert answer.status_code == 422 and "twice" in answer.json()["detail"]
    assert client.get("/imagereward/v1/schema").json()["panel"]["key"] == "Panel score"


def test_xyz_takes_a_panel_as_a_value_of_its_scorer_axis(host, xyz, loads):  # noqa: F811
    with pytest.raises(RuntimeError, match="Unknown scorer: nobody"):
        xyz.axes[0].confirm(None, ["CLIP; nobody"])
    xyz.cells = [("Scorer", "CLIP"), ("Scorer", "; ".join(THREE))]
    accordion = {"panel_constants": CONSTANTS}
    first, second = host.txt2img(script="X/Y/Z plot", seed=160, batch_size=1, accordion=accordion)
    assert host.errors == []
    assert "Panel score" not in first.infotexts[0] and "CLIP score: 0.3000" in first.infotexts[0]
    assert f"Panel score: {expected(60)[0]:.4f}" in second.infotexts[0]
    (path,) = (host.folder / "outputs" / "grids").glob("xyz-scores-*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scorer"] for row in rows] == ["CLIP", "; ".join(THREE)]
    assert rows[1]["disagreement"] == f"{expected(60)[1]:.4f}" and "PickScore 18.0000" in rows[1]["by_scorer"]


def test_extras(host, extras, loads, tmp_path):  # noqa: F811
    pp = image_with(tmp_path, "a cat\nSteps: 20, Sampler: Euler, Seed: 1")
    extras.process(pp, True, "ImageReward-v1.0", "", THREE, CONSTANTS)
    value, disagreement, own = expected(60)
    assert pp.info["Panel score"] == f"{value:.4f}" and pp.info["Panel disagreement"] == f"{disagreement:.4f}"
    assert pp.info["ImageReward"] == f"{own['ImageReward-v1.0']:.4f}" and pp.info["CLIP score"] == "0.3000"
    pp = image_with(tmp_path, "a cat\nSteps: 20, Sampler: Euler, Seed: 1")
    extras.process(pp, True, "ImageReward-v1.0", "", THREE, "")
    assert "Panel score" not in pp.info and pp.info["PickScore"] == "18.0000"
    assert "nobody published mean and SD of PickScore, CLIP" in pp.info["Panel score note"]


def test_the_button_takes_constants_from_the_library(host, tmp_path, monkeypatch):
    from imagereward_core.library import Record, Score, open_library, remember_now
    from tests.unit.test_cli import save

    panel = host.part("panel")
    place = tmp_path / "library.sqlite"
    monkeypatch.setenv("IMAGEREWARD_LIBRARY", str(place))
    assert panel.own_scores([], "x") == ("x", "Choose the panel's scorers first.")
    with open_library(place) as library:
        for number in range(20):
            path = save(tmp_path / f"{number}.png", number, "a cat")
            remember_now(library, Record(path, scores=(Score("PickScore", 20 + number % 2),)))
    assert panel.own_scores(["PickScore"], "") == ("PickScore 20.5 0.5", "Taken from your own scores of PickScore.")
    kept, said = panel.own_scores(["PickScore", "CLIP"], "kept")
    assert kept == "kept" and "0 of CLIP" in said


def test_weights_with_a_json_beside_them_are_the_scorer_it_names(host, generate):
    """From the models folder, by the real loader; a JSON that names nobody costs no image and is named."""
    pytest.importorskip("transformers")
    from tests.golden import sets

    lifecycle, folder = host.part("lifecycle"), host.part("host").models_dir()
    folder.mkdir(parents=True)
    sets.write("pickscore", folder)
    described = folder / "pickscore.json"
    described.write_text(json.dumps({"scorer": "PickScore", **sets.read("pickscore", "config.json")}))
    lifecycle.holder._load = lifecycle.load_scorer
    text = generate(seeds=1, batch_size=1, start=160, accordion={"scorer": "pickscore.safetensors"}).infotexts[0]
    params = infotext.parse(text)
    assert params["PickScore model"].startswith("PickScore [") and "ImageReward" not in params
    described.write_text('{"scorer": "nobody"}')
    lifecycle.holder.unload()
    processed = generate(seeds=1, batch_size=1, accordion={"scorer": "pickscore.safetensors"})
    assert "no model is called 'nobody'" in processed.extra_generation_params["ImageReward result"]["notes"][0]
