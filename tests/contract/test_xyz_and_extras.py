"""X/Y/Z axes with the CSV of scores, and the Extras tab."""

import base64
import copy
import csv
import html
import json
import re
import sys
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


def test_no_prompt_is_a_formula_in_the_csv(host, xyz):
    xyz.cells = [("Score limit", "5")]
    host.txt2img(script="X/Y/Z plot", seed=148, batch_size=1, prompt="=HYPERLINK(1)", negative_prompt="-blurry")
    (path,) = (host.folder / "outputs" / "grids").glob("xyz-scores-*.csv")
    (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert (row["prompt"], row["negative_prompt"], row["score"]) == ("'=HYPERLINK(1)", "'-blurry", "-0.2000")


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
    assert list(extras.ui()) == ["enable", "panel", "scorer", "prompt", "constants"]


def test_no_input_at_the_end_of_extras_holds_a_list(extras):
    """Forge Neo's create_submit_args looks for the gallery 3 to 5 places from the end of inputs and outputs."""
    values = [widget.value for widget in extras.ui().values()]
    assert [isinstance(value, list) for value in values[-2:]] == [False, False]
    assert any(isinstance(value, list) for value in values)


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


def test_extras_has_a_folder_for_the_pictures_it_shows(extras, host, tmp_path):
    """Of every image that the tab makes, scored or not."""
    host.options.temp_dir = str(tmp_path / "webui" / "tmp")
    extras.process(image_with(tmp_path, None), enable=None)
    assert (tmp_path / "webui" / "tmp").is_dir()


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


# --- the table of a run ---------------------------------------------------------------------------


@pytest.fixture
def run_extras(host, tmp_path):
    """One run of the Extras tab over a folder of images: (name, red, prompt)."""
    folder = tmp_path / "in"
    folder.mkdir()

    def run(images, *args, show=True):
        for name, red, prompt in images:
            chunks = PngImagePlugin.PngInfo()
            if prompt:
                chunks.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, Seed: 1")
            Image.new("RGB", (8, 8), (red, 0, 0)).save(folder / name, pnginfo=chunks)
        run = sys.modules["modules.postprocessing"].run_postprocessing
        return run(2, None, None, str(folder), "", show, *(args or (True, [], "ImageReward-v1.0", "")))

    return run


IMAGES = [("a.png", 60, "a cat"), ("b.png", 80, "a <b>dog</b>"), ("c.png", 40, ""), ("d.png", 50, "=1+1")]


def rows_of(below):
    body = below.partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return [tuple(html.unescape(re.sub("<.*?>", " ", cell)) for cell in row) for row in cells]


def test_a_run_of_extras_ends_with_a_table_best_first(run_extras):
    images, below, log = run_extras(IMAGES)
    assert len(images) == 4 and log == "" and below.startswith("<p>ImageReward: 0.0000</p>")
    assert rows_of(below) == [
        ("b.png", "3.0000", "a <b>dog</b>"),
        ("a.png", "1.0000", "a cat"),
        ("d.png", "0.0000", "=1+1"),
        ("c.png", "–", " not scored, the image carries no prompt "),
    ]
    assert "<b>dog" not in below
    assert "ImageReward-v1.0: scored 3 · not scored 1 · mean 1.33 · best 3.00 (b.png)" in below
    gallery = json.loads(html.unescape(re.search("data-gallery='(.*?)'", below)[1]))
    assert gallery == {"scores": [1.0, 3.0, None, 0.0], "low": -2.0, "high": 2.0, "meanings": [""] * 4}


def test_the_tables_csv_holds_what_was_scored_and_where_it_was_saved(run_extras, host, tmp_path):
    below = run_extras(IMAGES)[1]
    encoded = re.search("base64,(.*?)'", below)[1]
    text = base64.b64decode(encoded).decode("utf-8-sig")
    rows = list(csv.DictReader(text.splitlines()))
    saved = str(host.folder / "outputs" / "extras" / "00002.png")
    assert rows[0] == {
        "file": str(tmp_path / "in" / "b.png"),
        "saved as": saved,
        "scorer": "ImageReward-v1.0",
        "score": "3.0000",
        "prompt": "a <b>dog</b>",
        "note": "",
    }
    assert rows[2]["prompt"] == "'=1+1" and rows[3]["note"] == "not scored, the image carries no prompt"
    assert [row["score"] for row in rows] == ["3.0000", "1.0000", "0.0000", ""]


def test_a_run_that_shows_no_images_has_its_table_all_the_same(run_extras):
    images, below, _ = run_extras(IMAGES, show=False)
    assert images == [] and len(rows_of(below)) == 4 and "&quot;scores&quot;: []" in below


def test_without_scores_the_tab_is_as_the_host_made_it(run_extras):
    assert run_extras(IMAGES, False, [], "ImageReward-v1.0", "")[1] == "<p></p>"
    assert run_extras(IMAGES, None, None, None, None)[1] == "<p></p>"


def test_the_tables_are_of_one_run_each_and_watched_once(run_extras, host):
    host.callbacks.call("on_before_ui")
    below = run_extras(IMAGES)[1]
    assert below.count("<table>") == 1 and len(rows_of(run_extras(IMAGES)[1])) == 4


def test_a_failing_scorer_fills_the_table_with_reasons(run_extras, loader):
    loader.failure = RuntimeError("no <weights>")
    below = run_extras(IMAGES[:1])[1]
    assert rows_of(below) == [("a.png", "–", "a cat  not scored, no <weights> ")]
    assert "ImageReward-v1.0: scored 0 · not scored 1" in below
