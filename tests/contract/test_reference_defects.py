"""One test for each defect of the reference's script that was seen in a real A1111 v1.10.1."""

import math

import pytest
from PIL import Image

from .conftest import TITLE
from .fakehost import infotext


@pytest.fixture
def dropdown(host):
    def run(*args, seeds=4, **kwargs):
        processed = host.txt2img(
            script=TITLE, script_args=list(args), seed=148, batch_size=2, n_iter=seeds // 2, **kwargs
        )
        assert host.errors == []
        return processed

    return run


def test_score_is_in_the_file_on_disk(host, dropdown):
    dropdown(False, 0)
    assert "ImageReward: 0.1000" in Image.open(host.folder / "outputs" / "images" / "151.png").info["parameters"]


def test_send_to_keeps_every_setting(dropdown):
    params = infotext.parse(dropdown(False, 0, negative_prompt="dog").infotexts[1])
    assert (params["Prompt"], params["Negative prompt"]) == ("a cat", "dog")
    assert {"Steps", "Sampler", "CFG scale", "Seed", "Size"} <= set(params)


def test_save_finds_the_seed_of_every_image(dropdown):
    assert [infotext.parse(text)["Seed"] for text in dropdown(True, -0.1).infotexts] == [
        "148",
        "149",
        "150",
        "151",
    ]  # the grid has the first


def test_grid_is_neither_scored_nor_sorted_nor_filtered(dropdown, loader):
    processed = dropdown(True, -0.1)
    assert processed.index_of_first_image == 1 and hasattr(processed.images[0], "tiles")
    assert len(loader.scorer.calls) == 4 and "ImageReward: " not in processed.infotexts[0]


def test_seeds_follow_their_image(dropdown):
    assert dropdown(True, 0, accordion={"sort": True}).all_seeds == [151, 150]


def test_everything_filtered_is_an_empty_gallery(dropdown):
    processed = dropdown(True, 9)
    assert processed.images == [] and '"prompt": "a cat"' in processed.js()


def told(error):
    """What the client reads: an HTTPException's detail, which its text holds in newer versions of starlette only."""
    return str(getattr(error, "detail", error))


@pytest.mark.parametrize("limit", ["", "abc", "0,5", None, math.nan])
@pytest.mark.parametrize("is_api", [True, False])
def test_bad_limit_is_answered_before_anything_is_generated(host, limit, is_api):
    sampled = []
    host.on_sample.append(lambda p, n: sampled.append(n))
    with pytest.raises(Exception) as caught:  # noqa: B017 - of another type in the API than in the page
        host.run(host.job(script=TITLE, script_args=[True, limit], is_api=is_api))
    assert "Lower score limit" in told(caught.value)
    assert sampled == [] and host.files() == []
    assert getattr(caught.value, "status_code", None) == (422 if is_api else None)


@pytest.mark.parametrize("script_args", [[], [True]])
def test_missing_limit_is_answered_too(host, script_args):
    """The API assigns the list as a slice: a short one shifts the arguments of every later script."""
    with pytest.raises(Exception) as caught:  # noqa: B017
        host.run(host.job(script=TITLE, script_args=script_args))
    assert "script_args needs exactly two values" in told(caught.value)
    assert caught.value.status_code == 422 and host.files() == []


def test_limit_as_text(dropdown):
    assert dropdown(True, "0.1").all_seeds == [151]


def test_filtered_images_are_not_in_the_grid(dropdown):
    assert [image.getpixel((0, 0))[0] for image in dropdown(True, 0).images[0].tiles] == [50, 51]


def test_second_unload_says_so(host, dropdown):
    dropdown(False, 0)
    panel = host.part("panel")
    assert panel.unload() == "Unloaded: 1 MB freed."
    assert panel.unload() == "No scorer is loaded."


def test_infotext_survives_without_pnginfo(host, dropdown):
    host.options.enable_pnginfo = False
    processed = dropdown(False, 0)
    assert "ImageReward: 0.1000" in processed.infotexts[4]
    assert "parameters" not in Image.open(host.folder / "outputs" / "images" / "151.png").info


def test_each_image_is_scored_with_its_own_prompt(host, loader):
    host.txt2img(script=TITLE, script_args=[False, 0], seed=148, batch_size=2, prompt=["a cat", "a dog"])
    assert [prompt for prompt, _ in loader.scorer.calls] == ["a cat", "a dog"]


def test_nothing_is_installed_or_loaded_at_import(host, loader, monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started at load"))
    host.load_ui()
    assert host.errors == [] and loader.loads == []


def test_paste_restores_the_script_and_its_inputs(host, dropdown):
    params = infotext.parse(dropdown(True, 0.1).infotexts[0])
    assert params["Script"] == TITLE
    script = next(s for s in host.runners["txt2img"].scripts if s.title() == TITLE)
    assert [read(params) for _, read in script.infotext_fields] == [True, 0.1]
    accordion = next(s for s in host.runners["txt2img"].scripts if s.title() == "ImageReward")
    assert [read(params) for _, read in accordion.infotext_fields] == [False] + [None] * 12


def test_paste_restores_the_accordion(host, generate):
    settings = {"filter_by": "top k", "top_k": 3, "sort": True, "low_images": "don't save", "scorer": "CLIP"}
    text = generate(seeds=2, accordion=settings).infotexts[1]
    accordion = next(s for s in host.runners["txt2img"].scripts if s.title() == "ImageReward")
    params = infotext.parse(text)
    fields = host.part("fields").FIELDS
    pasted = {field.attr: read(params) for field, (_, read) in zip(fields, accordion.infotext_fields)}
    defaults = {"enabled": True, "limit": 0.0, "wanted": 0, "max_batches": 8, "unload": False, "over": "each prompt"}
    defaults |= {"panel": [], "panel_constants": ""}
    assert pasted == {**defaults, **settings}
    unscored = infotext.parse("a cat\nSteps: 20, Sampler: Euler, CFG scale: 7")
    assert [read(unscored) for _, read in accordion.infotext_fields] == [False] + [None] * 12
