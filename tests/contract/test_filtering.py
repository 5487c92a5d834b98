"""Filtering never loses or misaligns anything, and stands back where a caller needs every image."""

import sys

import pytest
from PIL import Image

from .conftest import TITLE
from .fakehost import runner


def reds(images):
    return [image.getpixel((0, 0))[0] for image in images]


def aligned(processed):
    first = processed.index_of_first_image
    images = processed.images[first:]
    assert [f"Seed: {seed}," in text for seed, text in zip(processed.all_seeds, processed.infotexts[first:])] == [
        True
    ] * len(images)
    assert reds(images) == [seed % 100 for seed in processed.all_seeds]
    assert [s - 5000 + 148 for s in processed.all_subseeds] == processed.all_seeds
    assert (
        len(processed.all_prompts)
        == len(processed.all_negative_prompts)
        == len(images)
        == len(processed.infotexts) - first
    )
    return processed


def test_score_is_enough_to_be_kept(generate):
    processed = aligned(generate(seeds=4, accordion={"filter_by": "score", "limit": 0}))
    assert processed.all_seeds == [150, 151] and reds(processed.images[1:]) == [50, 51]
    assert "kept 2 · hidden 2" in processed.comments


def test_grid_is_rebuilt_from_what_is_kept(host, generate):
    processed = generate(seeds=4, accordion={"filter_by": "score", "limit": 0})
    assert processed.index_of_first_image == 1 and reds(processed.images[0].tiles) == [50, 51]
    assert host.files().count("grids/grid-148.png") == 1
    assert Image.open(host.folder / "outputs" / "grids" / "grid-148.png").size == processed.images[0].size == (8, 16)
    assert "ImageReward: " not in processed.infotexts[0]


def test_a_grid_that_the_host_cannot_write_costs_neither_images_nor_report(host, generate, monkeypatch):
    """Forge's stealth mode "RGB" unpacks three channels where its grids have four."""
    images = sys.modules["modules.images"]
    save = images.save_image

    def stealthy(*args, grid=False, **kwargs):
        if grid:
            raise ValueError("too many values to unpack (expected 3)")
        return save(*args, **kwargs)

    monkeypatch.setattr(images, "save_image", stealthy)
    processed = aligned(generate(seeds=4, accordion={"filter_by": "score", "limit": 0}))
    assert processed.index_of_first_image == 0 and reds(processed.images) == [50, 51]
    assert "kept 2 · hidden 2" in processed.comments
    assert "no grid: too many values to unpack" in processed.comments


def test_grid_settings_are_honoured(host, generate):
    host.options.data.update(return_grid=False, grid_save=False)
    assert generate(accordion={"sort": True}).index_of_first_image == 0
    host.options.data.update(return_grid=True)
    assert (
        generate(accordion={"filter_by": "score", "limit": 0.1}).index_of_first_image == 0
    )  # one image: grid only if multiple
    assert generate(accordion={"sort": True}, do_not_save_grid=True).index_of_first_image == 0
    assert [name for name in host.files() if name.startswith("grids")] == []


def test_p_is_left_as_it_was(host):
    p = host.job(seed=148, batch_size=2, accordion={"filter_by": "score", "limit": 9, "wanted": 1, "max_batches": 3})
    host.run(p)
    assert (p.do_not_save_grid, p.n_iter, p.do_not_save_samples) == (False, 1, False)
    assert p.all_seeds == [148 + i for i in range(6)]  # the job's own lists


def test_sort_and_top_k(generate):
    assert aligned(generate(seeds=4, accordion={"sort": True})).all_seeds == [151, 150, 149, 148]
    assert aligned(generate(seeds=4, accordion={"filter_by": "top k", "top_k": 2})).all_seeds == [150, 151]


