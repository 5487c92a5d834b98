"""Real galleries of both gradio versions in a real browser.

Needs what a plain test run may lack, and skips with the reason: playwright, a Chromium, and the interpreters that
`python tests/browser/make_envs.py` makes. IMAGEREWARD_VENVS names another folder for those, IMAGEREWARD_CHROMIUM
another browser; with IMAGEREWARD_SCREENSHOTS set, pictures of each state are kept there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# what the host's script.js offers to extensions, in its timing: callbacks 200 ms after the last change of the page
HOST_JS = """
window.opts = {};
window.gradioApp = () => document;
window.afterUpdate = [];
window.onAfterUiUpdate = (callback) => afterUpdate.push(callback);
window.mutations = 0;
new MutationObserver((list) => {
    window.mutations += list.length;
    clearTimeout(window.pending);
    window.pending = setTimeout(() => afterUpdate.forEach((callback) => callback()), 200);
}).observe(document, {childList: true, subtree: true});

// a viewer as the hosts': goes through the gallery by the places of its thumbnails, by keys and by its arrows
window.extract_image_from_gallery = (images) => [images[0]];
const modal = document.createElement("div");
modal.id = "lightboxModal";
modal.tabIndex = 0;
modal.style.cssText = "display: none; position: fixed; inset: 0; z-index: 1001; background: rgb(20 20 20 / 95%);";
modal.innerHTML = '<img id="modalImage" style="margin: auto; height: 80%">'
    + '<a class="modalPrev">‹</a><a class="modalNext">›</a>';
const thumbs = () => [...document.querySelectorAll("#txt2img_gallery .thumbnails > button")];
const go = (offset) => {
    const all = thumbs();
    const next = all[(all.findIndex((b) => b.classList.contains("selected")) + offset + all.length) % all.length];
    next.click();
    document.getElementById("modalImage").src = next.querySelector("img").src;
};
modal.querySelector(".modalPrev").addEventListener("click", () => go(-1), true);
modal.querySelector(".modalNext").addEventListener("click", () => go(1), true);
modal.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") go(1);
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "Escape") modal.style.display = "none";
}, true);
document.body.appendChild(modal);
window.openLightbox = () => {
    document.getElementById("modalImage").src = document.querySelector("[data-testid='detailed-image']").src;
    modal.style.display = "flex";
    modal.focus();
};
null;  // or playwright would call the last function
"""


def interpreter(name: str) -> Path:
    folder = Path(os.environ.get("IMAGEREWARD_VENVS", ROOT / ".venvs"))
    python = folder / name / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        pytest.skip(f"no interpreter {name}: run python tests/browser/make_envs.py")
    return python


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(app: str, gradio: str, folder: Path, *arguments: object, answers: str = "") -> Iterator[str]:
    """The address of what `app`, a script beside this file, serves with a gradio version's interpreter: started with
    the port and `arguments`, waited for until it answers at the path `answers`, stopped in the end. Its log is put into
    `folder`; it is shown where the page does not start.
    """
    python, port = interpreter(gradio), free_port()
    environment = {
        **os.environ,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "IMAGEREWARD_TORCH": sysconfig.get_paths()["purelib"],
    }
    command = [python, Path(__file__).with_name(app), str(port), *map(str, arguments)]
    with (folder / "log.txt").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        address = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(480):
                if process.poll() is not None:
                    pytest.fail(f"{app} did not start:\n{(folder / 'log.txt').read_text()[-2000:]}")
                try:
                    urllib.request.urlopen(f"{address}{answers}", timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = os.environ.get("IMAGEREWARD_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as play:
        try:
            made = play.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
            )
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture(scope="module", params=["gradio3", "gradio4"])
def page(request, browser, tmp_path_factory):
    """The page of one gradio version with the extension's script and style, as the host would load them."""
    with served("gallery_app.py", request.param, tmp_path_factory.mktemp("app")) as address:
        made = browser.new_page(viewport={"width": 1000, "height": 760})
        made.gradio = request.param
        made.failures = []
        made.on("pageerror", lambda error: made.failures.append(str(error)))
        made.goto(address)
        made.wait_for_selector("#generate_first")
        made.evaluate(HOST_JS)
        made.add_style_tag(content=(ROOT / "style.css").read_text(encoding="utf-8"))
        for script in sorted((ROOT / "javascript").glob("*.js")):
            made.add_script_tag(content=script.read_text(encoding="utf-8"))
        yield made
        made.close()


def described(page, count):
    """Wait until so many pictures of the library's grid are described."""
    page.wait_for_function(
        "([cell, count]) => [...document.querySelectorAll(cell)].filter((one) => one.ariaLabel).length >= count",
        arg=[".imagereward-library-grid figure", count],
    )


def keep_screenshot(page, name: str) -> None:
    """A picture of the page, where IMAGEREWARD_SCREENSHOTS asks for them."""
    if folder := os.environ.get("IMAGEREWARD_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.fixture
def screenshot(page):
    def take(name: str) -> None:
        keep_screenshot(page, f"{page.gradio}-{name}")

    return take
