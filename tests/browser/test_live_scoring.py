"""Scoring in a running WebUI, as its user presses it: badges, order, filter, limits, PNG Info and back, the script of
the dropdown, weights that are no weights, unloading, and Reload UI.

IMAGEREWARD_TEST_HOST=http://… names the WebUI (see `live`); IMAGEREWARD_TEST_SCORING=FOLDER is its models/ImageReward,
in which a damaged file is put and removed again. Screenshots of each step come into IMAGEREWARD_SCREENSHOTS.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from . import live
from .conftest import keep_screenshot
from .live import ACCORDION, SCORER, badges, choose_scorer

MODELS = os.environ.get("IMAGEREWARD_TEST_SCORING", "")
LOG = "#html_log_txt2img"
DROPDOWN = "ImageReward - generate human preference scores"
DAMAGED = "damaged-for-a-test.safetensors"
COUNT = 4

pytestmark = pytest.mark.skipif(
    not live.HOST or not MODELS, reason="needs IMAGEREWARD_TEST_HOST and IMAGEREWARD_TEST_SCORING"
)


@pytest.fixture
def page(browser):
    made = live.opened(browser)
    made.set_default_timeout(live.MINUTES)
    live.show_tab(made, "txt2img")
    live.set_numbers(made, **live.SMALL, batch_count=str(COUNT))
    made.fill("#txt2img_prompt textarea", "a red circle on a gray background")
    yield made
    keep_screenshot(made, "scoring-last")
    made.close()
    assert made.ours == []


@pytest.fixture
def scoring(page):
    choose_scorer(page, SCORER)
    return page


def choose(page, name, value):
    """One of a list in the accordion."""
    page.locator(f"{ACCORDION}{name} input").click()
    page.locator(f"ul.options li:text-is('{value}')").first.click()


def put(page, field, value):
    page.locator(field).fill(value)
    page.locator(field).blur()


def fixed_seed(page):
    put(page, "#txt2img_seed input", "148")


def job(page, shown):
    """A job of COUNT pictures, of which so many are shown; the scores on them from left to right."""
    sheet = shown > 1 and live.ask("/sdapi/v1/options")["return_grid"]
    live.generate(page, shown + bool(sheet), minutes=5)
    page.wait_for_selector(f"{LOG} >> text=/ImageReward: scored \\d/")
    page.wait_for_function(
        "([id, n]) => document.querySelectorAll(id).length >= n",
        arg=["#txt2img_gallery .thumbnail-item .imagereward-badge", shown],
    )
    return badges(page)


def test_badges_order_and_limit(scoring):
    page = scoring
    fixed_seed(page)
    drawn = job(page, COUNT)
    assert len(drawn) == COUNT and len(set(drawn)) > 1
    page.locator("#txt2img_gallery .thumbnail-item:has(.imagereward-badge)").first.click()
    page.wait_for_selector(r"#html_info_txt2img >> text=/ImageReward: -?\d/")
    keep_screenshot(page, "scoring-1-badges")

    page.check(f"{ACCORDION}sort input")
    assert job(page, COUNT) == sorted(drawn, reverse=True)
    keep_screenshot(page, "scoring-2-best-first")

    # the limit lies in the widest gap between two of them; badges have two digits
    ordered = sorted(drawn, reverse=True)
    passing = max(range(1, COUNT), key=lambda place: ordered[place - 1] - ordered[place])
    limit = (ordered[passing - 1] + ordered[passing]) / 2
    page.uncheck(f"{ACCORDION}sort input")
    choose(page, "filter_by", "score")
    put(page, f"{ACCORDION}limit input", f"{limit:.4f}")
    assert job(page, passing) == [score for score in drawn if score >= limit]
    assert f"hidden {COUNT - passing}" in page.inner_text(LOG)
    keep_screenshot(page, "scoring-3-filtered")

    # goes on with further seeds until one more passes
    put(page, f"{ACCORDION}wanted input", str(passing + 1))
    found = job(page, passing + 1)
    assert len(found) == passing + 1 and min(found) >= limit
    keep_screenshot(page, "scoring-4-until-more-pass")


def test_png_info_brings_the_accordion_back(scoring, tmp_path):
    page = scoring
    page.check(f"{ACCORDION}sort input")
    job(page, COUNT)
    source = page.locator("#txt2img_gallery .thumbnail-item:has(.imagereward-badge) img").first.get_attribute("src")
    saved = tmp_path / "saved.png"
    saved.write_bytes(page.request.get(source if "://" in source else f"{live.HOST}/{source.lstrip('/')}").body())
    page.reload()
    page.wait_for_selector("#tabs button:text-matches('^txt2img', 'i')")
    live.show_tab(page, "PNG Info")
    page.locator("#pnginfo_image input[type=file], #tab_pnginfo input[type=file]").first.set_input_files(str(saved))
    page.wait_for_selector(r"#tab_pnginfo >> text=/ImageReward: -?\d/")
    page.locator("#tab_pnginfo button:text-matches('txt2img', 'i')").first.click()
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.startsWith('a red circle')")
    page.wait_for_function(
        "([id, name]) => document.querySelector(id).value.includes(name)", arg=[f"{ACCORDION}scorer input", SCORER]
    )
    assert page.is_checked(f"{ACCORDION}sort input")
    keep_screenshot(page, "scoring-5-restored")
    assert len(job(page, 1 if page.input_value("#txt2img_batch_count input[type=number]") == "1" else COUNT))


def test_the_script_of_the_dropdown(page):
    page.locator("#tab_txt2img #script_list input, #txt2img_script_container #script_list input").first.click()
    page.locator(f"ul.options li:text-is('{DROPDOWN}')").first.click()
    unload = "#txt2img_script_container button:text-is('Unload Model From Memory'):visible"
    page.wait_for_selector(unload)
    keep_screenshot(page, "scoring-6-dropdown")
    assert len(job(page, COUNT)) == COUNT  # by ImageReward-v1.0, or in its absence by what is there, which is said
    keep_screenshot(page, "scoring-7-by-the-script")


def test_weights_that_are_no_weights_cost_no_picture(page):
    folder = Path(MODELS)
    # a header that promises more than there is
    (folder / DAMAGED).write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    try:
        choose_scorer(page, DAMAGED)
        live.generate(page, COUNT + bool(live.ask("/sdapi/v1/options")["return_grid"]), minutes=5)
        told = page.wait_for_selector(f"{LOG} >> text=/{DAMAGED}/").inner_text()
        assert "scored" not in told or "0" in told, told
        assert page.locator("#txt2img_gallery .imagereward-badge").count() == 0
        keep_screenshot(page, "scoring-8-damaged")
    finally:
        (folder / DAMAGED).unlink()


def test_unload_and_reload(scoring):
    page = scoring
    fixed_seed(page)
    first = job(page, COUNT)
    page.click(f"{ACCORDION}unload_model")
    page.wait_for_selector(f"{ACCORDION}status >> text=/Unloaded: \\d+ MB freed/")
    page.click(f"{ACCORDION}unload_model")
    page.wait_for_selector(f"{ACCORDION}status >> text=/No scorer is loaded/")
    again = job(page, COUNT)
    assert again == first
    for number in range(2):
        page.click("#footer >> text=/Reload UI/i")
        page.wait_for_function("!document.querySelector('#tabs')", timeout=live.MINUTES)
        page.wait_for_selector("#tabs button:text-matches('^txt2img', 'i')", timeout=5 * live.MINUTES)  # by itself
        choose_scorer(page, SCORER)
        live.set_numbers(page, **live.SMALL, batch_count=str(COUNT))
        page.fill("#txt2img_prompt textarea", "a red circle on a gray background")
        fixed_seed(page)
        assert job(page, COUNT) == first
        keep_screenshot(page, f"scoring-9-reloaded-{number + 1}")
