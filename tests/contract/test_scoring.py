"""The score of each image: which pixels, which prompt, and that every place that shows an infotext agrees."""

import json
import re

from PIL import Image

from .conftest import TITLE
from .fakehost.images import hidden_text


def score_in(text):
    found = re.findall(r"ImageReward: (-?\d+\.\d+)", text)
    return [float(value) for value in found]


def saved_texts(host):
    root = host.folder / "outputs"
    return {name: Image.open(root / name).info.get("parameters", "") for name in host.files() if name.endswith(".png")}


def test_score_is_in_file_gallery_and_api_alike(host, generate):
    processed = generate(seeds=4, start=148)
    assert [score_in(text) for text in processed.infotexts[1:]] == [[-0.2], [-0.1], [0.0], [0.1]]
    assert [score_in(image.info["parameters"]) for image in processed.images[1:]] == [[-0.2], [-0.1], [0.0], [0.1]]
    saved = saved_texts(host)
    assert {seed: score_in(saved[f"images/{seed}.png"]) for seed in (148, 149, 150, 151)} == {
        148: [-0.2],
        149: [-0.1],
        150: [0.0],
        151: [0.1],
    }
    for seed, text in zip((148, 149, 150, 151), processed.infotexts[1:]):
        assert saved[f"images/{seed}.png"] == text
    assert "-0.0000" not in "".join(processed.infotexts)


def test_sidecar_carries_the_score(host, generate):
    host.options.save_txt = True
    generate(seeds=1, batch_size=1)
    assert score_in((host.folder / "outputs" / "images" / "148.txt").read_text()) == [-0.2]


def test_no_score_in_grid_params_txt_and_intermediate_files(host, generate):
    host.options.save_images_before_highres_fix = True
    processed = generate(seeds=4, hires=True)
    assert processed.index_of_first_image == 1 and score_in(processed.infotexts[0]) == []
    assert score_in((host.folder / "params.txt").read_text()) == []
    texts = saved_texts(host)
    assert score_in(texts["grids/grid-148.png"]) == []
    before = [name for name in texts if "before-highres-fix" in name]
    assert len(before) == 4 and all(score_in(texts[name]) == [] for name in before)


def test_settings_line_can_still_be_parsed(host, generate):
    from .fakehost import infotext

    processed = generate(seeds=1, batch_size=1, negative_prompt="dog", accordion={"filter_by": "score", "limit": -5})
    params = infotext.parse(processed.infotexts[0])
    assert params["Prompt"] == "a cat" and params["Negative prompt"] == "dog"
    assert params["Seed"] == "148" and params["ImageReward"] == "-0.2000"
    assert (params["ImageReward filter"], params["ImageReward limit"]) == ("score", "-5.0")


def test_each_image_is_scored_once_with_its_own_prompt(host, generate, loader):
    generate(seeds=2, batch_size=2, prompt=["a (red:1.2) cat <lora:x:1>", "[dog:wolf:0.5]"])
    assert [prompt for prompt, _ in loader.scorer.calls] == ["a red cat", "wolf"]


def test_both_scripts_on_score_once(host, generate, loader):
    generate(seeds=2, script=TITLE, script_args=[False, 0])
    assert len(loader.scorer.calls) == 2


def test_final_pixels_are_scored(host, generate, loader):
    """What other scripts do in postprocess_image (ADetailer, face restoration) comes first."""
    from .fakehost import runner

    class Enlarge(runner.Script):
        def title(self):
            return "Enlarge"

        def postprocess_image(self, p, pp, *args):
            pp.image = pp.image.resize((16, 16))

    enlarge = Enlarge()
    enlarge.alwayson = True
    host.runners["txt2img"].alwayson_scripts.append(enlarge)
    generate(seeds=1, batch_size=1)
    assert loader.scorer.calls == [("a cat", (16, 16))]


def test_off_by_default(host, loader):
    processed = host.txt2img(seed=148, batch_size=2)
    assert loader.loads == [] and host.errors == []
    assert "ImageReward" not in "".join(processed.infotexts) + processed.comments


def test_a_second_job_without_scoring_carries_no_old_score(host):
    """img2img batch and grids reuse p and its dict."""
    p = host.job(seed=148, accordion={"filter_by": "score", "limit": -9})
    host.run(p)
    p.script_args[p.scripts.alwayson_scripts[0].args_from] = False
    processed = host.run(p)
    assert "ImageReward" not in processed.infotexts[0]
    assert p.extra_generation_params == {}


def test_status_line_and_machine_readable_result(host, generate):
    processed = generate(seeds=4)
    assert processed.comments == "ImageReward: scored 4 · mean -0.05 · best 0.10 (seed 151)\n"
    result = processed.extra_generation_params["ImageReward result"]
    assert result["scores"] == [None, -0.2, -0.1, 0.0, 0.1] and result["scorer"] == "ImageReward-v1.0"
    assert "ImageReward result" not in processed.infotexts[1]


