"""The library tab's server side: what is shown, what is not, duels, and a taste learnt from them."""

import json
import os

import pytest
from PIL import Image, PngImagePlugin

from imagereward_core.library import Record, find, marks, open_library, remember_now
from imagereward_core.library.records import Made, Score

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

URL = "/imagereward/v1/library"


def paint(path, colour, prompt):
    """A picture with an infotext and a score."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngImagePlugin.PngInfo()
    text = (
        f"{prompt}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: jugg, ImageReward: {colour[0] / 100:.4f}"
    )
    info.add_text("parameters", text + ", ImageReward model: ImageReward-v1.0")
    Image.new("RGB", (64, 48), colour).save(path, pnginfo=info)
    return path


@pytest.fixture
def tab(host, tmp_path):
    """(client with the page's token, the host, the library tab's api); six pictures of three prompts on disk."""
    host.options.data["outdir_txt2img_samples"] = str(tmp_path / "outputs")
    for prompt in range(3):
        for level in range(2):
            paint(
                tmp_path / "outputs" / f"{prompt}-{level}.png", (50 + 150 * level, 60, 40 * prompt), f"a fox {prompt}"
            )
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    api = host.part("library_tab.api")
    yield testclient.TestClient(app, headers={"X-ImageReward-Token": host.part("guard").TOKEN}), host, api
    api.work.wait(30)


def read_all(client, api):
    assert client.post(f"{URL}/read", json={}).status_code == 200
    api.work.wait(30)
    return client.get(f"{URL}/state").json()


def test_from_nothing_to_a_grid(tab, tmp_path):
    client, _, api = tab
    before = client.get(f"{URL}/state").json()
    assert not before["there"] and before["place"] == str(tmp_path / "imagereward-library.sqlite")
    assert not (tmp_path / "imagereward-library.sqlite").exists()  # looking makes no file
    state = read_all(client, api)
    assert state["pictures"] == 6 and state["scorers"] == ["ImageReward-v1.0"] and state["work"]["error"] == ""
    assert state["work"]["said"] == "6 pictures read, 0 known already, 0 not readable"
    found = client.get(f"{URL}/pictures", params={"by": "ImageReward-v1.0"}).json()
    assert [picture["score"] for picture in found["pictures"]] == [2.0] * 3 + [0.5] * 3 and not found["more"]
    found = client.get(f"{URL}/pictures", params={"where": 'prompt~"fox 2"'}).json()
    assert {picture["name"] for picture in found["pictures"]} == {"2-0.png", "2-1.png"}
    number = found["pictures"][0]["id"]
    answer = client.get(f"{URL}/thumbnail/{number}")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    answer = client.get(f"{URL}/image/{number}")
    assert answer.content == (tmp_path / "outputs" / found["pictures"][0]["name"]).read_bytes()
    bad = client.get(f"{URL}/pictures", params={"where": "nonsense ="})
    assert bad.status_code == 422 and bad.json()["detail"]


def test_only_the_output_folders_are_shown(tab, tmp_path):
    """Whatever else the library knows: by its path, by a link in an output folder, by its number."""
    client, _, api = tab
    read_all(client, api)
    outside = paint(tmp_path / "private" / "x.png", (255, 0, 0), "a fox 0")
    near = paint(tmp_path / "outputs-old" / "x.png", (255, 1, 0), "a fox 0")
    link = tmp_path / "outputs" / "link.png"
    os.symlink(paint(tmp_path / "private" / "y.png", (255, 2, 0), "a fox 0"), link)
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        numbers = [remember_now(library, Record(path)) for path in (outside, near, link)]
        mine = find.newest(library, limit=None)[-1].id
    state = client.get(f"{URL}/state").json()
    assert state["pictures"] == 7  # the link's own path lies in the folder; what it leads to does not
    for number in (*numbers, 999):
        for path in (f"thumbnail/{number}", f"image/{number}"):
            assert client.get(f"{URL}/{path}").status_code == 404
        assert client.post(f"{URL}/mark", json={"id": number, "mark": "keep"}).status_code == 404
        body = {"winner": number, "loser": mine, "taste": "my-taste"}
        assert client.post(f"{URL}/duel", json=body).status_code == 404
    shown = {picture["id"] for picture in client.get(f"{URL}/pictures").json()["pictures"]}
    assert not shown & set(numbers)


def test_nobody_else_may_ask(tab):
    client, _, _ = tab
    for path in ("state", "pictures", "pair?taste=x", "thumbnail/1", "image/1"):
        assert client.get(f"{URL}/{path}", headers={"X-ImageReward-Token": "wrong"}).status_code == 401
        assert client.get(f"{URL}/{path}", headers={"Origin": "http://evil.example"}).status_code == 403
    for path in ("mark", "read", "duel", "undo", "fit"):
        assert client.post(f"{URL}/{path}", json={}, headers={"X-ImageReward-Token": ""}).status_code == 401


def test_marks(tab, tmp_path):
    client, _, api = tab
    read_all(client, api)
    number = client.get(f"{URL}/pictures").json()["pictures"][0]["id"]
    assert client.post(f"{URL}/mark", json={"id": number, "mark": "keep", "stars": 4}).json()["mark"] == "keep"
    found = client.get(f"{URL}/pictures", params={"where": "stars>=4 mark=keep"}).json()["pictures"]
    assert [picture["id"] for picture in found] == [number]
    assert client.post(f"{URL}/mark", json={"id": number}).json()["mark"] is None
    assert client.post(f"{URL}/mark", json={"id": number, "stars": 9}).status_code == 422


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_numbers_that_no_library_holds_are_refused(tab, number):
    client, _, api = tab
    read_all(client, api)
    for path in (f"thumbnail/{number}", f"image/{number}", f"pictures?offset={number}"):
        assert client.get(f"{URL}/{path}").status_code == 422, path
    for path, body in (
        ("mark", {"id": number}),
        ("mark", {"id": 1, "stars": number}),
        ("duel", {"winner": number, "loser": 1, "taste": "my-taste"}),
        ("undo", {"id": number}),
    ):
        assert client.post(f"{URL}/{path}", json=body).status_code == 422, path


def test_duels_until_none_is_left_and_undo(tab, tmp_path):
    client, _, api = tab
    read_all(client, api)
    seen, last = set(), None
    for _ in range(3):
        pair = client.get(f"{URL}/pair", params={"taste": "my-taste"}).json()["pair"]
        assert pair[0]["prompt"] == pair[1]["prompt"] and pair[0]["id"] != pair[1]["id"]
        seen.add(pair[0]["prompt"])
        body = {"winner": pair[0]["id"], "loser": pair[1]["id"], "taste": "my-taste"}
        last = client.post(f"{URL}/duel", json=body).json()
    assert len(seen) == 3 and last["duels"] == 3
    assert client.get(f"{URL}/pair", params={"taste": "my-taste"}).json() == {"pair": None}
    assert client.get(f"{URL}/pair", params={"taste": "another"}).json()["pair"]
    assert client.post(f"{URL}/undo", json={"id": last["id"]}).json() == {"removed": True}
    assert client.get(f"{URL}/pair", params={"taste": "my-taste"}).json()["pair"]
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        assert len(marks.duels(library)) == 2
    assert client.get(f"{URL}/pair", params={"taste": "../x"}).status_code == 422
    assert client.post(f"{URL}/duel", json={**body, "verdict": "draw"}).status_code == 422


def test_a_taste_is_learnt(tab, tmp_path, monkeypatch):
    import shutil

    from .fakehost import EXTENSION

    client, host, api = tab
    weights = host.part("host").models_dir() / "tiny.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXTENSION / "smallworld" / "weights" / "tiny-imagereward.safetensors", weights)
    read_all(client, api)
    pair = client.get(f"{URL}/pair", params={"taste": "my-taste"}).json()["pair"]
    client.post(f"{URL}/duel", json={"winner": pair[0]["id"], "loser": pair[1]["id"], "taste": "my-taste"})
    assert client.post(f"{URL}/fit", json={"taste": "my-taste", "scorer": "none"}).status_code == 422
    assert client.post(f"{URL}/fit", json={"taste": "CLIP", "scorer": "tiny.safetensors"}).status_code == 422
    answer = client.post(f"{URL}/fit", json={"taste": "my-taste", "scorer": "tiny.safetensors"})
    assert answer.status_code == 200 and answer.json()["what"] == "learning my-taste"
    api.work.wait(60)
    state = client.get(f"{URL}/state").json()
    assert state["work"]["error"] == "" and state["work"]["said"] == "my-taste: not enough yet"
    (taste,) = state["tastes"]
    assert (taste["fitted"], taste["duels"], taste["more"]) == (1, 1, 199) and "my-taste" in state["loadable"]
    assert taste["base"]["name"].startswith("tiny [")
    assert client.post(f"{URL}/fit", json={"taste": "another", "scorer": "my-taste"}).status_code == 422


def test_one_thing_at_a_time_and_what_fails_is_said(tab):
    import threading

    client, _, api = tab
    go = threading.Event()
    api.work.start("something", lambda progress: go.wait(20) and 1 / 0)
    answer = client.post(f"{URL}/read", json={})
    assert answer.status_code == 429 and "something is under way" in answer.json()["detail"]
    go.set()
    api.work.wait(20)
    assert client.get(f"{URL}/state").json()["work"]["error"] == "ZeroDivisionError: division by zero"
    assert json.dumps(client.get(f"{URL}/state").json())


def test_pictures_that_look_the_same_are_no_duel(tab, tmp_path):
    client, host, api = tab
    place = host.part("host").library_place()
    for number in range(2):
        path = paint(tmp_path / "outputs" / "same" / f"{number}.png", (99, 99, 99 + number), "twins")
        with open_library(place) as library:
            remember_now(library, Record(path, scores=(Score("x", 1.0),), made=Made(prompt="twins")))
    assert client.get(f"{URL}/pair", params={"taste": "my-taste", "where": 'prompt="twins"'}).json() == {"pair": None}
