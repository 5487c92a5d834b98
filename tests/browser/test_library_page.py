"""The library tab in both gradio versions, in a real browser: the grid, what is done with many pictures, the ways into
the host's tabs, the leaderboard and the pairs that it has made.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from imagereward_core import naming
from imagereward_core.library import Record, Score, open_library, remember_now
from imagereward_core.library.records import Made

from ..contract.test_library_tab import paint
from .conftest import ROOT, described, keep_screenshot, served

pytest.importorskip("torch", reason="needs torch")
LIBRARY = "#imagereward-library"
CELL = ".imagereward-library-grid figure"
CHOSEN = f'{CELL}[aria-selected="true"]'
HOST = """
window.gradioApp = () => document;
window.onUiLoaded = (callback) => {
    const wait = () => document.getElementById("imagereward-library") ? callback() : setTimeout(wait, 50);
    wait();
};
window.switch_to_txt2img = () => document.querySelectorAll("#tabs > .tab-nav > button")[0].click();
"""
MANY, PROMPTS = 150, 12


def fill(folder: Path) -> None:
    """A host's folder: a tiny scorer, and a library of its pictures: 150 of many prompts, and 12 prompts with two
    checkpoints each.
    """
    weights = folder / "models" / "ImageReward" / "tiny.safetensors"
    weights.parent.mkdir(parents=True)
    shutil.copy(ROOT / "smallworld" / "weights" / "tiny-imagereward.safetensors", weights)
    scorer = naming.own_model_name(weights)
    outputs = folder / "outputs"
    with open_library(folder / "imagereward-library.sqlite") as library:
        for number in range(MANY):
            path = paint(outputs / f"{number:03}.png", (number, 255 - number, 40), f"picture {number}")
            if number == 0:
                path.with_suffix(".txt").write_text("picture 0")
            scores = (Score("A", number / 10), *((Score("B", -number),) if number % 2 else ()))
            remember_now(library, Record(path, scores=scores, time=1e9 + number))
        for prompt in range(PROMPTS):
            for level, name in enumerate(("alpha", "beta")):
                path = outputs / "pairs" / f"{prompt}-{name}.png"
                path.parent.mkdir(exist_ok=True)
                Image.new("RGB", (64, 64), (20 * prompt, 60 * level, 9)).save(path)
                made = Made(f"prompt {prompt}", "blurry", prompt, "Euler a", 20, 7.0, name)
                score = Score(scorer, prompt / 10 + level + (prompt * 7 % 5) * 0.1 * level)
                remember_now(library, Record(path, scores=(score,), made=made, time=1e8 + prompt))


@pytest.fixture(scope="module", params=["gradio3", "gradio4"])
def app(request, tmp_path_factory):
    """(gradio, address, the host's folder)"""
    folder = tmp_path_factory.mktemp(request.param)
    fill(folder)
    with served("library_app.py", request.param, folder, folder, answers="generated") as address:
        yield request.param, address, folder


def opened(browser, address, theme="light", width=1200):
    page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
    page.set_default_timeout(60_000)
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    scripts = sorted((ROOT / "javascript").glob("imagereward_library*.js"))
    page.add_init_script(HOST + "\n".join(path.read_text(encoding="utf-8") for path in scripts))
    page.goto(f"{address}?__theme={theme}")
    show_tab(page)
    page.wait_for_selector(f"{CELL} img[src]")
    return page


def show_tab(page):
    page.click("#tabs button:has-text('ImageReward library')")


@pytest.fixture
def page(app, browser):
    made = opened(browser, app[1])
    yield made
    made.close()
    assert made.failures == []


def names(page, count):
    """Names of the first pictures, once they are described."""
    described(page, count)
    labels = page.eval_on_selector_all(
        CELL,
        "all => all.sort((a, b) => a.offsetTop - b.offsetTop || a.offsetLeft - b.offsetLeft).map(a => a.ariaLabel)",
    )
    return [label.split(",")[0] for label in labels[:count]]


def chosen(page, number):
    page.wait_for_selector(f"text={number} picture{'s' if number > 1 else ''} chosen")


def cell(page, name):
    return page.locator(f"{CELL}[aria-label^='{name}']")


def test_order_filters_and_a_long_scroll(page, app):
    gradio = app[0]
    total = MANY + 2 * PROMPTS
    page.wait_for_selector(f"text={total} pictures >> nth=0")
    assert names(page, 2) == ["149.png", "148.png"]
    # only what is seen exists, whatever is scrolled to
    page.evaluate("document.querySelector('.imagereward-library-grid').scrollTop = 1e9")
    cell(page, "0-alpha.png").wait_for()
    assert page.locator(CELL).count() < 80
    keep_screenshot(page, f"{gradio}-library-end")
    page.select_option(".imagereward-library-by", "B")
    page.wait_for_selector("text=75 pictures · 99 pictures not scored by B")
    assert names(page, 2) == ["001.png", "003.png"]
    page.select_option(".imagereward-library-order", "worst")
    page.wait_for_function("document.querySelector('.imagereward-library-score')?.textContent === '-149.000'")
    page.click("summary:has-text('Filters')")
    page.select_option(".imagereward-library-by", "A")
    page.fill(".imagereward-library-least", "90")
    page.press(".imagereward-library-least", "Enter")
    page.wait_for_function("document.querySelectorAll('.imagereward-library-grid figure').length === 15")
    page.click("button:text-is('Clear')")
    page.fill(".imagereward-library-words", "prompt 3")
    page.press(".imagereward-library-words", "Enter")
    page.select_option(".imagereward-library-by", "date")
    page.wait_for_function("document.querySelectorAll('.imagereward-library-grid figure').length === 2")
    page.select_option(".imagereward-library-checkpoint", "beta")
    page.wait_for_function("document.querySelectorAll('.imagereward-library-grid figure').length === 1")
    assert names(page, 1) == ["3-beta.png"]
    keep_screenshot(page, f"{gradio}-library-filters")


def test_what_is_said_of_pictures_belongs_to_the_order_that_is_seen(page):
    """A slow server: what was asked of the pictures in the old order comes after the list in the new one."""
    page.evaluate(
        """async () => {
            const lib = window.imagerewardLibrary, json = lib.json;
            const wait = (ms) => new Promise((done) => setTimeout(done, ms));
            lib.json = async (path, body) => {
                if (path.startsWith("/pictures?by=B")) await wait(500);
                const answer = await json(path, body);
                if (path === "/described" && body.by === "date") await wait(1000);
                return answer;
            };
            await lib.grid.show();  // what its pictures are is asked a moment later
            lib.part("by").value = "B";
            lib.part("by").dispatchEvent(new Event("change"));
        }"""
    )
    page.wait_for_function("window.imagerewardLibrary.grid.by === 'B'")
    page.wait_for_timeout(1500)
    assert names(page, 1) == ["001.png"]
    first = page.locator(f"{CELL}[aria-posinset='1']")
    assert first.locator(".imagereward-library-score").inner_text() == "-1.000"
    assert first.locator(".imagereward-library-percent").inner_text() == "98 %"


def test_many_by_keys_moved_and_undone(page, app):
    """Click, Shift, Ctrl and keys; keep, stars, move below the output folder; everything taken back."""
    gradio, _, folder = app
    outputs = folder / "outputs"
    names(page, 3)
    cell(page, "149.png").click()
    chosen(page, 1)
    cell(page, "147.png").click(modifiers=["Shift"])
    chosen(page, 3)
    cell(page, "148.png").click(modifiers=["Control"])
    chosen(page, 2)
    page.keyboard.press("k")
    page.wait_for_selector("text=Undo (keep: 2 pictures)")
    assert page.locator(f"{CELL}[data-mark=keep]").count() == 2
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    chosen(page, 2)
    page.keyboard.press("4")
    page.wait_for_selector("text=Undo (★★★★: 2 pictures)")
    page.keyboard.press("Control+a")
    chosen(page, MANY + 2 * PROMPTS)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    page.wait_for_selector("text=Undo (keep: 2 pictures)")
    page.click("button:has-text('Undo (')")
    page.wait_for_function("!document.querySelector('.imagereward-library-grid [data-mark=keep]')")

    page.fill(".imagereward-library-words", "picture 0")
    page.press(".imagereward-library-words", "Enter")
    page.wait_for_function("document.querySelectorAll('.imagereward-library-grid figure').length === 1")
    names(page, 1)
    cell(page, "000.png").click()
    (outputs / "best").mkdir(exist_ok=True)
    (outputs / "best" / "000.png").write_text("mine")
    page.fill(".imagereward-library-move-name", "best")
    page.click("button:text-is('Move')")
    page.wait_for_selector("text=1 picture moved to outputs/best")
    assert not (outputs / "000.png").exists() and (outputs / "best" / "000.png").read_text() == "mine"
    assert (outputs / "best" / "000-1.png").is_file() and (outputs / "best" / "000-1.txt").read_text() == "picture 0"
    cell(page, "000-1.png").wait_for()
    keep_screenshot(page, f"{gradio}-library-moved")
    page.click("button:has-text('Undo (moved')")
    page.wait_for_selector("text=undone: moved 1 picture to outputs/best")
    assert (outputs / "000.png").is_file() and (outputs / "000.txt").read_text() == "picture 0"
    assert sorted(os.listdir(outputs / "best")) == ["000.png"]

    with page.expect_download() as download:
        page.click("button:text-is('JSONL')")
    (line,) = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["file"] == str(outputs / "000.png")
    assert download.value.suggested_filename == "imagereward-library.jsonl"


def test_into_the_other_tabs(page, app):
    page.fill(".imagereward-library-words", "picture 77")
    page.press(".imagereward-library-words", "Enter")
    page.wait_for_function("document.querySelectorAll('.imagereward-library-grid figure').length === 1")
    names(page, 1)
    page.dblclick(CELL)
    page.wait_for_selector(".imagereward-library-view[data-ready]")
    assert "Euler a" in page.text_content(".imagereward-library-about")
    keep_screenshot(page, f"{app[0]}-library-view")
    page.click("button:has-text('Send to txt2img')")
    page.wait_for_selector("#txt2img_prompt textarea", state="visible")
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value === 'picture 77'")
    for _ in range(2):  # into an empty PNG Info, and onto a picture that is there
        show_tab(page)
        cell(page, "077.png").click()
        page.click(".imagereward-library-actions button:text-is('PNG Info')")
        page.wait_for_selector("#pnginfo_text textarea", state="visible")
        page.wait_for_function("document.querySelector('#pnginfo_text textarea').value.startsWith('picture 77')")


def test_the_leaderboard_and_the_missing_pairs(page, app):
    gradio, address, _ = app
    page.click("button[role=tab]:has-text('Leaderboard')")
    page.select_option(".imagereward-library-ranking-scorer", label=scorer_of(page))
    page.wait_for_selector(".imagereward-library-ranking table")
    assert "from your history" in page.text_content(".imagereward-library-ranking")
    assert page.locator(".imagereward-library-ranking svg").count() == 2
    claim = page.locator(".imagereward-library-claimed")
    assert claim.text_content().startswith("beta scores 1.18 higher than alpha (from your history)")
    claim.locator("button").click()
    page.wait_for_selector("text=12 of your prompts, each with")
    keep_screenshot(page, f"{gradio}-library-leaderboard")
    page.click("button:has-text('Make 24 pictures')")
    page.wait_for_selector("text=24 of 24 pictures made and scored")
    with urllib.request.urlopen(f"{address}generated") as answer:
        made = json.load(answer)
    assert [one["model"] for one in made] == ["alpha"] * 12 + ["beta"] * 12
    page.check(".imagereward-library-planned")
    # a box without its tick would look the same, on and off
    assert page.eval_on_selector(".imagereward-library-planned", "box => getComputedStyle(box).appearance") == "auto"
    page.wait_for_selector("text=planned pairs · 24 pictures, 12 prompts")


def scorer_of(page):
    options = page.eval_on_selector_all(".imagereward-library-ranking-scorer option", "all => all.map(a => a.value)")
    return next(name for name in options if name.startswith("tiny"))


@pytest.mark.parametrize("theme, width", [("dark", 1200), ("light", 420)])
def test_other_looks(app, browser, theme, width):
    """Dark, and as narrow as a phone: nothing sticks out."""
    made = opened(browser, app[1], theme, width)
    names(made, 2)
    made.locator(CELL).first.click()
    made.click("summary:has-text('Filters')")
    keep_screenshot(made, f"{app[0]}-library-{theme}-{width}")
    assert made.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    made.click("button[role=tab]:has-text('Leaderboard')")
    made.select_option(".imagereward-library-ranking-scorer", label=scorer_of(made))
    made.wait_for_selector(".imagereward-library-ranking table")
    keep_screenshot(made, f"{app[0]}-leaderboard-{theme}-{width}")
    assert made.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    made.close()
    assert made.failures == []


def test_what_was_made_meanwhile_is_there_when_the_tab_is_opened(page, app):
    """Without being asked to read or show it; what is chosen stays chosen."""
    folder = app[2]
    place = folder / "imagereward-library.sqlite"

    def made(name):
        page.click("#tabs button:has-text('txt2img')")
        page.wait_for_selector(LIBRARY, state="hidden")
        with open_library(place) as library:
            remember_now(library, Record(paint(folder / "outputs" / name, (9, 9, 9), name), time=2e9))
        show_tab(page)

    made("late-1.png")
    page.wait_for_function(
        "document.querySelectorAll('.imagereward-library-grid figure[aria-label^=\"late-1\"]').length"
    )
    assert names(page, 1) == ["late-1.png"]
    cell(page, "late-1.png").click()
    chosen(page, 1)
    before = page.inner_text(".imagereward-library-place")
    made("late-2.png")
    page.wait_for_function(
        "text => document.querySelector('.imagereward-library-place').innerText !== text", arg=before
    )
    chosen(page, 1)
    assert names(page, 1) == ["late-1.png"]
