"""X/Y/Z axes with the CSV of scores, and the Extras tab."""

import copy
import csv
import types

import pytest
from PIL import Image, PngImagePlugin

from .fakehost import runner


class AxisOption:
    def __init__(self, label, type, apply, confirm=None, choices=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture
def xyz(host):
    """The X/Y/Z script: cells are shallow copies of p, each a job of its own."""
    module = types.SimpleNamespace(axis_options=[], AxisOption=AxisOption)

    class XYZ(runner.Script):
        cells = ()

        def title(self):
            return "X/Y/Z plot"

        def run(self, p, *args):
            results = []
            for axis, value in self.cells:
                cell = copy.copy(p)
                option = next(o for o in module.axis_options if o.label == f"[ImageReward] {axis}")
                option.apply(cell, option.type(value), [])
                results.append(host.processing.process_images(cell))
            return results

    XYZ.__module__ = "xyz_grid.py"
    host.scripts.scripts_data.append(types.SimpleNamespace(script_class=XYZ, module=module, path="xyz_grid.py"))
    host.callbacks.call("on_before_ui")
    host.callbacks.call("on_before_ui")
    script = XYZ()
    host.runners["txt2img"].selectable_scripts.append(script)
    host.runners["txt2img"].scripts.append(script)
    script.axes = module.axis_options
    return script


def test_axes_are_added_once(xyz):
    assert [axis.label for axis in xyz.axes] == ["[ImageReward] Scorer", "[ImageReward] Score limit"]
    assert xyz.axes[0].choices()[0] == "ImageReward-v1.0"
    with pytest.raises(RuntimeError, match="Unknown scorer: nobody; there are: ImageReward-v1.0"):
        xyz.axes[0].confirm(None, ["CLIP", "nobody"])


def test_cells_are_scored_by_their_axis_and_never_filtered(host, xyz, loader):
    xyz.cells = [("Scorer", "CLIP"), ("Scorer", "BLIP"), ("Score limit", "0.05")]
    first, second, third = host.txt2img(script="X/Y/Z plot", seed=148, batch_size=1)
    assert host.errors == []
    assert [name for name, _ in loader.loads] == ["CLIP", "BLIP", "ImageReward-v1.0"]
    assert "CLIP score: -0.2000" in first.infotexts[0] and "BLIP" not in first.infotexts[0]
    assert "BLIP score: -0.2000" in second.infotexts[0] and "CLIP" not in second.infotexts[0]
    assert "ImageReward limit: 0.05" in third.infotexts[0] and len(third.images) == 1


def test_scores_are_written_beside_the_grid(host, xyz):
    xyz.cells = [("Score limit", "-5"), ("Score limit", "5")]
    host.txt2img(script="X/Y/Z plot", seed=148, batch_size=2, prompt="a cat, sitting")
    (path,) = (host.folder / "outputs" / "grids").glob("xyz-scores-*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["cell"], r["file"], r["score"], r["passes"], r["prompt"]) for r in rows] == [
        ("1", "148.png", "-0.2000", "True", "a cat, sitting"),
        ("1", "149.png", "-0.1000", "True", "a cat, sitting"),
        ("2", "148.png", "-0.2000", "False", "a cat, sitting"),
        ("2", "149.png", "-0.1000", "False", "a cat, sitting"),
    ]


def test_the_csv_gets_the_place_and_the_name_of_the_saved_grid(host, xyz):
    """Hosts save grids into a folder per day; a file in the folder above it is not beside the grid."""
    folder = host.folder / "outputs" / "grids"
    saved = types.SimpleNamespace(
        p=types.SimpleNamespace(index_of_first_image=1), filename=str(folder / "2026-01-01" / "xyz_grid-0000-148.png")
    )
    (folder / "2026-01-01").mkdir(parents=True)
    xyz.cells = [("Score limit", "0")]
    host.txt2img(script="X/Y/Z plot", seed=148, accordion={})
    ours = types.SimpleNamespace(p=types.SimpleNamespace(), image=None, filename=str(folder / "148.png"))
    for params in (ours, saved, saved):  # an image, the grid, a sub-grid
        host.callbacks.call("on_image_saved", params)
    assert [name for name in host.files() if name.endswith(".csv")] == ["grids/2026-01-01/xyz_grid-0000-148.csv"]
    host.txt2img(script="X/Y/Z plot", seed=148, accordion={})  # interrupted before its grid
    host.state.job_timestamp = "20260101000001"
    host.callbacks.call("on_image_saved", saved)
    assert (
        sum(name.endswith(".csv") for name in host.files()) == 2
        and "grids/xyz-scores-20260101000000.csv" in host.files()
    )


# --- Extras ---------------------------------------------------------------------------------------


@pytest.fixture
def extras(host):
    entry = next(e for e in host.scripts.scripts_data if issubclass(e.script_class, runner.ScriptPostprocessing))
    return entry.script_class()


def image_with(tmp_path, text):
    chunks = PngImagePlugin.PngInfo()
    if text:
        chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8), (60, 0, 0)).save(tmp_path / "x.png", pnginfo=chunks)
    return types.SimpleNamespace(image=Image.open(tmp_path / "x.png"), info={})


