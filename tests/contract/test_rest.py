"""The REST routes: scores, ranks, accounts, and what is refused."""

import base64
import io

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
