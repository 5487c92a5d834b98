"""The library in a running WebUI, as its user goes through it: pictures, duels by keyboard, a taste that is learnt and
sorts the gallery, a leaderboard with planned pairs; and all of it after a restart.

IMAGEREWARD_TEST_HOST=http://… names the WebUI (see `live`); IMAGEREWARD_TEST_LIBRARY=FILE is where the round notes what
it left. Restart the WebUI between the two tests: the second is skipped while the server is that of the round.
IMAGEREWARD_TEST_SCORER names a scorer on its machine. Two checkpoints are compared where the WebUI has two that can be
loaded, else two numbers of steps. Runs again on a library that is there: nothing of it is deleted.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from . import live
from .conftest import described, keep_screenshot
from .live import ACCORDION, LIB, READY, SCORER, badges, choose_scorer, duel, duel_box, show_library

NOTED = os.environ.get("IMAGEREWARD_TEST_LIBRARY", "")
TASTE = "my-taste"
CELL = f"{LIB}grid figure"
CAPTIONS = [
    f"a {words} on a gray background"
    for words in ("red circle", "blue square", "green triangle", "yellow star", "purple circle", "green square")
]
OF_ROUND = 'prompt~"gray background"'
EACH, LEVELS = 2, 2  # pictures of a caption and level
DUELS = 32  # of which 30 have a winner: from there on it is measured what is learnt
MADE = len(CAPTIONS) * EACH * LEVELS
NUMBER = r"-?\d+\.\d+"

pytestmark = pytest.mark.skipif(
    not live.HOST or not NOTED, reason="needs IMAGEREWARD_TEST_HOST and IMAGEREWARD_TEST_LIBRARY"
)


@pytest.fixture
def page(browser):
    made = live.opened(browser)
    made.set_default_timeout(live.MINUTES)
    yield made
    keep_screenshot(made, "library-last")
    made.close()
    assert made.ours == []


def token(page):
    """Another for each start of the server."""
    return page.get_attribute("#imagereward-library", "data-token")


def state(page):
    """What the library's page knows, read anew."""
    return page.evaluate(
        "async () => { await window.imagerewardLibrary.refresh(); return window.imagerewardLibrary.state; }"
    )


def taste_in(found):
    return next(one for one in found["tastes"] if one["name"] == TASTE) if found["tastes"] else {"duels": 0}


def options(page, name):
    return page.eval_on_selector_all(f"{LIB}{name} option", "all => all.map((one) => one.value)")


def shown_scores(page, count):
    """Scores of the grid's first pictures in order, once they are described."""
    described(page, count)
    texts = page.eval_on_selector_all(
        CELL,
        f"""all => all.sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
            .map((one) => one.querySelector("{LIB}score").textContent)""",
    )
    return [float(text) for text in texts[:count]]


def of_round(page):
    """The ids of the round's pictures that the library has."""
    query = "async (where) => window.imagerewardLibrary.state.there ? (await window.imagerewardLibrary.json("
    query += "`/pictures?where=${encodeURIComponent(where)}`)).ids : []"
    return page.evaluate(query, OF_ROUND)


def names(page, count):
    shown_scores(page, count)
    labels = page.eval_on_selector_all(
        CELL, "all => all.sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map((one) => one.ariaLabel)"
    )
    return [label.split(",")[0] for label in labels[:count]]


def search(page, words):
    page.fill(f"{LIB}words", words)
    page.press(f"{LIB}words", "Enter")


def order_by(page, name):
    page.select_option(f"{LIB}by", name)
    page.wait_for_function("name => window.imagerewardLibrary.grid.by === name", arg=name)


def levels():
    """(what is compared, the settings of its two levels, and how the WebUI is set to each)"""
    titles = [one["title"] for one in live.ask("/sdapi/v1/sd-models")]
    if len(titles) < LEVELS:
        return "steps", [{"steps": "2"}, {"steps": "3"}], lambda level: None
    chosen = titles[:LEVELS]
    return (
        "checkpoint",
        [{"checkpoint": title, "steps": "12"} for title in chosen],
        lambda level: live.ask("/sdapi/v1/options", {"sd_model_checkpoint": level["checkpoint"]}),
    )