def test_everything_filtered(host, generate):
    processed = generate(seeds=4, accordion={"filter_by": "score", "limit": 9})
    assert processed.images == [] and processed.infotexts == [] and processed.gallery() == []
    assert processed.all_prompts == ["a cat"] and "a cat" in processed.js()
    told = "Nothing to show: the best of 4 has 0.10, and the limit is 9. Lower the limit, or switch the filter off. "
    assert told + "The images are in the output folder." in processed.comments
    assert processed.extra_generation_params["ImageReward result"]["empty"].startswith(told)
    moved = generate(seeds=2, accordion={"filter_by": "score", "limit": 9, "low_images": "move to subfolder"})
    assert "The images were moved to low-score/." in moved.comments
    gone = generate(seeds=2, accordion={"filter_by": "score", "limit": 9, "low_images": "don't save"})
    assert "The images were not kept on disk." in gone.comments
    unsaved = generate(seeds=2, accordion={"filter_by": "score", "limit": 9}, do_not_save_samples=True)
    assert "switch the filter off.\n" in unsaved.comments


def test_the_result_is_a_list(generate):
    assert isinstance(generate(accordion={"sort": True}).gallery(), list)


def test_masks_stay_with_their_image(host):
    host.options.data.update(return_mask=True, return_mask_composite=True)
    processed = host.img2img(
        seed=148,
        batch_size=3,
        mask=Image.new("L", (8, 8), 255),
        accordion={"filter_by": "score", "limit": -0.1, "sort": True},
    )
    assert host.errors == []
    assert reds(processed.images[1:]) == [50, 255, 255, 49, 255, 255]
    assert processed.all_seeds == [150, 149] and len(processed.infotexts) == 3
    result = processed.extra_generation_params["ImageReward result"]
    assert result["scores"] == [None, 0.0, None, None, -0.1, None, None]


def test_control_maps_stay_at_the_tail(host, generate):
    class ControlNet(runner.Script):
        def title(self):
            return "ControlNet"

        def postprocess(self, p, processed, *args):
            processed.images.append("map")

    script = ControlNet()
    script.alwayson = True
    host.runners["txt2img"].alwayson_scripts.insert(0, script)
    processed = generate(seeds=3, batch_size=3, accordion={"filter_by": "score", "limit": -0.1})
    assert processed.images[-1] == "map" and reds(processed.images[1:-1]) == [49, 50]


class Loopback(runner.Script):
    def title(self):
        return "Loopback"

    def run(self, p, *args):
        from modules.processing import process_images

        first = process_images(p)
        assert first.images[0] is not None
        return first


def test_no_filtering_where_another_script_drives(host, generate):
    for tab in host.runners.values():
        tab.selectable_scripts.append(Loopback())
        tab.scripts.append(tab.selectable_scripts[-1])
    processed = generate(
        seeds=2, script="Loopback", accordion={"filter_by": "score", "limit": 9, "sort": True, "wanted": 5}
    )
    assert len(processed.images) == 3 and "not filtered or sorted: Loopback needs every image" in processed.comments
    assert "ImageReward: -0.2000" in processed.infotexts[1]


def test_no_filtering_in_upscale_and_inner_passes(generate):
    for reason in ("txt2img_upscale", "_ad_inner"):
        processed = generate(seeds=1, batch_size=1, accordion={"filter_by": "score", "limit": 9}, **{reason: True})
        assert len(processed.images) == 1 and "not filtered" in processed.comments


def test_the_dropdown_filter_wins_over_the_accordion(generate):
    processed = generate(
        seeds=4, script=TITLE, script_args=[True, "0.1"], accordion={"limit": 9, "filter_by": "score", "sort": True}
    )
    assert processed.all_seeds == [151]


# --- files of hidden images -----------------------------------------------------------------------


def images_on_disk(host):
    return [name for name in host.files() if name.startswith("images")]


def test_hidden_files_are_kept_by_default(host, generate):
    generate(seeds=4, accordion={"filter_by": "score", "limit": 0})
    assert images_on_disk(host) == [f"images/{seed}.png" for seed in (148, 149, 150, 151)]


