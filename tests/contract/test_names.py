"""Names of scores: one entry in the registry is all that WebUI, Extras, API, page and command line need to know."""

import dataclasses
import re

import pytest
from PIL import Image

from imagereward_core import files, naming, registry
from imagereward_core.metadata import read_score, write_score
from imagereward_core.metadata.infotext import StoredScore

from .fakehost import infotext, runner
from .test_xyz_and_extras import image_with


@pytest.fixture
def pickscore(host, monkeypatch):
    """A scorer that was added to a table of four, and nowhere else."""
    entry = registry.ModelInfo(
        "PickScore",
        "pickscore",
        (),
        "MIT",
        "a scratch entry",
        key="PickScore",
        scale=registry.Scale(18.0, 24.0, 21.0, 2.0),
    )
    monkeypatch.setattr(registry, "MODELS", (*registry.MODELS[:4], entry))
    return entry


def file_of(host, seed=160):
    return host.folder / "outputs" / "images" / f"{seed}.png"


def rescored(path, job):
    """Whether the command line would compute this file's score again."""

    class Scorer:
        batch_size = 4

        def features_key(self):
            return ()

        def pixels_from_image(self, image):
            return image

        def score_pairs(self, prompts, images):
            return [9.0] * len(images)

    (result,) = files.score_files([path], job, Scorer)
    assert result.error == ""
    return not result.stored


def test_a_new_scorer_is_stored_under_its_own_key_and_the_command_line_finds_it(host, generate, pickscore):
    text = generate(seeds=1, batch_size=1, start=160, accordion={"scorer": "PickScore"}).infotexts[0]
    assert "PickScore: 1.0000, PickScore model: PickScore," in text and "ImageReward: " not in text
    assert infotext.parse(text)["PickScore"] == "1.0000"
    assert not rescored(file_of(host), files.ScoreJob(pickscore, "PickScore"))
    assert rescored(file_of(host), files.ScoreJob(registry.get("ImageReward-v1.0"), "ImageReward-v1.0"))


def test_the_command_line_writes_the_same_pairs(host, generate, pickscore):
    generate(seeds=1, batch_size=1, start=160)
    job = files.ScoreJob(pickscore, "PickScore", write=True)
    assert rescored(file_of(host), job) and not rescored(file_of(host), job)
    assert ", PickScore: 9.0000, PickScore model: PickScore" in Image.open(file_of(host)).info["parameters"]


def test_the_users_name_is_for_reward_models_only(host, generate, pickscore):
    host.options.data["imagereward_key"] = "Preference"
    for scorer, key in (("PickScore", "PickScore"), ("CLIP", "CLIP score"), ("ImageReward-v1.0", "Preference")):
        text = generate(seeds=1, batch_size=1, start=160, accordion={"scorer": scorer}).infotexts[0]
        assert f", {key}: 1.0000, {key} model: {scorer}," in text


def test_a_scored_image_of_the_new_scorer_is_recognised_on_paste(host, generate, pickscore):
    has_score = host.part("infotext").has_score
    assert has_score({"PickScore": "1"}) and has_score({"CLIP score": "1"}) and has_score({"Mine": "1"}, "Mine")
    assert not has_score({"HPSv2": "1", "Seed": "1"})


@pytest.mark.parametrize("uses_prompt", [True, False])
def test_extras_read_key_and_use_of_the_prompt(host, pickscore, monkeypatch, tmp_path, uses_prompt):
    entry = dataclasses.replace(pickscore, uses_prompt=uses_prompt)
    monkeypatch.setattr(registry, "MODELS", (*registry.MODELS[:-1], entry))
    data = next(e for e in host.scripts.scripts_data if issubclass(e.script_class, runner.ScriptPostprocessing))
    pp = image_with(tmp_path, None)
    data.script_class().process(pp, enable=True, scorer="PickScore", prompt="")
    no_prompt = {"PickScore note": "not scored, the image carries no prompt"}
    assert pp.info == (no_prompt if uses_prompt else {"PickScore": "1.0000"})


def test_the_schema_tells_pages_and_clients(host, pickscore):
    host.options.data["imagereward_key"] = "Preference"
    models = host.part("host").models_dir()
    models.mkdir(parents=True)
    (models / "mine.safetensors").touch()
    schema = host.part("api").schema()
    found = {scorer["name"]: scorer for scorer in schema["scorers"]}
    assert list(found) == ["ImageReward-v1.0", "CLIP", "BLIP", "Aesthetic", "PickScore", "mine.safetensors"]
    assert schema["key"] == "Preference"
    assert {name: scorer["key"] for name, scorer in found.items()} == {
        "ImageReward-v1.0": "Preference",
        "CLIP": "CLIP score",
        "BLIP": "BLIP score",
        "Aesthetic": "Aesthetic score",
        "PickScore": "PickScore",
        "mine.safetensors": "Preference",
    }
    assert found["ImageReward-v1.0"]["former_keys"] == ["ImageReward"] and found["CLIP"]["former_keys"] == []
    assert (found["PickScore"]["low"], found["PickScore"]["high"], found["PickScore"]["std"]) == (18.0, 24.0, 2.0)
    assert [name for name, scorer in found.items() if not scorer["uses_prompt"]] == ["Aesthetic"]


def test_the_browsers_score_follows_the_scale(host, generate, pickscore):
    """Not for cosines, whose scale nobody published; as it is where it runs to ten; else by its percentile."""
    host.options.data["imagereward_write_aesthetic_score"] = True
    written = {}
    for scorer in ("CLIP", "BLIP", "Aesthetic", "PickScore", "ImageReward-v1.0"):
        text = generate(seeds=1, batch_size=1, start=171, accordion={"scorer": scorer}).infotexts[0]  # 2.1
        written[scorer] = re.findall(r"aesthetic_score: ([\d.]+)", text)
    assert written == {
        "CLIP": [],
        "BLIP": [],
        "Aesthetic": ["2.1"],
        "PickScore": ["0.0"],
        "ImageReward-v1.0": ["9.8"],
    }


