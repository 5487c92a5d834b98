"""The REST routes: scores, ranks, accounts, and what is refused."""

import asyncio
import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from PIL import Image

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")


def picture(red=60, size=(8, 8), form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def client(host):
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    return testclient.TestClient(app)


def test_score_one_prompt_for_all(client, loader):
    answer = client.post(
        "/imagereward/v1/score",
        json={"images": [picture(60), "data:image/png;base64," + picture(45)], "prompt": "a (cat:1.2)"},
    )
    assert answer.json() == {"scorer": "ImageReward-v1.0", "scores": [1.0, -0.5]}
    assert [prompt for prompt, _ in loader.scorer.calls] == ["a cat", "a cat"]


def test_score_pair_by_pair(client, loader):
    client.post("/imagereward/v1/score", json={"images": [picture(), picture()], "prompts": ["a cat", "a dog"]})
    assert [prompt for prompt, _ in loader.scorer.calls] == ["a cat", "a dog"]


def test_rank(client):
    answer = client.post(
        "/imagereward/v1/rank", json={"images": [picture(50), picture(60), picture(55), picture(60)], "prompt": "a cat"}
    )
    assert answer.json()["ranking"] == [4, 1, 3, 2] and answer.json()["scores"] == [0.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("route", ["score", "rank"])
def test_the_memory_policy_counts_for_clients_too(client, host, route):
    host.options.data["imagereward_policy"] = "unload"
    assert client.post(f"/imagereward/v1/{route}", json={"images": [picture()], "prompt": "a cat"}).status_code == 200
    assert client.get("/imagereward/v1/status").json()["loaded"] is None


def test_load_status_unload(client):
    assert client.get("/imagereward/v1/status").json()["loaded"] is None
    assert client.post("/imagereward/v1/load", json={"scorer": "CLIP"}).json() == {
        "loaded": "CLIP",
        "device": "cpu",
        "megabytes": 1.0,
    }
    assert client.get("/imagereward/v1/status").json()["host"] == "AUTOMATIC1111"
    assert [client.post("/imagereward/v1/unload").json() for _ in range(2)] == [
        {"freed_megabytes": 1.0},
        {"freed_megabytes": 0.0},
    ]


def test_models_and_schema(client, host):
    assert client.get("/imagereward/v1/models").json()["models"][0] == "ImageReward-v1.0"
    schema = client.get("/imagereward/v1/schema").json()
    assert schema["title"] == "ImageReward" and schema["args"][0] == {
        "name": "enabled",
        "label": "Score generated images",
        "type": "bool",
        "default": False,
        "choices": [],
        "minimum": None,
        "maximum": None,
    }


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"images": [], "prompt": "x"}, 422, "1 to 64 are accepted, found 0"),
        ({"images": ["/etc/passwd"], "prompt": "x"}, 422, "images[0]: not base64 (paths and URLs are not accepted)"),
        ({"images": ["http://127.0.0.1/x.png"], "prompt": "x"}, 422, "paths and URLs are not accepted"),
        ({"images": [base64.b64encode(b"hello").decode()], "prompt": "x"}, 422, "images[0]: not an image"),
        ({"images": [picture()]}, 422, "give either prompt"),
        ({"images": [picture()], "prompt": "x", "prompts": ["y"]}, 422, "give either prompt"),
        ({"images": [picture()], "prompts": ["x", "y"]}, 422, "2 prompts for 1 images"),
        (
            {"images": [picture()], "prompt": "x", "scorer": "../../x.pt"},
            404,
            "there is no scorer '../../x.pt'; there are: ImageReward-v1.0",
        ),
        ({"images": [picture()] * 65, "prompt": "x"}, 422, "found 65"),
    ],
)
def test_bad_requests(client, loader, body, status, message):
    answer = client.post("/imagereward/v1/score", json=body)
    assert answer.status_code == status and message in answer.json()["detail"]
    assert loader.loads == []


