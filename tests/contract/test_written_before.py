"""What users have from the release eb51ad8 goes on working: infotexts are pasted, settings read, and API clients served
as they were then.
"""

import json
from pathlib import Path

import pytest

from imagereward_core import naming, registry
from imagereward_core.metadata.infotext import get_score

from .fakehost import infotext

WRITTEN = json.loads(Path(__file__).with_name("written_by_eb51ad8.json").read_text(encoding="utf-8"))
REQUESTS = WRITTEN["requests"]
NAMES = [f"{request['name']}{' with settings' * request['settings']}" for request in REQUESTS]


@pytest.fixture
def configured(host):
    """The host with that request's config.json, and an own model in its folder."""
    folder = host.part("host").models_dir()
    folder.mkdir(parents=True)
    (folder / "mine.safetensors").write_bytes(b"weights")

    def configure(request):
        host.options.data.update(WRITTEN["config.json"] if request["settings"] else {})
        return host

    return configure


def scripts_of(host):
    return host.runners["txt2img"].scripts


def test_fields_are_only_appended(host):
    names = [field.attr for field in host.part("fields").FIELDS]
    assert names[: len(WRITTEN["fields"])] == WRITTEN["fields"]


@pytest.mark.parametrize("request_", REQUESTS, ids=NAMES)
def test_api_clients_are_served_as_before(configured, request_):
    host, body = configured(request_), request_["body"]
    accordion = body.get("alwayson_scripts", {}).get("ImageReward", {}).get("args")
    processed = host.txt2img(
        script=body.get("script_name"),
        script_args=body.get("script_args"),
        accordion=accordion,
        seed=148,
        batch_size=2,
        n_iter=2,
    )
    assert host.errors == []
    assert processed.all_seeds == request_["all_seeds"] and host.files() == request_["files"]
    assert processed.comments == request_["comments"]
    assert processed.extra_generation_params.get("ImageReward result", {}).get("scores") == request_["scores"]
    # own models are named with their hash since then
    then = [text.replace(" model: mine.safetensors", " model: mine [9a129038d9]") for text in request_["infotexts"]]
    assert processed.infotexts == then


@pytest.mark.parametrize(("request_", "pasted"), list(zip(REQUESTS, WRITTEN["pasted"])), ids=NAMES)
def test_infotexts_are_pasted_as_before(configured, request_, pasted):
    host = configured(request_)
    params = infotext.parse(request_["infotexts"][-1])
    accordion, dropdown = scripts_of(host)
    values = [read(params) for _, read in accordion.infotext_fields]
    assert values[: len(pasted["accordion"])] == pasted["accordion"]
    new = host.part("fields").FIELDS[len(pasted["accordion"]) :]
    scored = values[0]
    assert values[len(pasted["accordion"]) :] == [field.shown(field.default) if scored else None for field in new]
    assert [read(params) for _, read in dropdown.infotext_fields] == pasted["dropdown"]


@pytest.mark.parametrize("request_", [r for r in REQUESTS if r["scores"]], ids=[n for n in NAMES if "off" not in n])
def test_scores_are_read_as_before(configured, request_):
    """By the command line too, which takes an own model's score for its own by the file's name."""
    settings = WRITTEN["config.json"] if request_["settings"] else {}
    scorers = {"positional, every field": "CLIP", "both": "BLIP", "own model": "mine.safetensors"}
    scorer = scorers.get(request_["name"], "ImageReward-v1.0")
    if request_["name"] == "dropdown script" and settings:
        scorer = settings["imagereward_default_scorer"]
    key = naming.score_key(registry.describe(scorer), settings.get("imagereward_key", ""))
    stored = get_score(request_["infotexts"][-1], key)
    assert stored.value == pytest.approx(request_["scores"][-1])
    assert stored.model in {scorer, *naming.former_names(scorer)} and stored.prompt == "a cat"


@pytest.mark.parametrize("name", WRITTEN["config.json"])
def test_settings_are_read_as_before(host, name):
    row, value = host.options.labels[name], WRITTEN["config.json"][name]
    host.options.data[name] = value
    assert host.part("host").option(name.removeprefix("imagereward_")) == value
    assert type(row.default) is type(value)  # hosts throw away a saved value of another type
    choices = row.args() if callable(row.args) else row.args or {}
    assert value in choices.get("choices", [value])


def test_saved_defaults_of_widgets_are_taken_as_before(host):
    """ui-config.json knows a widget by its label, and keeps a value only if the widget can show it."""
    widgets = {widget.label: widget for script in scripts_of(host) for widget in script.ui(False)}
    for key, value in WRITTEN["ui-config.json"].items():
        _, _, _, label, field = key.split("/")
        assert label in widgets
        if field == "value":
            assert widgets[label].value == value and value in widgets[label].kwargs.get("choices", [value])