# --- own models -----------------------------------------------------------------------------------


@pytest.fixture
def mine(host):
    path = host.part("host").models_dir() / "mine.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def own_job(path, **changes):
    names = {"model": naming.own_model_name(path), "former": naming.former_names(path)}
    return files.ScoreJob(registry.describe(str(path)), **{**names, **changes})


def test_own_models_have_one_name_in_both_places(host, generate, mine):
    text = generate(seeds=1, batch_size=1, start=160, accordion={"scorer": "mine.safetensors"}).infotexts[0]
    assert "ImageReward: 1.0000, ImageReward model: mine [9a129038d9]," in text  # sha256 of b"weights"
    assert "ImageReward scorer: mine.safetensors" in text  # what is pasted stays the name in the list
    assert not rescored(file_of(host), own_job(mine))
    mine.write_bytes(b"other weights")
    assert rescored(file_of(host), own_job(mine))


@pytest.mark.parametrize(
    ("former", "again"), [("mine.safetensors", False), ("mine.pt", False), ("mine", True), ("your.pt", True)]
)
def test_files_of_earlier_releases_match_by_file_name(host, generate, mine, former, again):
    generate(seeds=1, batch_size=1, start=160)
    write_score(file_of(host), StoredScore(0.5, former, "a cat"))
    assert rescored(file_of(host), own_job(mine)) is again


# --- keys that hosts cannot read back, or take for their own ------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["Seed", "steps", "SIZE", "Model", "Negative prompt", "Hires upscale", "VAE", "Size-1", "Script", "Lora hashes"],
)
def test_a_key_of_the_hosts_own_is_refused_with_the_reason(host, generate, key):
    host.options.data["imagereward_key"] = key
    processed = generate(seeds=1, batch_size=1, start=160)
    params = infotext.parse(processed.infotexts[0])
    assert params["ImageReward"] == "1.0000" and params["Seed"] == "160" and params["Steps"] == "20"
    assert f"'{key}' is a setting of the web UI's own" in processed.comments
    assert host.part("api").schema()["key"] == "ImageReward"


def test_a_key_of_an_extension_of_this_host_is_refused_too(host, generate):
    host.options.data_labels = {"x": runner.SimpleNamespace(infotext="Sharpness")}
    host.options.data["imagereward_key"] = "sharpness"
    assert "'sharpness' is a setting of the web UI's own" in generate(seeds=1, batch_size=1).comments


@pytest.mark.parametrize(("wanted", "key"), [("My score", "My score"), ("", "ImageReward"), (" ", "ImageReward")])
def test_a_usable_key_says_nothing(host, generate, wanted, key):
    host.options.data["imagereward_key"] = wanted
    processed = generate(seeds=1, batch_size=1, start=160)
    assert f"{key}: 1.0000, {key} model: ImageReward-v1.0" in processed.infotexts[0]
    assert "is not used" not in processed.comments


def test_every_key_of_the_accordion_is_one_that_scores_may_not_take(host):
    for key in host.part("infotext").ALL_KEYS:
        with pytest.raises(naming.ConfigError, match="setting of the web UI's own"):
            naming.check_key(key)


# --- settings that depend on them ---------------------------------------------------------------------


def test_a_pasted_limit_with_few_decimals_keeps_its_image(host, generate):
    """With two decimals 0.0961 stands as 0.10 in the infotext: that image must pass a limit of 0.10."""
    host.options.data["imagereward_decimals"] = 1

    class Fine(type(host.part("lifecycle").holder._load.scorer)):
        def score_pairs(self, prompts, images):
            return [{48: 0.0961, 49: 0.04}[image.getpixel((0, 0))[0]] for image in images]

    host.part("lifecycle").holder._load.scorer = Fine()
    processed = generate(seeds=2, accordion={"filter_by": "score", "limit": 0.1})
    assert processed.all_seeds == [148] and "ImageReward: 0.1," in processed.infotexts[0]


def test_the_scorer_of_the_dropdown_script_is_chosen_from_the_list(host):
    row = host.options.labels["imagereward_default_scorer"]
    assert row.component is host.gradio.Dropdown
    assert row.args()["choices"] == registry.names() and registry.names()[0] == "ImageReward-v1.0"


def test_the_list_of_models_is_asked_for_anew(host):
    """A model that was put into the folder shows up without a Reload UI, in accordion and settings alike."""
    asked = []
    import sys

    ui = sys.modules["modules.ui_common"]
    ui.create_refresh_button = lambda component, refresh, args, elem_id: asked.append((component.label, refresh, args))
    host.runners["txt2img"].alwayson_scripts[0].ui(False)
    (label, refresh, args), (panel, _, panel_args) = asked
    assert panel == "Panel"
    folder = host.part("host").models_dir()
    folder.mkdir(parents=True)
    (folder / "new.safetensors").touch()
    refresh()
    assert label == "Scorer" and "new.safetensors" in args()["choices"]
    assert "new.safetensors" in panel_args()["choices"]
    assert "new.safetensors" in host.options.labels["imagereward_default_scorer"].args()["choices"]


def test_the_key_of_the_command_line(host, generate):
    generate(seeds=1, batch_size=1, start=160)
    job = files.ScoreJob(registry.MODELS[0], "ImageReward-v1.0", write=True, key="Mine")
    assert rescored(file_of(host), job) and not rescored(file_of(host), job)
    assert read_score(file_of(host), "Mine").value == 9.0 and read_score(file_of(host)).value == 1.0