def test_sizes_are_limited(client, host, monkeypatch):
    monkeypatch.setattr(host.part("api"), "MAX_PIXELS", 60)
    monkeypatch.setattr(host.part("api"), "MAX_BASE64", 5000)
    answer = client.post("/imagereward/v1/score", json={"images": [picture()], "prompt": "x"})
    assert answer.status_code == 422 and "8x8 pixels, and 60 are the limit" in answer.json()["detail"]
    answer = client.post("/imagereward/v1/score", json={"images": ["A" * 5001], "prompt": "x"})
    assert answer.status_code == 422 and "5001 characters" in answer.json()["detail"]


def test_missing_weights_are_an_answer(client, host, loader):
    loader.failure = host.part("core").errors.ModelNotFoundError("ImageReward.pt is not here; fetch it from …")
    answer = client.post("/imagereward/v1/load", json={})
    assert answer.status_code == 503 and "fetch it from" in answer.json()["detail"]


@pytest.mark.parametrize("where", ["api_auth", "gradio_auth", "gradio_auth_path"])
def test_the_hosts_accounts_are_asked_for(client, host, tmp_path, where):
    value = "ann:secret,bob:pass:word"
    if where.endswith("path"):
        (tmp_path / "accounts").write_text("ann:secret\nbob:pass:word\n", encoding="utf-8")
        value = str(tmp_path / "accounts")
    setattr(host.cmd_opts, where, value)
    for path in ("status", "models", "schema"):
        assert client.get(f"/imagereward/v1/{path}").status_code == 401
    assert client.post("/imagereward/v1/unload").status_code == 401
    for account, status in (
        (("ann", "secret"), 200),
        (("bob", "pass:word"), 200),
        (("ann", "pass:word"), 401),
        (("", ""), 401),
        (("ann", "sécret"), 401),
    ):
        assert client.get("/imagereward/v1/status", auth=account).status_code == status


def test_routes_come_back_after_reload_ui(host):
    host.load_ui()
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    assert testclient.TestClient(app).get("/imagereward/v1/status").status_code == 200


# --- who may ask ------------------------------------------------------------------------------------

