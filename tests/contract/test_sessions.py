"""Scripts that drive several jobs, or rearrange one job's result: what the user and an API client see in the end."""

import copy
import csv
import json
import types

import pytest
from PIL import Image

from .fakehost import runner
from .test_filtering import images_on_disk, reds


class PromptsFromFile(runner.Script):
    """Strings the results of several jobs together in a new one, and leaves their comments and seeds behind."""

    def title(self):
        return "Prompts from file or textbox"

    def run(self, p, *args):
        from modules.processing import Processed, process_images

        p.do_not_save_grid = True
        images, prompts, texts = [], [], []
        for n, prompt in enumerate(self.prompts):
            line = copy.copy(p)
            line.prompt, line.seed = prompt, p.seed + 10 * n
            result = process_images(line)
            images += result.images
            prompts += result.all_prompts
            texts += result.infotexts
        if self.combined:
            images.insert(0, Image.new("RGB", (8, 8)))
            texts.insert(0, "\n".join(texts))
            prompts.insert(0, "all")
        result = Processed(p, images, p.seed, "", infotexts=texts)
        result.all_prompts = prompts
        return result

    prompts, combined = ("a cat", "a dog"), False


class PromptMatrix(runner.Script):
    """One job whose result gets a grid put before it afterwards."""

    def title(self):
        return "Prompt matrix"

    def run(self, p, *args):
        from modules.processing import process_images

        p.do_not_save_grid = True
        result = process_images(p)
        result.images.insert(0, Image.new("RGB", (8, 8)))
        result.infotexts.insert(0, result.infotexts[0])
        result.index_of_first_image = 1
        return result


class Loopback(runner.Script):
    """Feeds each image to the next job and returns a result of its own."""

    def title(self):
        return "Loopback"

    def run(self, p, *args):
        from modules.processing import Processed, process_images

        images = []
        for _ in range(2):
            images += process_images(p).images[:1]
            p.seed += 1
        return Processed(p, images, p.seed, "info of the first")


def add_script(host, script_class, module, **names):
    """As the host loads a script: its class before the UI is made, an instance per tab after."""
    script_class = type(script_class.__name__, (script_class,), {"__module__": module})
    space = types.SimpleNamespace(**names)
    host.scripts.scripts_data.append(
        types.SimpleNamespace(script_class=script_class, module=space, path=f"scripts/{module}")
    )
    host.callbacks.call("on_before_ui")
    host.callbacks.call("on_before_ui")
    script = script_class()
    host.runners["txt2img"].selectable_scripts.append(script)
    host.runners["txt2img"].scripts.append(script)
    return script, space


def sent(processed):
    """What the page and API clients get beside the images."""
    return json.loads(processed.js())["extra_generation_params"]["ImageReward result"]


@pytest.fixture
def from_file(host):
    script, _ = add_script(host, PromptsFromFile, "prompts_from_file.py")

    def run(**accordion):
        processed = host.txt2img(script=script.title(), seed=148, batch_size=3, accordion=accordion)
        assert host.errors == []
        return processed

    run.script = script
    return run


def test_prompts_from_file_filters_each_prompts_images(host, from_file):
    processed = from_file(filter_by="top k", top_k=1, sort=True)
    assert reds(processed.images) == [50, 60]  # the best of each prompt
    assert processed.all_prompts == ["a cat", "a dog"] and processed.all_seeds == [150, 160]
    assert ["ImageReward filter: top k" in text for text in processed.infotexts] == [True, True]
    assert processed.comments == ("ImageReward: scored 6 · kept 2 · hidden 4 · mean 0.40 · best 1.00 (seed 160)\n")
    result = sent(processed)
    assert (result["scores"], result["scored"], result["kept"], result["hidden"]) == ([0.0, 1.0], 6, 2, 4)


def test_prompts_from_file_filters_over_all_prompts(host, from_file):
    processed = from_file(filter_by="top k", top_k=2, sort=True, over="all prompts", low_images="don't save")
    assert reds(processed.images) == [60, 59] and processed.all_prompts == ["a dog", "a dog"]
    assert processed.all_seeds == [160, 159] and [f"Seed: {s}," in t for s, t in zip([160, 159], processed.infotexts)]
    assert "kept 2 · hidden 4" in processed.comments and sent(processed)["scores"] == [1.0, 0.9]
    assert images_on_disk(host) == ["images/159.png", "images/160.png"]
    assert "ImageReward over: all prompts" in processed.infotexts[0]


