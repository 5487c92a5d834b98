"""A running WebUI, for the tests that press its page: its address, a page with one of its tabs, and one of its jobs.

IMAGEREWARD_TEST_HOST=http://… names the WebUI; it needs --api and a checkpoint that is selected.
IMAGEREWARD_TEST_SCORER names a scorer on its machine.
"""

from __future__ import annotations

import json
import os
import urllib.request

HOST = os.environ.get("IMAGEREWARD_TEST_HOST", "").rstrip("/")
THEME = os.environ.get("IMAGEREWARD_TEST_THEME", "light")
MINUTES = 60_000  # in milliseconds
LIB = ".imagereward-library-"
READY = f'{LIB}duel[data-ready="1"]'
SCORER = os.environ.get("IMAGEREWARD_TEST_SCORER", "tiny-imagereward.safetensors")
ACCORDION = "#script_txt2img_imagereward_"
SMALL = {"steps": "4", "width": "64", "height": "64"}  # a job that a CPU does soon


def opened(browser):
    """A page of the WebUI; `failures` has the errors of scripts, `ours` those that our scripts had a part in: a
    WebUI's own page has errors of its own, A1111's where txt2img's width is changed.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 1200})
    page.set_default_timeout(5 * MINUTES)
    page.failures, page.ours = [], []

    def failed(error):
        page.failures.append(str(error))
        if "imagereward" in (error.stack or "").lower():
            page.ours.append(str(error))

    page.on("pageerror", failed)
    load(page)
    return page


def load(page):
    """The page anew."""
    page.goto(f"{HOST}/?__theme={THEME}")
    page.wait_for_selector("#tabs button:text-matches('^txt2img', 'i')")


def show_tab(page, title):
    """One of the tabs; WebUIs write their names in capitals or not."""
    page.click(f"#tabs button:text-matches('^{title}', 'i') >> nth=0")


def ask(path, body=None, timeout=900):
    """What a route of the WebUI answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(HOST + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def set_numbers(page, **values):
    """Numbers of txt2img, by their fields' names. Filled in again where the WebUI puts its presets over them, as Forge
    Neo does a moment after the page is there.
    """
    fields = {name: page.locator(f"#txt2img_{name} input[type=number]") for name in values}
    for _ in range(5):
        for name, field in fields.items():
            field.fill(values[name])
            field.blur()
        page.wait_for_timeout(1500)
        if all(field.input_value() == values[name] for name, field in fields.items()):
            return
    raise AssertionError(f"the WebUI does not keep {values}")


def generate(page, count, minutes=30):
    """Press Generate in txt2img and wait for a gallery of so many pictures that is another than the one before."""
    script = """count => {
        const found = [...document.querySelectorAll('#txt2img_gallery .thumbnail-item img')].map((img) => img.src);
        const sources = [...new Set(found)];
        return sources.length === count && sources.join() !== window.imagerewardBefore;
    }"""
    page.evaluate(
        "window.imagerewardBefore = [...new Set([...document.querySelectorAll("
        "'#txt2img_gallery .thumbnail-item img')].map((img) => img.src))].join()"
    )
    page.click("#txt2img_generate")
    page.wait_for_function(script, arg=count, timeout=minutes * MINUTES)


def badges(page):
    """Scores on the thumbnails of txt2img's gallery as they are seen, from left to right."""
    page.wait_for_selector("#txt2img_gallery .thumbnail-item .imagereward-badge")
    return page.evaluate(
        """() => {
            const lists = ["#txt2img_gallery .grid-container .thumbnail-item", "#txt2img_gallery .thumbnail-item"];
            const found = lists.map((one) => [...document.querySelectorAll(one)]).find((all) => all.length);
            const place = (one) => one.getBoundingClientRect();
            return found.filter((one) => one.querySelector(".imagereward-badge"))
                .sort((a, b) => place(a).top - place(b).top || place(a).left - place(b).left)
                .map((one) => Number(one.querySelector(".imagereward-badge").textContent));
        }"""
    )


def choose_scorer(page, name):
    """In txt2img's accordion, open; by its list, which may be from before the scorer was there."""
    if not page.is_visible(f"{ACCORDION}scorer input"):
        page.click(f"{ACCORDION}enable .label-wrap")
        page.wait_for_selector(f"{ACCORDION}scorer input", state="visible")
    page.click(f"{ACCORDION}scorer_refresh")
    field = page.locator(f"{ACCORDION}scorer input")
    field.click()
    page.locator(f"ul.options li:has-text('{name}')").first.click()
    page.wait_for_function(
        "([id, name]) => document.querySelector(id).value.includes(name)", arg=[f"{ACCORDION}scorer input", name]
    )


def show_library(page):
    """The library's tab, once it is built."""
    show_tab(page, "ImageReward library")
    page.wait_for_selector(f"{LIB}bar")


# Of the two pictures of a duel, the one with more of the warm colours; -1 where they have the same.
WARMER = """() => {
    const warmth = [...document.querySelectorAll(".imagereward-library-two img")].map((img) => {
        const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
        const context = canvas.getContext("2d");
        context.drawImage(img, 0, 0, 32, 32);
        const data = context.getImageData(0, 0, 32, 32).data;
        let sum = 0;
        for (let i = 0; i < data.length; i += 4) sum += data[i] - data[i + 2];
        return sum;
    });
    return warmth[0] === warmth[1] ? -1 : Number(warmth[1] > warmth[0]);
}"""


def duel_box(page, taste):
    """Two pictures of what the library's grid shows, to choose between."""
    if not page.is_visible(f"{LIB}taste"):
        page.click("summary:has-text('Duels and taste')")
    page.fill(f"{LIB}taste", taste)
    page.locator(f"{LIB}taste").blur()
    page.click(f"{LIB}tastes button:text-is('Duel')")
    page.wait_for_selector(READY)


def duelled(page):
    """How many duels the taste has."""
    return int(page.inner_text(f"{LIB}duel {LIB}count").split()[0])


def duel(page, taste, count, other_keys=None):
    """So many duels by keyboard, the warmer one wins; `other_keys` are pressed at those numbers instead."""
    before = duelled(page)
    for number in range(count):
        page.wait_for_selector(READY)
        warmer = page.evaluate(WARMER)
        key = "ArrowUp" if warmer < 0 else ("ArrowLeft", "ArrowRight")[warmer]
        page.keyboard.press((other_keys or {}).get(number, key))
        page.wait_for_selector(f"{LIB}duel >> text='{before + number + 1} duels of {taste}'")