V1 = "/imagereward/v1"
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver:9000"},  # another port is another page
    {"Origin": "http://testserver", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},  # DNS rebinding: the page's own name leads here
    {"Host": "evil.example:7860", "Origin": "http://evil.example:7860", "Sec-Fetch-Site": "same-origin"},
    {"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
    {"Host": "localhost.evil.example"},
]
OURS = [
    {},
    {"Origin": "http://testserver"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Host": "localhost:7860", "Origin": "http://localhost:7860"},
    {"Host": "127.0.0.1:7860"},
    {"Host": "[::1]:7860", "Origin": "http://[::1]:7860"},
    {"Host": "192.168.1.5:7860"},
    {"Host": "127.0.0.1:7860", "X-Forwarded-Host": "sd.example", "Origin": "https://sd.example"},
]


def every_route(app):
    return [
        (method, path) for path, methods in app.openapi()["paths"].items() if path.startswith(V1) for method in methods
    ]


@pytest.mark.parametrize("headers", FOREIGN)
def test_other_pages_are_refused_on_every_route(client, host, headers):
    token = {"X-ImageReward-Token": host.part("guard").TOKEN}
    routes = every_route(client.app)
    assert len(routes) >= 17
    for method, path in routes:
        answer = client.request(
            method, path.format(run_id="x", name="y", number=1), headers={**token, **headers}, content=b""
        )
        assert answer.status_code == 403 and "Trusted hosts" in answer.json()["detail"], (method, path)


@pytest.mark.parametrize("headers", OURS)
def test_our_page_and_programs_are_answered(client, headers):
    assert client.get(f"{V1}/status", headers=headers).status_code == 200
    assert client.post(f"{V1}/unload", headers=headers).status_code == 200


def test_trusted_hosts(client, host):
    host.options.data["imagereward_trusted_hosts"] = "sd.example, Other.example:8443"
    for headers, status in (
        ({"Host": "sd.example", "Origin": "https://sd.example"}, 200),
        ({"Origin": "https://other.example:8443"}, 200),
        ({"Origin": "https://other.example"}, 403),
        ({"Host": "evil.example"}, 403),
    ):
        assert client.get(f"{V1}/status", headers=headers).status_code == status, headers


@pytest.mark.parametrize("flag", [{"listen": True}, {"share": True}, {"server_name": "0.0.0.0"}])
def test_a_server_for_others_answers_under_any_name_to_its_own_pages(client, host, flag):
    for name, value in flag.items():
        setattr(host.cmd_opts, name, value)
    for headers, status in (
        ({"Host": "sd.example"}, 200),
        ({"Host": "sd.example", "Origin": "https://sd.example"}, 200),
        ({"Host": "10.0.0.1:7860", "X-Forwarded-Host": "sd.example, inner", "Origin": "https://sd.example"}, 200),
        ({"Host": "sd.example:7860", "Origin": "http://sd.example:7860"}, 200),
        ({"Host": "sd.example", "Origin": "https://evil.example"}, 403),
        ({"Host": "sd.example", "Origin": "http://sd.example:9000"}, 403),
    ):
        assert client.get(f"{V1}/status", headers=headers).status_code == status, headers


@pytest.mark.parametrize(
    ("flag", "value", "origin", "status"),
    [
        ("cors_allow_origins", "https://a.example, https://b.example/", "https://b.example", 200),
        ("cors_allow_origins", "https://a.example", "https://a.example.evil.example", 403),
        ("cors_allow_origins", "*", "https://any.example", 200),
        ("cors_allow_origins_regex", r"https://\w+\.a\.example", "https://x.a.example", 200),
        ("cors_allow_origins_regex", r"https://\w+\.a\.example", "https://x.a.example.evil.example", 403),
        ("cors_allow_origins_regex", "(", "https://x.a.example", 403),
    ],
)
def test_origins_that_the_host_allows(client, host, flag, value, origin, status):
    setattr(host.cmd_opts, flag, value)
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    assert client.get(f"{V1}/status", headers=headers).status_code == status


def test_below_a_subpath(host):
    inner, outer = fastapi.FastAPI(), fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, inner)
    outer.mount("/sd", inner)
    client = testclient.TestClient(outer)
    answer = client.post(f"/sd{V1}/score", json={"images": [picture(60)], "prompt": "a cat"})
    assert answer.status_code == 200 and answer.json()["scores"] == [1.0]
    assert client.post(f"/sd{V1}/unload", headers={"Origin": "https://evil.example"}).status_code == 403


def test_accounts_that_cannot_be_read_let_nobody_in(client, host, tmp_path):
    host.cmd_opts.gradio_auth_path = str(tmp_path / "gone")
    assert client.get(f"{V1}/status").status_code == 503