def test_a_prompt_none_of_whose_images_passes_is_left_out(host, from_file):
    processed = from_file(filter_by="score", limit=0.8)
    assert reds(processed.images) == [58, 59, 60] and processed.all_prompts == ["a dog"] * 3
    assert len(processed.infotexts) == 3
    nothing = from_file(filter_by="score", limit=9)
    assert nothing.images == [] and "Nothing to show: the best of 6 has 1.00" in sent(nothing)["empty"]
    assert "The images are in the output folder." in nothing.comments


def test_a_combined_picture_stays_at_the_head(host, from_file):
    from_file.script.combined = True
    processed = from_file(filter_by="score", limit=0.8, over="all prompts", sort=True)
    assert reds(processed.images) == [0, 60, 59, 58] and processed.index_of_first_image == 1
    assert sent(processed)["scores"] == [None, 1.0, 0.9, 0.8]


def test_until_n_pass_is_counted_for_each_prompt(host, from_file):
    processed = from_file(filter_by="score", limit=0.1, wanted=2, max_batches=3)
    assert processed.all_seeds == [151, 152, 153, 158, 159, 160]
    assert "6 of 9 generated" in processed.comments


def test_prompt_matrix_scores_are_not_shifted_by_its_grid(host):
    script, _ = add_script(host, PromptMatrix, "prompt_matrix.py")
    processed = host.txt2img(
        script=script.title(), seed=148, batch_size=3, accordion={"filter_by": "score", "limit": 9}
    )
    assert reds(processed.images) == [0, 48, 49, 50] and sent(processed)["scores"] == [None, -0.2, -0.1, 0.0]
    assert processed.comments.count("scored 3 · mean -0.10") == 1
    assert "not filtered or sorted: Prompt matrix needs every image" in processed.comments
    assert all("ImageReward filter" not in text for text in processed.infotexts)  # no claim that is not so


def test_loopback_says_what_all_its_jobs_gave(host):
    script, _ = add_script(host, Loopback, "loopback.py")
    processed = host.txt2img(script=script.title(), seed=148, accordion={"sort": True})
    assert sent(processed)["scores"] == [-0.2, -0.1] and sent(processed)["scored"] == 2
    assert processed.comments.splitlines() == [
        "ImageReward: scored 2 · mean -0.15 · best -0.10 (seed 149)",
        "ImageReward: not filtered or sorted: Loopback needs every image",
    ]


def test_why_nothing_was_scored_reaches_the_client_through_a_script(host):
    script, _ = add_script(host, Loopback, "loopback.py")
    processed = host.txt2img(script=script.title(), seed=148, accordion=[True, "CLIP", "maybe"])
    assert "\"Filter gallery by\" is 'maybe'" in sent(processed)["notes"][0]
    assert sent(processed)["scores"] == [None, None] and "is 'maybe'" in processed.comments
    assert sent(processed)["scored"] == 0


def test_a_script_that_returns_no_result_of_the_host_keeps_it(host):
    class Odd(runner.Script):
        def title(self):
            return "Odd"

        def run(self, p, *args):
            return [host.processing.process_images(p)]

    script, _ = add_script(host, Odd, "odd.py")
    (processed,) = host.txt2img(script="Odd", seed=148, accordion={})
    assert "ImageReward: -0.2000" in processed.infotexts[0]


def test_images_that_scripts_add_after_us_shift_nothing(host, generate):
    """ControlNet appends its maps in a hook of its own, which may come after ours."""

    class Maps(runner.Script):
        def title(self):
            return "Maps"

        def postprocess(self, p, processed, *args):
            processed.images = [Image.new("RGB", (8, 8)), *processed.images]
            processed.extra_images = [Image.new("RGB", (8, 8))]

    maps = Maps()
    maps.alwayson = True
    host.runners["txt2img"].alwayson_scripts.append(maps)
    processed = generate(seeds=2)
    assert sent(processed)["scores"] == [None, None, -0.2, -0.1, None]
    assert len(sent(processed)["scores"]) == len(processed.gallery())


