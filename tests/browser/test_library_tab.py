"""The library tab in a real browser: the grid, marks, duels by keyboard with undo, and a taste that is learnt."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn")
pytest.importorskip("fastapi", reason="needs fastapi")

from fastapi.responses import HTMLResponse, PlainTextResponse  # noqa: E402

from imagereward_core.library import marks, open_library  # noqa: E402

from ..contract.conftest import host  # noqa: E402, F401  a fixture
from ..contract.fakehost import EXTENSION  # noqa: E402
from ..contract.test_library_tab import read_all, tab  # noqa: E402, F401
from .conftest import keep_screenshot  # noqa: E402

READY = '.imagereward-library-duel[data-ready="1"]'
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loader():
    """Nothing is scored by a job here."""
    return None


@pytest.fixture
def page(tab, browser):  # noqa: F811
    """(the open page, the server's side)."""
    client, fake, api = tab
    weights = fake.part("host").models_dir() / "tiny.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXTENSION / "smallworld" / "weights" / "tiny-imagereward.safetensors", weights)
    scripts = sorted((ROOT / "javascript").glob("imagereward_library*.js"))
    script = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    style = (ROOT / "style.css").read_text(encoding="utf-8")
    document = (
        f"<style>{style}</style>{fake.part('library_tab.tab').root_html()}<script>window.onUiLoaded = (callback) =>"
        " setTimeout(callback, 50)</script><script src='/library.js'></script>"
    )
    client.app.get("/")(lambda: HTMLResponse(document))
    client.app.get("/library.js")(lambda: PlainTextResponse(script, media_type="text/javascript"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(client.app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    opened = browser.new_page(viewport={"width": 1000, "height": 700})
    opened.set_default_timeout(30_000)
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(f"http://127.0.0.1:{port}/")
    yield opened, api
    opened.close()
    server.should_exit = True
    thread.join(10)
    assert problems == []


def drawn(page, selector, count):
    """Wait until so many pictures are there, with their pixels."""
    page.wait_for_function(
        "([selector, count]) => [...document.querySelectorAll(selector)].filter((img) => img.naturalWidth).length"
        " === count",
        arg=[selector, count],
    )


def test_work_that_is_over_before_the_page_asks(page, monkeypatch):
    opened, api = page
    start = api.work.start

    def at_once(what, action):
        start(what, action)
        api.work.wait()

    monkeypatch.setattr(api.work, "start", at_once)
    opened.click("text=Read my pictures")
    drawn(opened, ".imagereward-library-grid img", 6)


def test_from_nothing_to_a_taste(page, tab, tmp_path):  # noqa: F811
    opened, api = page
    opened.wait_for_selector("text=No library yet: it will be kept in")
    opened.click("text=Read my pictures")
    opened.wait_for_selector("text=6 pictures read, 0 known already")
    drawn(opened, ".imagereward-library-grid img", 6)
    opened.select_option(".imagereward-library-by", "ImageReward-v1.0")
    opened.wait_for_function("document.querySelector('.imagereward-library-score')?.textContent === '2.000'")
    first = opened.locator(".imagereward-library-grid figure").first
    first.locator("button[title=keep]").click()
    opened.wait_for_selector(".imagereward-library-grid figure[data-mark=keep]")
    opened.keyboard.press("ArrowRight")  # the keys are the grid's after a button of it
    opened.keyboard.press("5")
    opened.wait_for_selector("text=Undo (★★★★★: 1 picture)")
    opened.click("summary:has-text('Filters')")
    opened.fill(".imagereward-library-where", "stars=5 mark=keep")
    opened.press(".imagereward-library-where", "Enter")
    drawn(opened, ".imagereward-library-grid img", 1)
    opened.fill(".imagereward-library-where", "stars === ")
    opened.press(".imagereward-library-where", "Enter")
    opened.wait_for_selector(".imagereward-library-error")
    opened.fill(".imagereward-library-where", "")
    opened.press(".imagereward-library-where", "Enter")
    drawn(opened, ".imagereward-library-grid img", 6)
    keep_screenshot(opened, "library-grid")

    assert "No duels yet. 50 are a hint" in opened.text_content(".imagereward-library-state")
    opened.click("summary:has-text('Duels and taste')")
    opened.click("button:text-is('Duel')")
    opened.wait_for_selector(READY)
    keep_screenshot(opened, "library-duel")
    opened.keyboard.press("ArrowLeft")
    opened.wait_for_selector("text=1 duels of my-taste")
    opened.wait_for_selector(READY)
    opened.keyboard.press("Backspace")
    opened.wait_for_selector(".imagereward-library-duel >> text=taken back")
    opened.keyboard.press("ArrowUp")
    opened.wait_for_selector("text=1 duels of my-taste")
    opened.wait_for_selector(READY)
    assert "taken back" not in opened.text_content(".imagereward-library-duel")
    opened.locator(".imagereward-library-two img").nth(1).click()
    opened.wait_for_selector("text=2 duels of my-taste")
    opened.wait_for_selector(READY)
    opened.keyboard.press("ArrowRight")
    opened.wait_for_selector("text=no pair is left")
    assert not opened.locator(".imagereward-library-duel").count()
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        verdicts = sorted(duel.verdict for duel in marks.duels(library))
    assert verdicts == ["both", "win", "win"]

    assert opened.input_value(".imagereward-library-base") == "tiny.safetensors"  # the only one on this machine
    opened.click("button:text-is('Learn')")
    opened.wait_for_selector("text=my-taste: not enough yet")
    opened.wait_for_selector("text=3 duels · not enough yet, about 197 more")
    keep_screenshot(opened, "library-taste")
    weights = tab[1].part("host").models_dir()
    shutil.copy(weights / "tiny.safetensors", weights / "another.safetensors")
    opened.reload()
    opened.wait_for_selector(".imagereward-library-base option[value='another.safetensors']", state="attached")
    assert opened.input_value(".imagereward-library-base") == "tiny.safetensors"  # as it was learnt last time


def test_names_and_prompts_are_text(page, tmp_path):
    from PIL import Image

    from imagereward_core.library import Record, remember_now
    from imagereward_core.library.records import Made

    opened, api = page
    name = tmp_path / "outputs" / "<img src=x onerror=window.hacked=1>.png"
    Image.new("RGB", (50, 40), "teal").save(name)
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        remember_now(library, Record(name, made=Made(prompt="<script>window.hacked=1</script>")))
    opened.reload()
    drawn(opened, ".imagereward-library-grid img", 1)
    assert opened.evaluate("window.hacked") is None
    opened.wait_for_selector(".imagereward-library-grid figure[title]")
    assert opened.get_attribute(".imagereward-library-grid figure", "title") == "<script>window.hacked=1</script>"
    opened.dblclick(".imagereward-library-grid figure")
    opened.wait_for_selector(".imagereward-library-view[data-ready]")
    assert "onerror" in opened.text_content(".imagereward-library-about")
    assert opened.evaluate("window.hacked") is None