# --- what they may send -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_only_json_is_read(client, loader, kind):
    """A page of another site can send these types without asking first; a Blob without a type sends none."""
    body = json.dumps({"scorer": "CLIP"}).encode()
    answer = client.post(f"{V1}/load", content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415 and "application/json" in answer.json()["detail"] and loader.loads == []
    assert client.post(
        f"{V1}/load", content=body, headers={"Content-Type": "application/json; charset=utf-8"}
    ).is_success


DEEP = b'{"scorer": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe{}",
        DEEP,
        b"[" * 1_000_000,
        b'{"scorer": NaN}',
        b'{"scorer": -Infinity}',
        b'{"scorer": 1e999}',
        b'{"scorer": ' + b"9" * 100_000 + b"}",
        b'{"scorer": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"scorer": [' + b"[]," * 5000 + b"[]]}",
        b"[]",
        b"null",
        b'"x"',
        b'{"scorer": null}',
        b'{"scorer": {"a": [1, 2]}}',
        b'{"scorer": 5e300}',
        b'{"scorer": "a\\u0000b"}',
    ],
    ids=range(18),
)
def test_no_body_is_a_server_error(client, body):
    client = testclient.TestClient(client.app, raise_server_exceptions=False)
    for route in ("load", "score", "rank"):
        answer = client.post(f"{V1}/{route}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (404, 422), (route, answer.status_code)
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("prompts", {"settings": {"a": "\ud800"}}),
        ("runs", {"settings": {"prompts": "a"}, "keep_going": "\ud800"}),
        ("runs", {"settings": "\ud800"}),
        ("runs", {"settings": ["\ud800"]}),
        ("runs", {"else": "\ud800"}),
        ("estimate", {"settings": {"\ud800": "\ud800"}}),
        ("estimate", {"settings": {"prompts": ["\udc00"]}}),
    ],
)
def test_half_a_surrogate_pair_is_no_server_error(client, host, route, body):
    """An answer that repeated it could not be encoded. The form's own settings are named by their field instead."""
    client = testclient.TestClient(client.app, raise_server_exceptions=False)
    headers = {"Content-Type": "application/json", "X-ImageReward-Token": host.part("guard").TOKEN}
    answer = client.post(f"{V1}/refl/{route}", content=json.dumps(body), headers=headers)
    assert answer.status_code == 422, answer.text


def test_bodies_are_limited_before_they_are_read(client, host, monkeypatch):
    monkeypatch.setattr(host.part("bodies"), "LIMIT", 1 << 20)
    sent = []

    def chunks(count):
        for _ in range(count):
            sent.append(1)
            yield b" " * (1 << 16)

    announced = client.post(
        f"{V1}/load",
        content=chunks(1),
        headers={"Content-Length": str(1 << 30), "Content-Type": "application/json"},
    )
    assert announced.status_code == 413 and "1 MB" in announced.json()["detail"]
    unannounced = client.post(f"{V1}/load", content=chunks(40), headers={"Content-Type": "application/json"})
    assert unannounced.status_code == 413
    assert client.post(f"{V1}/load", json={"scorer": "CLIP"}).status_code == 200
    assert host.part("bodies")._held == 0