def test_a_batch_of_files_has_a_score_for_each(host):
    """img2img's batch runs the same p again and again, and adds images and infotexts to the first result."""
    p = host.job("img2img", seed=148, accordion={})
    first = host.run(p)
    p.seed = 149
    more = host.run(p)
    first.images += more.images
    assert sent(first)["scores"] == [-0.2, -0.1]


# --- Interrupt and Skip in mid-image --------------------------------------------------------------


@pytest.mark.parametrize("how", ["interrupted", "skipped"])
@pytest.mark.parametrize("policy", ["don't save", "move to subfolder"])
def test_an_unfinished_image_is_shown_and_never_ranked(host, generate, loader, how, policy):
    """Half-drawn pictures must not push finished ones out of the top k, nor cost their files."""
    host.on_sample.append(lambda p, n: setattr(host.state, how, n == 1))
    processed = generate(
        seeds=4,
        batch_size=2,
        start=148,
        accordion={"filter_by": "top k", "top_k": 1, "low_images": policy, "sort": True},
    )
    assert processed.all_seeds == [149, 150, 151]  # the best of the finished, then the unfinished
    assert len(loader.scorer.calls) == 2
    assert "scored 2 · unfinished 2 · kept 3 · hidden 1 · mean -0.15 · best -0.10 (seed 149)" in processed.comments
    assert "interrupted in mid-image, so no file was moved or removed" in processed.comments
    assert images_on_disk(host) == ["images/148.png", "images/149.png"]
    assert sent(processed)["scores"] == [None, -0.1, None, None]


def test_an_unfinished_image_counts_for_nothing(host, generate):
    host.on_sample.append(lambda p, n: setattr(host.state, "skipped", n == 1))
    processed = generate(
        seeds=1, batch_size=1, start=160, accordion={"filter_by": "score", "limit": 0, "wanted": 2, "max_batches": 9}
    )
    assert processed.all_seeds == [160, 161] and "1 of 2 generated" in processed.comments


def test_after_the_current_image_is_no_unfinished_image(host, generate, loader):
    host.on_sample.append(lambda p, n: setattr(host.state, "stopping_generation", n == 0))
    processed = generate(
        seeds=4, batch_size=2, accordion={"filter_by": "score", "limit": -0.1, "low_images": "don't save"}
    )
    assert len(loader.scorer.calls) == 2 and "unfinished" not in processed.comments
    assert images_on_disk(host) == ["images/149.png"]


def test_the_report_says_where_the_files_are_and_not_where_they_should_be(host, generate):
    host.on_sample.append(lambda p, n: setattr(host.options, "samples_save", n == 0))
    host.options.data["samples_save"] = True

    def only_first(p, n):
        p.do_not_save_samples = n > 0

    host.on_sample.append(only_first)
    processed = generate(seeds=2, batch_size=1, accordion={"filter_by": "score", "limit": 9})
    assert images_on_disk(host) == ["images/148.png"]
    assert "The images are in the output folder." not in processed.comments
    assert "In the output folder: 1 of 2 images." in processed.comments


def test_a_file_that_cannot_be_moved_is_named_and_stays(host, generate):
    def full(source, target):
        raise OSError(28, "No space left on device")

    host.part("files").replace = full
    accordion = {"filter_by": "score", "limit": 9, "low_images": "move to subfolder"}
    processed = generate(seeds=1, batch_size=1, accordion=accordion)
    assert images_on_disk(host) == ["images/148.png"]
    assert "ImageReward: 148.png stays where it is: No space left on device\n" in processed.comments
    assert "The images are in the output folder." in processed.comments


# --- X/Y/Z plot -----------------------------------------------------------------------------------