def make_pictures(page):
    """24 pictures, scored, in txt2img's own way."""
    live.show_tab(page, "txt2img")
    choose_scorer(page, SCORER)
    live.set_numbers(page, **live.SMALL, batch_count=str(EACH), cfg_scale="4")
    _, both, choose = levels()
    for level in both:
        choose(level)
        if "steps" in level:
            live.set_numbers(page, steps=level["steps"])
        for caption in CAPTIONS:
            page.fill("#txt2img_prompt textarea", caption)
            # with the sheet of all, if the WebUI makes one
            live.generate(page, EACH + 1 if live.ask("/sdapi/v1/options")["return_grid"] else EACH)
            page.wait_for_selector(f"#html_log_txt2img >> text=/ImageReward: scored {EACH} /")
    told = page.inner_text("#html_log_txt2img")
    assert re.search(r"the best is better than \d+ % of your \d+ pictures", told), told
    assert any(
        "better than" in (title or "")
        for title in page.eval_on_selector_all("#txt2img_gallery .thumbnail-item", "all => all.map((one) => one.title)")
    )
    keep_screenshot(page, "library-1-made")


def test_the_round(page):
    show_library(page)
    before = state(page)
    had, duels_before = before["pictures"], taste_in(before)["duels"]

    if Path(NOTED).is_file() or len(of_round(page)) < MADE:  # else a round that was cut off has made them
        make_pictures(page)
        had += MADE

    # --- the library has them without being asked to read
    show_library(page)
    page.wait_for_function(f"{had} <= (window.imagerewardLibrary.state || {{}}).pictures", timeout=30_000)
    search(page, "gray background")
    scorer = next(name for name in options(page, "by") if name.startswith(Path(SCORER).stem))
    order_by(page, scorer)
    found = shown_scores(page, 12)
    assert found == sorted(found, reverse=True)
    page.wait_for_selector(f"{CELL}[title*='better than']")
    keep_screenshot(page, "library-2-grid")

    # --- duels by keyboard
    duel_box(page, TASTE)
    keep_screenshot(page, "library-3-duel")
    duel(page, TASTE, DUELS, {10: "ArrowDown", 20: "ArrowUp"})
    page.wait_for_selector(READY)
    page.keyboard.press("Backspace")
    page.wait_for_selector(f"{LIB}duel >> text='{duels_before + DUELS - 1} duels of {TASTE}'")
    page.wait_for_selector(READY)
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(f"{LIB}duel >> text='{duels_before + DUELS} duels of {TASTE}'")
    keep_screenshot(page, "library-4-duelled")
    page.wait_for_selector(READY)
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{LIB}duel", state="detached")
    duels = duels_before + DUELS
    page.wait_for_selector(f"{LIB}state >> text=/^{duels} duels/")

    # --- the taste is learnt, says where it stands, and sorts
    page.select_option(f"{LIB}base", SCORER)
    page.click("button:text-is('Learn')")
    page.wait_for_selector(rf"{LIB}work >> text=/^{TASTE}: (ready|not enough yet)/")
    page.wait_for_selector(rf"{LIB}state >> text=/^{duels} duels · (ready|not enough yet, about \d+ more) · foretells/")
    keep_screenshot(page, "library-5-learnt")
    page.select_option(f"{LIB}scoring", TASTE)
    page.click(f"{LIB}actions button:text-is('Score')")
    page.wait_for_selector(rf"{LIB}work >> text=/scored by {TASTE}/")
    learnt = page.wait_for_function(
        """([list, taste, old]) => [...document.querySelectorAll(list)].map((one) => one.value)
            .find((name) => name.startsWith(taste) && !old.includes(name))""",
        arg=[f"{LIB}by option", TASTE, before["scorers"]],
    ).json_value()
    order_by(page, learnt)
    found = shown_scores(page, 12)
    assert found == sorted(found, reverse=True) and len(set(found)) > 6
    keep_screenshot(page, "library-6-by-taste")

    # --- into the WebUI's tabs
    page.click(f"{CELL}[aria-posinset='1']")
    page.wait_for_selector("text=1 picture chosen")
    caption = page.get_attribute(f"{CELL}[aria-posinset='1']", "title").splitlines()[0]
    page.click(f"{LIB}actions button:text-is('PNG Info')")
    page.wait_for_selector(f"#tab_pnginfo >> text=/{caption}/")
    page.wait_for_selector("#tab_pnginfo >> text=/Steps: \\d+/")
    keep_screenshot(page, "library-7-png-info")
    show_library(page)
    page.click(f"{LIB}actions button:text-is('txt2img')")
    page.wait_for_selector("#txt2img_prompt textarea:visible")
    page.wait_for_function("text => document.querySelector('#txt2img_prompt textarea').value === text", arg=caption)
    page.wait_for_function("document.querySelector('#txt2img_seed input').value !== '-1'")

    # --- a job that my-taste sorts
    live.set_numbers(page, batch_count="4")
    page.fill("#txt2img_seed input", "-1")
    page.locator("#txt2img_seed input").blur()
    choose_scorer(page, TASTE)
    page.check(f"{ACCORDION}sort input")
    live.generate(page, 5 if live.ask("/sdapi/v1/options")["return_grid"] else 4)
    page.wait_for_selector("#html_log_txt2img >> text=/ImageReward: scored 4 /")
    page.wait_for_selector("#imagereward-count-txt2img >> text='4 of 4'")  # no badge is the last job's any more
    page.locator("#txt2img_gallery .thumbnail-item:has(.imagereward-badge)").first.click()
    page.wait_for_selector("#html_info_txt2img >> text=/Taste: -?\\d/")
    keep_screenshot(page, "library-8-gallery-by-taste")
    found = badges(page)
    assert len(found) == 4 and found == sorted(found, reverse=True)

    # --- the leaderboard, and the pairs that it has made
    show_library(page)
    page.click("button[role=tab]:has-text('Leaderboard')")
    page.select_option(f"{LIB}factor", levels()[0])
    page.select_option(f"{LIB}ranking-scorer", scorer)
    page.fill(f"{LIB}ranking-where", OF_ROUND)
    page.press(f"{LIB}ranking-where", "Enter")
    page.wait_for_selector(f"{LIB}ranking >> text=from your history")
    page.wait_for_selector(f"{LIB}ranking table svg")
    keep_screenshot(page, "library-9-leaderboard")
    page.click(f"{LIB}ranking li button >> nth=0")
    told = page.wait_for_selector(f"{LIB}plan >> text=/^\\d+ of your prompts, each with/").inner_text()
    prompts = int(told.split()[0])
    assert prompts >= len(CAPTIONS)
    make = page.locator(f"{LIB}plan button:text-matches('^Make \\\\d')")
    if make.count():  # a round before this one has made them else
        wanted = int(re.search(r"\d+", make.inner_text()).group())
        make.click()
        done = f"{LIB}work >> text='{wanted} of {wanted} pictures made and scored'"
        page.wait_for_selector(done, timeout=30 * live.MINUTES)
    page.check(f"{LIB}planned")
    page.wait_for_selector(f"{LIB}ranking >> text=/planned pairs · {2 * prompts} pictures, {prompts} prompts/")
    keep_screenshot(page, "library-10-planned")

    page.click("button[role=tab]:has-text('Pictures')")
    page.click("button:text-is('Show')")
    best = names(page, 5)
    Path(NOTED).write_text(
        json.dumps(
            {"token": token(page), "pictures": state(page)["pictures"], "duels": duels, "by": learnt, "best": best}
        )
    )


def test_after_a_restart(page):
    noted = Path(NOTED)
    if not noted.is_file():
        pytest.skip("the round has not been run")
    left = json.loads(noted.read_text())
    show_library(page)
    if token(page) == left["token"]:
        pytest.skip("restart the WebUI first")
    page.wait_for_selector(f"{CELL} img[src]")
    found = state(page)
    assert found["pictures"] == left["pictures"]
    taste = taste_in(found)
    assert (taste["duels"], taste["fitted"]) == (left["duels"], left["duels"])
    page.wait_for_selector(rf"{LIB}state >> text=/^{left['duels']} duels · (ready|not enough yet, about \d+ more) ·/")
    search(page, "gray background")
    order_by(page, left["by"])
    assert names(page, 5) == left["best"]
    duel_box(page, TASTE)  # and goes on from there
    page.wait_for_selector(f"{LIB}duel >> text='{left['duels']} duels of {TASTE}'")
    page.keyboard.press("Escape")
    keep_screenshot(page, "library-11-restarted")
    live.show_tab(page, "txt2img")
    choose_scorer(page, TASTE)
