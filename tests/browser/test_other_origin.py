"""The attack: a page of another origin, open in the user's browser, tries to drive our routes on this machine."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import os
import shutil
import threading
import urllib.request

import pytest
from PIL import Image

from .conftest import served

V1 = "/imagereward/v1"
# each as a page would write it; `url` and `png` are given
ATTACKS = {
    "blob without a type": (
        "fetch(url('/load'), {method: 'POST', mode: 'no-cors', body: new Blob(['{\"scorer\": \"CLIP\"}'])})"
    ),
    "text": "fetch(url('/load'), {method: 'POST', mode: 'no-cors', body: '{\"scorer\": \"CLIP\"}'})",
    "json": (
        "fetch(url('/load'), {method: 'POST', headers: {'Content-Type': 'application/json'},"
        ' body: \'{"scorer": "CLIP"}\'})'
    ),
    "no body": "fetch(url('/unload'), {method: 'POST', mode: 'no-cors'})",
    "pip": "fetch(url('/refl/libraries'), {method: 'POST', mode: 'no-cors'})",
    "pip with cookies": "fetch(url('/refl/libraries'), {method: 'POST', mode: 'no-cors', credentials: 'include'})",
    "score": (
        "fetch(url('/score'), {method: 'POST', mode: 'no-cors', body: new Blob([JSON.stringify({images: [png], prompt:"
        " 'x'})])})"
    ),
    "beacon": "Promise.resolve(navigator.sendBeacon(url('/load'), new Blob(['{\"scorer\": \"CLIP\"}'])))",
    "training": (
        "fetch(url('/refl/runs'), {method: 'POST', mode: 'no-cors', body: new Blob(['{\"settings\": {\"prompts\":"
        ' "a"}}\'])})'
    ),
    "token guessed": (
        "fetch(url('/refl/libraries'), {method: 'POST', headers: {'X-ImageReward-Token': 'x',"
        " 'X-Forwarded-Host': location.host}})"
    ),
    "form": """new Promise((done) => {
        const form = document.body.appendChild(document.createElement('form'));
        const frame = document.body.appendChild(document.createElement('iframe'));
        frame.name = form.target = 'there';
        form.method = 'POST'; form.enctype = 'text/plain'; form.action = url('/unload');
        frame.onload = () => done();
        setTimeout(done, 3000);
        form.submit();
    })""",
}


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module", params=["gradio3", "gradio4"])
def victim(request, tmp_path_factory):
    """The address of a server with our routes, on the FastAPI of one of the hosts."""
    with served("routes_app.py", request.param, tmp_path_factory.mktemp("routes"), answers="calls") as address:
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The address of another site's page."""
    folder = tmp_path_factory.mktemp("evil")
    (folder / "index.html").write_text("<!doctype html><body>another page</body>")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def reached(victim: str) -> list[str]:
    return json.loads(urllib.request.urlopen(f"{victim}/calls").read())


def attack(page, address: str) -> dict[str, str]:
    """Run every attack in the page; what each came to there."""
    tries = "".join(f"await attempt({json.dumps(name)}, () => {code});" for name, code in ATTACKS.items())
    script = f"""async () => {{
        const png = '{picture()}', url = (path) => '{address}{V1}' + path, came = {{}};
        const late = () => new Promise((done) => setTimeout(() => done({{type: 'silent', status: 0}}), 10000));
        const attempt = async (name, send) => {{
            try {{
                const got = await Promise.race([send(), late()]);
                came[name] = got && got.status !== undefined ? `${{got.type}} ${{got.status}}` : 'sent';
            }} catch (error) {{
                came[name] = 'blocked';
            }}
        }};
        {tries}
        return came;
    }}"""
    return page.evaluate(script)


def test_another_page_opens_nothing(browser, victim, elsewhere):
    before = reached(victim)
    page = browser.new_page()
    try:
        page.goto(elsewhere)
        came = attack(page, victim)
        page.wait_for_timeout(500)  # a beacon has no answer to wait for
    finally:
        page.close()
    assert came.keys() == ATTACKS.keys() and came["no body"] == "opaque 0"  # it did leave the browser
    assert reached(victim) == before


def test_our_own_page_still_does(browser, victim):
    page = browser.new_page()
    try:
        page.goto(victim)
        script = f"""async () => {{
            const token = document.querySelector('[data-token]').dataset.token, answers = [];
            const ask = async (path, body, headers) => answers.push((await fetch('{V1}' + path, {{method: 'POST', body,
                headers: {{...(body ? {{'Content-Type': 'application/json'}} : {{}}), ...headers}}}})).status);
            await ask('/load', '{{"scorer": "CLIP"}}');
            await ask('/score', JSON.stringify({{images: ['{picture()}'], prompt: 'x', scorer: 'CLIP'}}));
            await ask('/refl/libraries', undefined, {{'X-ImageReward-Token': token}});
            await ask('/refl/libraries', undefined, {{'X-ImageReward-Token': 'of yesterday'}});
            await ask('/refl/libraries');
            return answers;
        }}"""
        before = reached(victim)
        assert page.evaluate(script) == [200, 200, 200, 401, 401]
        assert [call for call in reached(victim)[len(before) :] if call != "unload"] in (
            ["load CLIP", "score 1", "install"],
            ["score 1", "install"],  # loaded already
        )
    finally:
        page.close()


def test_a_name_that_leads_here_opens_nothing(browser, victim):
    """DNS rebinding: the page's own name, resolved anew, is this machine; to the browser it is the same origin."""
    chromium = os.environ.get("IMAGEREWARD_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    own = browser.browser_type.launch(
        executable_path=chromium, args=["--no-sandbox", "--disable-background-networking", rules]
    )
    try:
        before = reached(victim)
        page = own.new_page()
        address = f"http://evil.example:{victim.rpartition(':')[2]}"
        page.goto(f"{address}/calls")
        came = attack(page, address)
        assert came["no body"] == "basic 403" and came["json"] == "basic 403" and came["token guessed"] == "basic 403"
        assert reached(victim) == before
    finally:
        own.close()