def test_a_connection_that_ends_within_a_body_is_no_server_error(client, host):
    messages = [
        {"type": "http.request", "body": b'{"scorer"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    path = f"{V1}/load"
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "root_path": "",
        "raw_path": path.encode(), "query_string": b"", "headers": headers, "server": ("localhost", 80), "client": None,
    }  # fmt: skip
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    with ThreadPoolExecutor(1) as pool:  # the browser's tests leave an event loop running in this thread
        pool.submit(lambda: asyncio.run(client.app(scope, receive, send))).result()
    assert sent[0]["status"] == 400 and host.part("bodies")._held == 0


def test_large_bodies_wait_their_turn(client, host, monkeypatch):
    monkeypatch.setattr(host.part("bodies"), "HELD", 1000)
    assert client.post(f"{V1}/load", json={"scorer": "C" * 2000}).status_code == 503
    assert client.post(f"{V1}/load", json={"scorer": "CLIP"}).status_code == 200


@pytest.fixture
def reader(host, loader, monkeypatch):
    """A scorer on the core's own reading, with four cores and no more than 200 pixels for images that are read side by
    side. It scores as the stand-in does; `seen` has (thread, pixels, decoders of large images) of each image.
    """
    import torch

    core = host.part("core")
    base, preprocess = core.module("scorers.base"), core.module("preprocess")
    monkeypatch.setattr(core.module("pipeline"), "cores", lambda: 4)
    monkeypatch.setattr(preprocess, "LARGE", 200)
    busy = []

    class Reader(base.Scorer):
        seen: ClassVar[list] = []

        def pixels_from_image(self, image):
            large = image.width * image.height > 200
            busy.extend([1] * large)
            time.sleep(0.02)
            self.seen.append((threading.current_thread().name, image.size, len(busy)))
            del busy[: int(large)]
            return preprocess.unit_pixels(image.resize((2, 2)).convert("RGB"))

        def encode_images(self, pixels):
            return (pixels[:, :1, 0, 0] * 255 - 50) / 10

        def combine(self, prompts, images):
            return images[:, 0]

    loader.scorer = Reader(torch.nn.Linear(1, 1), core.registry.get("ImageReward-v1.0"), torch.device("cpu"))
    monkeypatch.setattr(type(loader), "__call__", lambda self, *args, **kwargs: self.scorer)
    return loader.scorer


def test_images_are_read_ahead_of_the_network_and_large_ones_alone(client, reader):
    """The pipeline of files reads what clients send: a decoder a core, and one large image in memory at a time."""
    reds, sizes = [60, 50, 55, 45, 70, 65], [(20, 20), (20, 20), (8, 8), (8, 8), (8, 8), (20, 20)]
    answer = client.post(
        f"{V1}/score", json={"images": [picture(r, s) for r, s in zip(reds, sizes)], "prompts": list("abcdef")}
    )
    assert answer.json()["scores"] == pytest.approx([1.0, 0.0, 0.5, -0.5, 2.0, 1.5], abs=1e-4)
    assert sorted(size for _, size, _ in reader.seen) == sorted(sizes)
    assert {name.rpartition("_")[0] for name, _, _ in reader.seen} == {"imagereward-ahead"}
    assert len({name for name, _, _ in reader.seen}) > 1 and max(large for _, _, large in reader.seen) == 1


def test_an_image_that_is_damaged_within_is_named(client, reader):
    whole = base64.b64decode(picture(60, (64, 64), "JPEG"))
    torn = base64.b64encode(whole[: len(whole) - 40]).decode()
    answer = client.post(f"{V1}/score", json={"images": [picture(), torn], "prompt": "x"})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("cannot read images[1]: ")


def test_only_pictures_reach_a_decoder(client, loader):
    """PostScript would be handed to another program, were one installed."""
    eps = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n").decode()
    answer = client.post(f"{V1}/score", json={"images": [eps], "prompt": "x"})
    assert answer.status_code == 422 and "not an image" in answer.json()["detail"] and loader.loads == []


def test_a_download_does_not_hold_the_generation_lock(client, host, loader, monkeypatch):
    """The host goes on generating while a scorer's files come; only the load itself waits for it."""
    lifecycle, seen = host.part("lifecycle"), []
    lock = host.part("host").generation_lock()

    def have_files(name, folder, progress=None):
        seen.append((name, lock.owner is None))

    monkeypatch.setattr(lifecycle, "have_files", have_files)
    monkeypatch.setattr(lifecycle, "load_scorer", loader)
    assert client.post(f"{V1}/load", json={"scorer": "CLIP"}).status_code == 200
    assert client.post(f"{V1}/score", json={"images": [picture()], "prompt": "x"}).status_code == 200
    assert seen == [("CLIP", True), ("ImageReward-v1.0", True)]


@pytest.mark.parametrize("before", [False, True])
def test_interrupt_ends_a_download_but_not_one_that_comes_after_it(client, host, loader, monkeypatch, before):
    """The host keeps the mark of an Interrupt until its next job; a download of later is not what it meant."""
    lifecycle = host.part("lifecycle")

    def have_files(name, folder, progress):
        progress(1 << 20, 4 << 20, "model.pt")
        assert host.state.textinfo == "ImageReward: downloading model.pt: 1 of 4 MB (25 %)"
        host.state.interrupted = True
        progress(2 << 20, 4 << 20, "model.pt")

    host.state.interrupted = before
    monkeypatch.setattr(lifecycle, "have_files", have_files)
    monkeypatch.setattr(lifecycle, "load_scorer", loader)
    answer = client.post(f"{V1}/load", json={"scorer": "CLIP"})
    assert answer.status_code == (200 if before else 503) and host.state.textinfo is None
    assert loader.loads == ([("CLIP", "cpu")] if before else [])
    if not before:
        assert "stopped by the user" in answer.json()["detail"]
