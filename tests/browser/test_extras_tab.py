"""The Extras tab's badges and its table of scores: sorting, CSV, keyboard, on both gradios."""

import base64
import csv

import pytest

GRID = "#extras_gallery .grid-container button.thumbnail-item"
TABLE = "#html_info_x_extras .imagereward-table"


@pytest.fixture
def extras(page):
    page.click("#generate_extras")
    page.wait_for_selector(f"{TABLE} tbody tr")
    page.wait_for_timeout(450)
    yield page
    assert page.failures == []


def files(page):
    return page.eval_on_selector_all(f"{TABLE} tbody tr", "rows => rows.map(row => row.cells[0].textContent)")


def test_badges_show_each_images_score(extras, screenshot):
    badges = extras.eval_on_selector_all(
        GRID, "all => all.map(b => (b.querySelector('.imagereward-badge') || {}).textContent || null)"
    )
    assert badges == ["0.50", "-1.25", None, "1.75"]
    assert extras.get_attribute(f"{GRID} >> nth=3", "aria-description") == "score 1.75, the best"
    extras.locator(TABLE).scroll_into_view_if_needed()
    screenshot("extras")


def test_the_large_view_shows_the_score(extras):
    extras.click(f"{GRID} >> nth=1")
    extras.wait_for_selector("#extras_gallery .preview > .imagereward-badge")
    assert extras.inner_text("#extras_gallery .preview > .imagereward-badge") == "-1.25"
    extras.focus("#extras_gallery .thumbnails button >> nth=0")
    extras.keyboard.press("Escape")


def test_the_table_is_sorted_by_score_and_by_any_column(extras):
    assert files(extras) == ["a.png", "cat.png", "b10.png", "b9.png"]
    headers = extras.locator(f"{TABLE} th")
    assert [headers.nth(i).get_attribute("aria-sort") for i in range(3)] == ["none", "descending", "none"]
    headers.nth(1).locator("button").click()
    assert files(extras) == ["b10.png", "cat.png", "a.png", "b9.png"]  # unscored ones stay last
    headers.nth(0).locator("button").focus()
    extras.keyboard.press("Enter")
    assert files(extras) == ["a.png", "b9.png", "b10.png", "cat.png"]
    assert headers.nth(0).get_attribute("aria-sort") == "ascending"
    extras.keyboard.press("Enter")
    assert files(extras) == ["cat.png", "b10.png", "b9.png", "a.png"]


def test_prompts_are_text_and_the_summary_is_said(extras):
    assert "a <b>dog</b>" in extras.inner_text(TABLE) and extras.query_selector(f"{TABLE} td b") is None
    summary = "ImageReward-v1.0: scored 3 · not scored 1 · mean 0.33 · best 1.75 (a.png)"
    assert extras.inner_text(f"{TABLE} p") == f"{summary} Download CSV"
    assert extras.inner_text("#extras_results .imagereward-live[role=status]") == summary


def test_the_csv_is_downloaded(extras):
    with extras.expect_download() as waiting:
        extras.click(f"{TABLE} a[download]")
    assert waiting.value.suggested_filename == "imagereward-scores.csv"
    link = extras.get_attribute(f"{TABLE} a[download]", "href")
    text = base64.b64decode(link.partition("base64,")[2]).decode("utf-8-sig")
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["file"], row["score"], row["prompt"]) for row in rows] == [
        ("/in/a.png", "1.7500", "'=an apple"),
        ("/in/cat.png", "0.5000", "a cat"),
        ("/in/b10.png", "-1.2500", "a <b>dog</b>"),
        ("/in/b9.png", "", ""),
    ]


def test_the_table_fits_a_narrow_dark_page(extras, screenshot):
    extras.evaluate("document.body.classList.add('dark')")
    try:
        extras.set_viewport_size({"width": 420, "height": 900})
        extras.locator(TABLE).scroll_into_view_if_needed()
        extras.wait_for_timeout(200)
        box = extras.locator(TABLE).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 420
        screenshot("extras-narrow-dark")
    finally:
        extras.set_viewport_size({"width": 1000, "height": 760})
        extras.evaluate("document.body.classList.remove('dark')")
