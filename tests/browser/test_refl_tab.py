"""The ReFL tab in a real browser: the page it builds, a run from start to stop, and what a reload finds."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn")
pytest.importorskip("fastapi", reason="needs fastapi")

from fastapi.responses import HTMLResponse, PlainTextResponse  # noqa: E402

from ..contract.conftest import host  # noqa: E402, F401  a fixture
from ..contract.test_refl_tab import page as refl  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loader():
    """Nothing is scored here, so that this also runs where there is no torch."""
    return None


@pytest.fixture
def tab(refl, browser):  # noqa: F811
    """(the open page, the runs)."""
    client, runs, fake = refl
    script = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "javascript").glob("imagereward_refl*.js"))
    )
    style = (ROOT / "style.css").read_text(encoding="utf-8")
    body = fake.part("refl_tab.tab").root_html()
    document = (
        f"<style>{style}</style><div id='tabs'><div class='tab-nav'><button onclick=\"this.dataset.opened ="
        " 1\">Txt2img</button></div></div><div id='txt2img_prompt'><textarea>a"
        f" cat</textarea></div>{body}<script>window.onUiLoaded = (callback) => setTimeout(callback, 50)</script><script"
        " src='/refl.js'></script>"
    )
    client.app.get("/")(lambda: HTMLResponse(document))
    client.app.get("/refl.js")(lambda: PlainTextResponse(script, media_type="text/javascript"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(client.app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    page = browser.new_page()
    page.set_default_timeout(20_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/")
    yield page, runs
    page.close()
    server.should_exit = True
    thread.join(10)
    assert problems == []


def test_from_form_to_stop_and_reload(tab):
    page, runs = tab
    page.wait_for_selector("#imagereward-refl-checkpoint")
    assert page.input_value("#imagereward-refl-checkpoint") == "a.safetensors [123]"
    page.click("text=Start")
    page.wait_for_selector("text=Prompts: there are none")  # what is missing is said beside the button
    page.set_input_files(
        "input[type=file]",
        {"name": "p.json", "mimeType": "application/json", "buffer": b'[{"text": "a cat"}, {"text": "a dog"}]'},
    )
    # the page reads the file in its own time
    page.wait_for_function("document.querySelector('#imagereward-refl-prompts').value === 'a cat\\na dog'")
    page.set_input_files("input[type=file]", {"name": "p.csv", "mimeType": "text/csv", "buffer": b"id,name\n1,x\n"})
    page.wait_for_selector("text=p.csv, entry 1: no text under text, prompt, caption")
    page.set_input_files(
        "input[type=file]", {"name": "p.csv", "mimeType": "text/csv", "buffer": b'id,prompt\n1,"a cat, red"\n2,a dog\n'}
    )
    page.wait_for_function("document.querySelector('#imagereward-refl-prompts').value === 'a cat, red\\na dog'")
    page.select_option("#imagereward-refl-second_reward", "CLIP")
    page.fill("#imagereward-refl-second_weight", "0.25")
    page.fill("#imagereward-refl-steps", "7")
    page.click("text=Estimate memory")
    page.wait_for_selector("text=Needs 5.5 GB")
    page.click("text=Start")
    page.wait_for_selector("text=/: training, update/")
    page.wait_for_selector(".imagereward-refl-curves polyline", state="attached")
    assert runs.list()[0]["max_steps"] == 7
    page.click("button[data-command=pause]")
    page.wait_for_selector("text=/: paused, update/")
    assert page.is_disabled("button[data-command=pause]") and page.is_enabled("button[data-command=resume]")
    page.reload()  # nothing of a run lives in the page
    page.wait_for_selector("text=/: paused, update/")
    page.click("button[data-command=stop]")
    page.wait_for_selector("text=/: stopped, update/")
    page.click("button[data-command=resume]")
    page.wait_for_selector("text=/: finished, update/")
    page.route("**/runs", lambda route: route.abort())  # the WebUI goes away for a moment
    page.wait_for_selector("text=/The WebUI does not answer/")
    page.unroute("**/runs")
    page.wait_for_selector("text=/The WebUI does not answer/", state="detached")
    page.click("text=Use in txt2img")
    assert page.get_attribute(".tab-nav button", "data-opened")  # Forge writes the tab's name with a capital
    assert page.input_value("#txt2img_prompt textarea") == "a cat <lora:x:1>"
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    )  # as over http from another machine
    page.click("text=Prepare X/Y/Z plot")
    page.wait_for_selector("text=/copy these values: <lora:x:0>,<lora:x:0.2>/")
    page.select_option("#imagereward-refl-second_reward", "")
    page.click("text=Clone")
    page.wait_for_function("document.querySelector('#imagereward-refl-second_reward').value === 'CLIP'")
    assert (
        page.input_value("#imagereward-refl-steps") == "7"
        and page.input_value("#imagereward-refl-second_weight") == "0.25"
    )
    assert page.input_value("#imagereward-refl-prompts") == "a cat, red\na dog"
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("text=Delete")
    page.wait_for_selector(".imagereward-refl-runs > div", state="detached")
    assert runs.list() == []