def test_extras_ui_is_a_dict_of_its_arguments(extras):
    assert list(extras.ui()) == ["enable", "scorer", "prompt", "panel", "constants"]


def test_extras_scores_with_the_images_own_prompt(extras, tmp_path, loader):
    pp = image_with(tmp_path, "a (cat:1.3)\nSteps: 20, Sampler: Euler, Seed: 1")
    extras.process(pp, enable=True, scorer="ImageReward-v1.0", prompt="not this")
    assert pp.info == {"ImageReward": "1.0000"} and loader.scorer.calls[0][0] == "a cat"


def test_extras_without_infotext(extras, tmp_path, loader):
    pp = image_with(tmp_path, None)
    extras.process(pp, enable=True, scorer="ImageReward-v1.0", prompt="")
    assert pp.info == {"ImageReward note": "not scored, the image carries no prompt"}
    extras.process(pp, enable=True, scorer="ImageReward-v1.0", prompt="a dog")
    assert pp.info["ImageReward"] == "1.0000" and loader.scorer.calls[0][0] == "a dog"


GRAPH = (
    '{"1": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["2", 0], "negative": ["3", 0]}}, '
    '"2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (red:1.2) fox"}}, '
    '"3": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly"}}}'
)


def test_extras_reads_other_programs_prompts(extras, tmp_path, loader):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", GRAPH)
    Image.new("RGB", (8, 8), (60, 0, 0)).save(tmp_path / "x.png", pnginfo=chunks)
    pp = types.SimpleNamespace(image=Image.open(tmp_path / "x.png").convert("RGB"), info={})
    extras.process(pp, enable=True, scorer="ImageReward-v1.0", prompt="")
    assert pp.info == {"ImageReward": "1.0000"} and loader.scorer.calls[0][0] == "a red fox"


def test_extras_never_scores_another_programs_text(extras, tmp_path, loader):
    for text in ('{"sui_image_params": {}}', "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"):
        pp = image_with(tmp_path, text)
        extras.process(pp, enable=True, scorer="ImageReward-v1.0", prompt="")
        assert "its text was written by" in pp.info["ImageReward note"] and "ImageReward" not in pp.info
    assert loader.loads == []


def test_extras_is_off_for_the_old_api(extras, tmp_path, loader):
    pp = image_with(tmp_path, None)
    extras.process(pp, enable=None, scorer=None, prompt=None)
    assert pp.info == {} and loader.loads == []


def test_extras_failure_keeps_the_other_scripts_work(extras, tmp_path, loader):
    loader.failure = RuntimeError("no weights")
    pp = image_with(tmp_path, None)
    extras.process(pp, enable=True, scorer="CLIP", prompt="a dog")
    assert pp.info == {"CLIP score note": "not scored, no weights"}


def test_extras_apply_the_memory_policy_after_the_last_image(host, extras, tmp_path, loader):
    host.options.data["imagereward_policy"] = "unload"
    host.state.job_count = 2
    for host.state.job_no in (1, 2):
        extras.process(image_with(tmp_path, None), enable=True, scorer="CLIP", prompt="a dog")
    assert len(loader.loads) == 1 and host.part("lifecycle").holder.status()["loaded"] is None