def test_other_scorers_have_keys_of_their_own(host, generate):
    processed = generate(seeds=1, batch_size=1, accordion={"scorer": "CLIP"})
    assert "CLIP score: -0.2000" in processed.infotexts[0] and "ImageReward: " not in processed.infotexts[0]


def test_key_decimals_and_browser_score_are_options(host, generate):
    host.options.data.update(
        imagereward_key="Preference", imagereward_decimals=2, imagereward_write_aesthetic_score=True
    )
    assert (
        "Preference: 1.00, Preference model: ImageReward-v1.0, aesthetic_score: 8.4"
        in generate(seeds=1, batch_size=1, start=160).infotexts[0]
    )
    host.options.data["imagereward_key"] = "score (v1)"  # the host could not read this one back
    assert "ImageReward: 1.00" in generate(seeds=1, batch_size=1, start=160).infotexts[0]


def test_failure_keeps_images_and_is_told_once(host, generate, loader):
    loader.failure = RuntimeError("disk on fire")
    processed = generate(seeds=4, accordion={"filter_by": "score", "limit": 9})
    assert [image.getpixel((0, 0))[0] for image in processed.images[1:]] == [48, 49, 50, 51]
    assert processed.comments.count("not scored: disk on fire") == 1
    assert len(loader.loads) == 1 and "ImageReward: " not in processed.infotexts[1]


def test_invalid_accordion_input_is_told_and_nothing_is_lost(host, loader):
    processed = host.txt2img(seed=148, accordion=[True, "CLIP", "maybe"])
    assert len(processed.images) == 1 and loader.loads == [] and host.errors == []
    assert "\"Filter gallery by\" is 'maybe'" in processed.comments
    # API clients see no comments
    (note,) = json.loads(processed.js())["extra_generation_params"]["ImageReward result"]["notes"]
    assert "\"Filter gallery by\" is 'maybe'" in note
    assert "result" not in host.txt2img(seed=148, accordion=[False]).js()


def test_interrupted_job_keeps_what_was_made(host, generate):
    def interrupt(p, n):
        if n == 1:
            host.state.interrupted = True

    host.on_sample.append(interrupt)
    processed = generate(seeds=8, batch_size=2, accordion={"filter_by": "score", "limit": -0.1})
    assert processed.all_seeds == [149, 150, 151] and len(processed.infotexts) == len(processed.images) == 4


def as_reforge(host, monkeypatch):
    """reForge asks for the grid's infotext as if it were the first image of the last batch."""
    real = host.processing.create_infotext

    def reforge(p, prompts, seeds, subseeds, use_main_prompt=False, index=None, negative=None, **kwargs):
        return real(p, prompts, seeds, subseeds, False, index, negative, **kwargs)

    from .fakehost import infotext

    monkeypatch.setattr(infotext, "create", reforge)


def test_reforge_grid_carries_no_score(host, generate, monkeypatch):
    """Neither in the gallery nor on disk, nor in the text that reForge hides in the pixels before any callback could
    mend it.
    """
    as_reforge(host, monkeypatch)
    host.options.stealth_pnginfo_option, host.options.grid_save, host.options.save_txt = "Alpha", True, True
    processed = generate(seeds=2, batch_size=1, width=64, height=64)
    assert score_in(processed.infotexts[0]) == [] and score_in(processed.images[0].info["parameters"]) == []
    assert score_in(saved_texts(host)["grids/grid-148.png"]) == []
    assert score_in((host.folder / "outputs" / "grids" / "grid-148.txt").read_text()) == []
    assert (
        hidden_text(processed.images[0]).startswith("a cat\nSteps:")
        and score_in(hidden_text(processed.images[0])) == []
    )
    assert [score_in(text) for text in processed.infotexts[1:]] == [[-0.2], [-0.1]]


def test_stealth_text_carries_the_score_and_its_alpha_channel_disturbs_nothing(host, generate):
    """Forge's default: saving turns the picture in hand into RGBA; it is scored before, and filtered, sorted and joined
    after.
    """
    host.options.stealth_pnginfo_option = "Alpha"
    processed = generate(seeds=4, accordion={"filter_by": "top k", "top_k": 3, "sort": True}, width=64, height=64)
    assert [image.mode for image in processed.images] == ["RGBA"] * 4
    assert [score_in(text) for text in processed.infotexts] == [[], [0.1], [0.0], [-0.1]]
    assert [hidden_text(image) for image in processed.images[1:]] == processed.infotexts[1:]
    on_disk = Image.open(host.folder / "outputs" / "images" / "151.png")
    assert hidden_text(on_disk) == on_disk.info["parameters"] == processed.infotexts[1]


def test_reforge_grid_in_the_gallery_is_clean_where_another_script_replaced_the_images(host, generate, monkeypatch):
    """The host then joins pictures that nobody scored; what the gallery shows is still mended at the end."""
    as_reforge(host, monkeypatch)
    host.callbacks.lists["on_image_grid"].clear()
    processed = generate(seeds=2, batch_size=1)
    assert score_in(processed.infotexts[0]) == [] and score_in(processed.images[0].info["parameters"]) == []
    assert score_in(processed.infotexts[2]) == [-0.1]