def test_hidden_files_move_with_their_sidecar(host, generate):
    host.options.save_txt = True
    generate(seeds=2, accordion={"filter_by": "score", "limit": -0.1, "low_images": "move to subfolder"})
    assert images_on_disk(host) == [
        "images/149.png",
        "images/149.txt",
        "images/low-score/148.png",
        "images/low-score/148.txt",
    ]


def test_moved_files_never_overwrite(host, generate):
    for _ in range(2):
        generate(seeds=1, batch_size=1, accordion={"filter_by": "score", "limit": 0, "low_images": "move to subfolder"})
    assert images_on_disk(host) == ["images/low-score/148-1.png", "images/low-score/148.png"]


def test_hidden_files_are_not_left_behind_when_they_should_not_be_saved(host, generate):
    generate(seeds=4, accordion={"filter_by": "top k", "top_k": 1, "low_images": "don't save"})
    assert images_on_disk(host) == ["images/151.png"]


def test_an_older_file_of_the_same_name_is_never_touched(host, generate):
    """With "add number suffix" the host reports the name it wanted, not the one it wrote: that is an older image."""
    host.options.save_images_replace_action = "Add number suffix"
    old = host.folder / "outputs" / "images" / "148.png"
    old.parent.mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(old)
    generate(seeds=1, batch_size=1, accordion={"filter_by": "score", "limit": 0, "low_images": "don't save"})
    assert images_on_disk(host) == ["images/148.png"] and Image.open(old).size == (1, 1)


def test_subfolder_can_not_lead_out(host, generate):
    host.options.data["imagereward_low_subfolder"] = "../../etc"
    generate(seeds=1, batch_size=1, accordion={"filter_by": "score", "limit": 0, "low_images": "move to subfolder"})
    assert images_on_disk(host) == ["images/etc/148.png"]


# --- best of n ------------------------------------------------------------------------------------


def test_generates_until_enough_pass(generate):
    processed = aligned(
        generate(seeds=1, batch_size=2, accordion={"filter_by": "score", "limit": 0.2, "wanted": 3, "max_batches": 9})
    )
    assert processed.all_seeds == [152, 153, 154, 155]  # whole batches
    assert "kept 4 · hidden 4" in processed.comments and "4 of 8 generated, +0.82 σ over the mean" in processed.comments


def test_gives_up_after_the_allowed_batches(generate):
    processed = generate(
        seeds=1, batch_size=2, accordion={"filter_by": "score", "limit": 0.3, "wanted": 3, "max_batches": 3}
    )
    assert processed.all_seeds == [153] and "1 of 6 generated" in processed.comments


@pytest.mark.parametrize("batches", [1, 2])
def test_scoring_that_fails_stops_the_search(generate, loader, batches):
    """Nothing can pass any more: what comes is the job as it was asked for, without the search."""
    loader.failure = RuntimeError("disk on fire")
    wanted = {"filter_by": "score", "limit": 0.2, "wanted": 3, "max_batches": 9}
    processed = generate(seeds=2 * batches, batch_size=2, accordion=wanted)
    assert processed.all_seeds == list(range(148, 148 + 2 * batches))
    assert processed.comments.count("not scored: disk on fire") == 1


def test_skip_stops_the_search(host, generate):
    host.on_sample.append(lambda p, n: setattr(host.state, "skipped", n == 1))
    processed = generate(
        seeds=1, batch_size=1, accordion={"filter_by": "score", "limit": 9, "wanted": 3, "max_batches": 9}
    )
    assert "0 of 2 generated" in processed.comments


def test_interrupt_stops_the_search(host, generate):
    host.on_sample.append(lambda p, n: setattr(host.state, "interrupted", n == 1))
    processed = generate(
        seeds=1, batch_size=1, accordion={"filter_by": "score", "limit": 9, "wanted": 3, "max_batches": 9}
    )
    assert reds(processed.images) == [49]  # the unfinished one is shown, and passes nothing
    assert "0 of 2 generated" in processed.comments