class AxisOption:
    def __init__(self, label, type, apply, confirm=None, choices=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


class Plot(runner.Script):
    """A plot over two axes, in the order and by the names of the hosts' script."""

    def title(self):
        return "X/Y/Z plot"

    def run(self, p, *args):
        space, state = self.space, self.host.state
        by_label = {option.label: option for option in space.axis_options}
        axes = [by_label[label] for label, _ in self.axes]
        values = [[axis.type(value) for value in given] for axis, (_, given) in zip(axes, self.axes)]
        for axis, wanted in zip(axes, values):
            if axis.confirm:
                axis.confirm(p, wanted)
        for letter, axis in zip("xyz", [*axes, by_label["Nothing"]]):
            setattr(state, f"xyz_plot_{letter}", types.SimpleNamespace(axis=axis))
        cells = []
        for y in values[1]:
            for x in values[0]:
                cell = copy.copy(p)
                axes[0].apply(cell, x, values[0])
                axes[1].apply(cell, y, values[1])
                by_label["Nothing"].apply(cell, 0, [0])
                cells.append(space.process_images(cell))
                lists = (cell.all_prompts, cell.all_seeds, cell.all_subseeds)
                self.texts.append(self.host.processing.create_infotext(cell, *lists))
        result = copy.copy(cells[0])
        result.images = [cell.images[0] for cell in cells]
        result.infotexts = [cell.infotexts[0] for cell in cells]
        grid = self.host.images.image_grid(result.images, rows=len(values[1]))
        result.images.insert(0, grid)
        result.infotexts.insert(0, result.infotexts[0])
        result.index_of_first_image = 1
        self.host.images.save_image(
            grid, p.outpath_grids, "xyz_grid", seed=p.seed, info=result.infotexts[0], p=result, grid=True
        )
        return result


@pytest.fixture
def plot(host):
    sampled = []

    def process_images(p):
        return host.processing.process_images(p)

    options = [
        AxisOption("Nothing", str, lambda p, value, values: None),
        AxisOption("Seed", int, lambda p, value, values: setattr(p, "seed", value)),
        AxisOption("Steps", int, lambda p, value, values: setattr(p, "steps", value)),
    ]
    script, space = add_script(
        host, Plot, "xyz_grid.py", axis_options=options, AxisOption=AxisOption, process_images=process_images
    )
    script.space, script.host = space, host
    host.on_sample.append(lambda p, n: sampled.append((p.seed, p.steps)))
    missing_weights = host.part("xyz").missing_weights
    host.part("xyz").missing_weights = lambda name: ""

    def run(*axes, **fields):
        script.axes, script.texts = axes, []
        sampled.clear()
        fields.setdefault("accordion", {})
        processed = host.txt2img(script="X/Y/Z plot", seed=148, width=64, height=64, **fields)
        assert host.errors == []
        return processed

    run.sampled, run.space, run.script, run.missing_weights = sampled, space, script, missing_weights
    return run


def rows_of(host):
    (path,) = (host.folder / "outputs" / "grids").glob("*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return path, list(csv.DictReader(file))


SCORERS = ("[ImageReward] Scorer", ["ImageReward-v1.0", "CLIP"])
LIMITS = ("[ImageReward] Score limit", [-0.3, 0.3])


def test_axes_that_change_only_scoring_share_one_picture(host, plot, loader):
    processed = plot(SCORERS, LIMITS)
    assert plot.sampled == [(148, 20)] and len(loader.scorer.calls) == 4
    assert [reds([image]) for image in processed.images[1:]] == [[48]] * 4
    keys = [["ImageReward: -0.2000" in text, "CLIP score: -0.2000" in text] for text in processed.infotexts[1:]]
    assert keys == [[True, False], [False, True]] * 2
    assert ["limit: -0.3" in text for text in processed.infotexts[1:]] == [True, True, False, False]
    assert sent(processed)["scores"] == [None, -0.2, -0.2, -0.2, -0.2] and sent(processed)["scored"] == 4
    for image, text in zip(processed.images[1:], processed.infotexts[1:]):
        assert image.info["parameters"] == text
    assert images_on_disk(host) == ["images/148.png"]
    path, rows = rows_of(host)
    assert [(row["cell"], row["scorer"], row["passes"]) for row in rows] == [
        ("1", "ImageReward-v1.0", "True"),
        ("2", "CLIP", "True"),
        ("3", "ImageReward-v1.0", "False"),
        ("4", "CLIP", "False"),
    ]
    assert path.name == "grid-148.csv" and f"scores of all cells: {path}" in processed.comments


def test_axes_that_change_the_picture_make_one_for_each_value(host, plot):
    processed = plot(SCORERS, ("Seed", [148, 152]))
    assert plot.sampled == [(148, 20), (152, 20)]
    assert sent(processed)["scores"] == [None, -0.2, -0.2, 0.2, 0.2]
    plot(("Seed", [148, 149]), ("Steps", [20, 30]))
    assert len(plot.sampled) == 4


def test_an_axis_that_is_not_seen_at_work_makes_every_picture_anew(host, plot):
    """Another extension adds its axis after ours: what it changes is unknown."""
    plot.space.axis_options.append(AxisOption("[Other] Strength", float, lambda p, value, values: None))
    plot(SCORERS, ("[Other] Strength", [0.5, 1.0]))
    assert len(plot.sampled) == 4


def test_the_plots_own_text_is_of_the_cell_and_carries_no_score(host, plot):
    """The script builds its grids' infotexts from the cell's `p`, also where the picture was there already."""
    plot(SCORERS, ("[ImageReward] Score limit", [0.3, 0.0]))
    limits = ["ImageReward limit: 0.3" in text for text in plot.script.texts]
    assert limits == [True, True, False, False]
    assert ["ImageReward scorer: CLIP" in text for text in plot.script.texts] == [False, True] * 2
    assert not any("score: -0.2" in text or "ImageReward: " in text for text in plot.script.texts)


def test_a_second_plot_uses_no_picture_of_the_first(host, plot):
    plot(SCORERS, LIMITS)
    plot(SCORERS, LIMITS)
    assert len(plot.sampled) == 1


def test_an_interrupted_picture_is_not_used_again(host, plot):
    host.on_sample.append(lambda p, n: setattr(host.state, "skipped", True))
    plot(SCORERS, LIMITS)
    assert len(plot.sampled) == 4


def test_the_score_is_drawn_on_the_grids_pictures_and_not_on_the_pictures(host, plot):
    drawn = []
    host.callbacks.lists["on_image_grid"].append(lambda params: drawn.append(list(params.imgs)))
    processed = plot(SCORERS, LIMITS)
    (pictures,) = drawn
    plain = Image.new("RGB", (64, 64), (48, 0, 0)).tobytes()
    assert [image.tobytes() == plain for image in processed.images[1:]] == [True] * 4
    assert [image.tobytes() == plain for image in pictures] == [False] * 4
    for image in pictures:
        colours = {colour: count for count, colour in image.getcolors(4096)}
        assert colours[(0, 0, 0)] > 50 and max(red for red, _, _ in colours) > 200  # white on black
        assert image.getpixel((63, 0)) == (48, 0, 0)


def test_the_grid_of_an_ordinary_job_is_not_drawn_upon(host, generate):
    processed = generate(seeds=2)
    assert reds(processed.images[0].tiles) == [48, 49] and processed.images[0].tiles[0] is processed.images[1]


def test_cells_of_several_images_tell_their_mean_and_best(host, plot):
    drawn = []
    host.callbacks.lists["on_image_grid"].insert(0, lambda params: drawn.append(list(params.imgs)))
    plot(SCORERS, LIMITS, batch_size=2)
    labels = [getattr(image, "imagereward_label", "") for image in drawn[-1]]
    assert labels == ["mean -0.15, best -0.10"] * 4 and len(plot.sampled) == 1


def test_missing_weights_are_told_before_the_plot_starts(host, plot, monkeypatch, tmp_path):
    from imagereward_core import weights
    from imagereward_core.errors import ModelNotFoundError

    host.part("xyz").missing_weights = plot.missing_weights
    asked = []

    def locate(source, *, models_dir, download):
        asked.append((source.local_name, download))
        raise ModelNotFoundError("nowhere")

    monkeypatch.setattr(weights, "locate", locate)
    with pytest.raises(
        RuntimeError, match=r"Weights are missing: ImageReward-v1\.0 needs ImageReward\.pt \(1\.8 GB\); CLIP"
    ):
        plot(SCORERS, ("Seed", [1, 2]))
    with pytest.raises(RuntimeError, match="Aesthetic needs sac"):
        plot(LIMITS, ("Seed", [1, 2]), accordion={"scorer": "Aesthetic"})
    assert plot.sampled == [] and all(download is False for _, download in asked)


# --- videos, and hosts that call us otherwise -------------------------------------------------------


@pytest.fixture
def video(host, monkeypatch):
    """Forge Neo with a model for videos: a batch of more than four images is one video."""
    import sys

    monkeypatch.setitem(
        sys.modules, "backend.args", types.SimpleNamespace(dynamic_args=types.SimpleNamespace(wan=True))
    )
    sys.modules["modules.shared"].sd_model = types.SimpleNamespace(is_wan=True)
    return sys.modules["modules.shared"]


@pytest.mark.parametrize(("frame", "scored"), [("middle", [2]), ("first", [0]), ("last", [4]), ("none", [])])
def test_one_frame_of_a_video_is_scored_and_none_is_hidden(host, generate, video, loader, frame, scored):
    host.options.data["imagereward_video_frame"] = frame
    accordion = {"filter_by": "score", "limit": 9, "sort": True, "low_images": "don't save", "wanted": 3}
    processed = generate(seeds=5, batch_size=5, accordion=accordion)
    assert reds(processed.images) == [48, 49, 50, 51, 52] and len(loader.scorer.calls) == len(scored)
    found = [i for i, text in enumerate(processed.infotexts) if "ImageReward: " in text]
    assert found == scored and len(images_on_disk(host)) == 5
    assert [name for name in host.files() if name.startswith("grids")] == []
    assert "not filtered or sorted: the frames of a video belong together" in processed.comments
    assert all("ImageReward filter" not in text for text in processed.infotexts)


def test_single_images_of_a_video_model_and_batches_of_others_are_images(host, generate, video, loader):
    generate(seeds=3, batch_size=1)
    video.sd_model.is_wan = False
    assert generate(seeds=5, batch_size=5, accordion={"filter_by": "score", "limit": 0.2}).all_seeds == [152]
    assert len(loader.scorer.calls) == 8


def test_a_host_without_the_hook_is_told_in_one_line_and_its_files_stay_clean(host, loader, monkeypatch):
    """SD.Next: it would write our functions into the files as they stand."""
    monkeypatch.delattr(runner.Script, "postprocess_image_after_composite")
    processed = host.txt2img(seed=148, accordion={})
    assert processed.comments.count("\n") == 1 and "does not hand scripts the final picture" in processed.comments
    assert loader.loads == [] and "ImageReward" not in processed.infotexts[0] and "<" not in processed.infotexts[0]
    assert "Extras" in sent(processed)["notes"][0]


def test_a_rival_script_is_named_in_the_accordion_and_on_the_console(host, caplog):
    class Theirs(runner.Script):
        def title(self):
            return "ImageReward - generate human preference scores"

    add_script(host, Theirs, "image_reward.py")
    assert "scripts/image_reward.py is another script with the title of ours" in caplog.text
    host.gradio.CREATED.clear()
    host.runners["txt2img"].alwayson_scripts[0].ui(False)
    shown = [str(component.value) for component in host.gradio.CREATED]
    assert any("scripts/image_reward.py" in text and "remove the file" in text for text in shown)


def test_no_rival_no_word(host):
    assert host.part("panel").PROBLEMS == []


# --- "Send to img2img" ----------------------------------------------------------------------------


def send_to(host, source, target):
    """The copying of a "Send to" button: inputs of one tab to those of the other, by the names it is told."""
    runners = [next(s for s in host.runners[tab].scripts if s.title() == "ImageReward") for tab in (source, target)]
    names = runners[0].paste_field_names
    inputs = [field for field, name in runners[0].infotext_fields if name in names]
    outputs = [field for field, name in runners[1].infotext_fields if name in names]
    for field, other in zip(inputs, outputs):
        other.value = field.value
    return [field.value for field, _ in runners[1].infotext_fields]


def test_send_to_img2img_takes_the_accordion_along(host):
    accordion = next(s for s in host.runners["txt2img"].scripts if s.title() == "ImageReward")
    values = [True, "CLIP", "top k", 0.5, 3, True, "keep", 2, 5, True, "all prompts", ["CLIP"], "CLIP 0.2 0.1"]
    for (field, _), value in zip(accordion.infotext_fields, values):
        field.value = value
    assert send_to(host, "txt2img", "img2img") == values


def test_pasting_still_asks_the_fields(host):
    accordion = next(s for s in host.runners["txt2img"].scripts if s.title() == "ImageReward")
    params = {"ImageReward": "0.5", "ImageReward top k": "7"}
    assert all(callable(key) and isinstance(key, str) for _, key in accordion.infotext_fields)
    assert [key(params) for _, key in accordion.infotext_fields][:5] == [True, "ImageReward-v1.0", "none", 0.0, 7]
