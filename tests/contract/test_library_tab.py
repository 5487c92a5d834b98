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


def shown(client, **question):
    """The pictures that a question names, in order, as the page shows them."""
    answer = client.get(f"{URL}/pictures", params=question)
    assert answer.status_code == 200, answer.text
    ids = answer.json()["ids"]
    if not ids:
        return []
    body = {"ids": ",".join(map(str, ids)), "by": question.get("by", "")}
    return client.post(f"{URL}/described", json=body).json()["pictures"]


def test_from_nothing_to_a_grid(tab, tmp_path):
    client, _, api = tab
    before = client.get(f"{URL}/state").json()
    assert not before["there"] and before["place"] == str(tmp_path / "imagereward-library.sqlite")
    assert not (tmp_path / "imagereward-library.sqlite").exists()  # looking makes no file
    state = read_all(client, api)
    assert state["pictures"] == 6 and state["scorers"] == ["ImageReward-v1.0"] and state["work"]["error"] == ""
    assert state["work"]["said"] == "6 pictures read, 0 known already, 0 not readable"
    assert state["made_with"] == {"checkpoint": [{"name": "jugg", "hash": "", "pictures": 6}], "lora": []}
    assert [(one["name"], one["pictures"]) for one in state["folders"]] == [("outputs", 6)]
    found = shown(client, by="ImageReward-v1.0")
    assert [picture["score"] for picture in found] == [2.0] * 3 + [0.5] * 3
    found = shown(client, by="ImageReward-v1.0", order="worst")
    assert [picture["score"] for picture in found] == [0.5] * 3 + [2.0] * 3
    found = shown(client, where='prompt~"fox 2"')
    assert {picture["name"] for picture in found} == {"2-0.png", "2-1.png"}
    assert (found[0]["folder"], found[0]["seed"], found[0]["sampler"]) == ("outputs", "1", "Euler a")
    number = found[0]["id"]
    answer = client.get(f"{URL}/thumbnail/{number}")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    answer = client.get(f"{URL}/image/{number}")
    assert answer.content == (tmp_path / "outputs" / found[0]["name"]).read_bytes()
    text = client.get(f"{URL}/infotext/{number}").json()["text"]
    assert text.startswith("a fox 2\nSteps: 20, Sampler: Euler a")
    bad = client.get(f"{URL}/pictures", params={"where": "nonsense ="})
    assert bad.status_code == 422 and bad.json()["detail"]


@pytest.mark.parametrize("folder", ["/\0", "a\0b"])
def test_a_folder_that_can_be_none_is_refused_by_name(tab, folder):
    client, _, api = tab
    read_all(client, api)
    for answer in (
        client.post(f"{URL}/read", json={"folder": folder}),
        client.get(f"{URL}/pictures", params={"folder": folder}),
    ):
        assert answer.status_code == 422 and "output folders" in answer.json()["detail"], answer.text


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
        for path in (f"thumbnail/{number}", f"image/{number}", f"infotext/{number}"):
            assert client.get(f"{URL}/{path}").status_code == 404
        root = {"root": str(tmp_path / "outputs")}
        for path, more in (("mark", {"mark": "keep"}), ("move", root), ("export", {}), ("described", {})):
            assert client.post(f"{URL}/{path}", json={"ids": str(number), **more}).status_code == 404, path
        body = {"winner": number, "loser": mine, "taste": "my-taste"}
        assert client.post(f"{URL}/duel", json=body).status_code == 404
    answer = client.get(f"{URL}/pictures").json()
    assert len(answer["ids"]) == 6 and not set(answer["ids"]) & set(numbers)
    exported = client.post(f"{URL}/export", json={"ids": ",".join(map(str, [mine, *numbers])), "form": "jsonl"})
    assert [json.loads(line)["file"] for line in exported.text.splitlines()] == [str(tmp_path / "outputs" / "0-0.png")]


def test_nobody_else_may_ask(tab):
    client, _, _ = tab
    for path in ("state", "work", "pictures", "pair?taste=x", "thumbnail/1", "image/1", "infotext/1", "compare"):
        assert client.get(f"{URL}/{path}", headers={"X-ImageReward-Token": "wrong"}).status_code == 401
        assert client.get(f"{URL}/{path}", headers={"Origin": "http://evil.example"}).status_code == 403
    for path in [
        "described",
        "mark",
        "move",
        "export",
        "score",
        "takeback",
        "read",
        "duel",
        "undo",
        "fit",
        "plan",
        "make",
    ]:
        assert client.post(f"{URL}/{path}", json={}, headers={"X-ImageReward-Token": ""}).status_code == 401


def test_marks_of_many_and_undo(tab):
    client, _, api = tab
    read_all(client, api)
    ids = client.get(f"{URL}/pictures").json()["ids"]
    some = ",".join(map(str, ids[:3]))
    first = client.post(f"{URL}/mark", json={"ids": some, "mark": "keep", "stars": 4}).json()
    assert first["changed"] == 3 and first["undo"]["what"] == "keep, ★★★★: 3 pictures"
    assert {picture["id"] for picture in shown(client, where="stars>=4 mark=keep")} == set(ids[:3])
    second = client.post(f"{URL}/mark", json={"ids": str(ids[0]), "mark": ""}).json()
    assert shown(client, where="mark=keep stars=4") and len(shown(client, where="mark=none stars=4")) == 1
    client.post(f"{URL}/mark", json={"ids": str(ids[1]), "stars": 0})
    assert [picture["stars"] for picture in shown(client, by="stars")] == [4, 4, None, None, None, None]
    # the last first; what is older than it cannot be undone before it
    answer = client.post(f"{URL}/takeback", json={"id": second["undo"]["id"]})
    assert answer.status_code == 422 and "something else was done since" in answer.json()["detail"]
    while undo := client.get(f"{URL}/work").json()["undo"]:
        said = client.post(f"{URL}/takeback", json={"id": undo["id"]}).json()["said"]
        assert said.startswith(f"undone: {undo['what']}")
    assert shown(client, where="stars>=0 or mark!=none") == []
    for bad in ({"stars": 9}, {"mark": "love"}, {"ids": "1;2"}, {"ids": "1,,2"}, {"ids": "9" * 17}):
        assert client.post(f"{URL}/mark", json={"ids": some, **bad}).status_code == 422, bad


def test_moved_and_moved_back(tab, tmp_path):
    client, _, api = tab
    outputs = tmp_path / "outputs"
    (outputs / "0-0.txt").write_text("a fox 0")
    read_all(client, api)
    ids = [picture["id"] for picture in shown(client, where='prompt="a fox 0"')]
    before = (outputs / "0-0.png").read_bytes()
    body = {"ids": ",".join(map(str, ids)), "root": str(outputs), "name": "best/of all"}
    assert client.post(f"{URL}/move", json=body).json()["said"] == "2 pictures moved to outputs/best/of all"
    best = outputs / "best" / "of all"
    assert sorted(os.listdir(best)) == ["0-0.png", "0-0.txt", "0-1.png"] and not (outputs / "0-0.png").exists()
    assert len(shown(client, folder=str(outputs / "best"))) == 2
    assert client.get(f"{URL}/image/{ids[0]}").status_code == 200
    state = client.get(f"{URL}/state").json()
    assert {one["name"]: one["pictures"] for one in state["folders"]} == {"outputs": 4, "outputs/best/of all": 2}
    # what has taken the place meanwhile stays
    paint(outputs / "0-1.png", (1, 2, 3), "another")
    said = client.post(f"{URL}/takeback", json={"id": state["undo"]["id"]}).json()["said"]
    assert said == "undone: moved 2 pictures to outputs/best/of all (2 pictures moved back)"
    assert (outputs / "0-0.png").read_bytes() == before and (outputs / "0-0.txt").read_text() == "a fox 0"
    assert (outputs / "0-1-1.png").is_file() and os.listdir(best) == []
    assert client.get(f"{URL}/state").json()["undo"] is None


@pytest.mark.parametrize("name", ["../private", "a/../../private", "a/./b", "C:x", " a", "a "])
def test_nothing_is_moved_elsewhere(tab, tmp_path, name):
    client, _, api = tab
    read_all(client, api)
    one = str(client.get(f"{URL}/pictures").json()["ids"][0])
    body = {"ids": one, "root": str(tmp_path / "outputs"), "name": name}
    assert client.post(f"{URL}/move", json=body).status_code == 422
    for root in (str(tmp_path), str(tmp_path / "outputs-old"), "outputs", ""):
        assert client.post(f"{URL}/move", json={**body, "root": root, "name": "x"}).status_code == 422, root
    os.symlink(tmp_path, tmp_path / "outputs" / "out")
    assert client.post(f"{URL}/move", json={**body, "name": "out/private"}).status_code == 422
    assert not (tmp_path / "private").exists() and len(os.listdir(tmp_path / "outputs")) == 7


def test_more_folders_by_the_settings(tab, tmp_path):
    client, host, api = tab
    mine = paint(tmp_path / "mine" / "a.png", (9, 9, 9), "mine")
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        number = remember_now(library, Record(mine))
    assert client.get(f"{URL}/image/{number}").status_code == 404
    host.options.data["imagereward_library_folders"] = f"; {tmp_path / 'mine'} ;not there"
    state = read_all(client, api)
    assert client.get(f"{URL}/image/{number}").status_code == 200
    assert state["pictures"] == 7 and [root["name"] for root in state["roots"]] == ["outputs", "mine"]
    body = {"ids": str(number), "root": str(tmp_path / "outputs")}
    assert client.post(f"{URL}/move", json=body).json()["error"] == ""
    assert (tmp_path / "outputs" / "a.png").is_file() and os.listdir(tmp_path / "mine") == []


def test_ranks(tab, tmp_path):
    """With 60 pictures of one checkpoint and 30 others a rank is among those of the same checkpoint, where enough."""
    client, _, _ = tab
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        for index in range(90):
            checkpoint = "a" if index < 60 else "b"
            path = paint(tmp_path / "outputs" / "many" / f"{index:02}.png", (index, 7, 7), f"p{index}")
            score = index if checkpoint == "a" else 100 + index
            made = Made(prompt=f"p{index}", checkpoint=checkpoint)
            remember_now(library, Record(path, scores=(Score("x", score),), made=made))
    ranked = shown(client, by="x", order="rank")
    assert [picture["percent"] for picture in ranked] == sorted((p["percent"] for p in ranked), reverse=True)
    assert {picture["checkpoint"] for picture in ranked[:4]} == {"a", "b"}
    assert ranked[0]["percentile"].startswith("better than 98 % of your")
    best = shown(client, by="x", least=95)
    assert best and all(picture["percent"] >= 95 for picture in best) and best[0]["score"] == 189
    assert client.get(f"{URL}/pictures", params={"by": "x", "least": 101}).status_code == 422


def test_a_table_of_what_is_chosen(tab):
    client, _, api = tab
    read_all(client, api)
    ids = [picture["id"] for picture in shown(client, where='prompt="a fox 1"')]
    answer = client.post(f"{URL}/export", json={"ids": ",".join(map(str, ids)), "form": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert 'filename="imagereward-library.csv"' in answer.headers["content-disposition"]
    lines = answer.text.splitlines()
    assert len(lines) == 3 and lines[0].startswith("path,missing") and "score: ImageReward-v1.0" in lines[0]
    assert client.post(f"{URL}/export", json={"ids": "1", "form": "parquet"}).status_code == 422


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_numbers_that_no_library_holds_are_refused(tab, number):
    client, _, api = tab
    read_all(client, api)
    for path in (f"thumbnail/{number}", f"image/{number}", f"infotext/{number}", f"pictures?least={number}"):
        assert client.get(f"{URL}/{path}").status_code == 422, path
    for path, body in (
        ("mark", {"ids": "1", "stars": number}),
        ("takeback", {"id": number}),
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
    assert taste["base"]["name"].startswith("tiny [") and taste["learnt_on"] == "tiny.safetensors"
    assert state["loadable"][:2] == ["my-taste", "tiny.safetensors"]  # the others would have to be downloaded
    assert client.post(f"{URL}/fit", json={"taste": "another", "scorer": "my-taste"}).status_code == 422
    # a taste never takes the place of a scorer that is not here by itself
    assert host.part("scorer_list").preferred("ImageReward-v1.0")[0] == "tiny.safetensors"
    assert host.part("refl_tab.rewards").default() == "tiny.safetensors"


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


def test_duels_of_a_folder_and_of_the_last_job(tab, tmp_path):
    """What a job saves is asked for without anything having been scored or read before."""
    client, host, api = tab
    read_all(client, api)
    ask = {"taste": "my-taste"}
    for number in range(2):
        paint(tmp_path / "outputs" / "new" / f"{number}.png", (200 * number, 9, 90), "in a folder")
    folder = str(tmp_path / "outputs" / "new")
    assert client.get(f"{URL}/pair", params={**ask, "folder": folder}).json() == {"pair": None}
    assert client.post(f"{URL}/read", json={"folder": folder}).json()["said"].startswith("2 pictures read")
    pair = client.get(f"{URL}/pair", params={**ask, "folder": folder}).json()["pair"]
    assert {picture["prompt"] for picture in pair} == {"in a folder"}
    for elsewhere in (str(tmp_path), "outputs", str(tmp_path / "outputs" / ".." / "private")):
        assert client.get(f"{URL}/pair", params={**ask, "folder": elsewhere}).status_code == 422
        assert client.post(f"{URL}/read", json={"folder": elsewhere}).status_code == 422

    assert client.get(f"{URL}/pair", params={**ask, "last": True}).json() == {"pair": None}
    host.options.data["outdir_img2img_samples"] = str(tmp_path / "outputs" / "images")
    host.txt2img(prompt="a job before", batch_size=2, seed=10)
    host.state.job_timestamp = "20260101000001"
    host.txt2img(prompt="the last job", batch_size=3, n_iter=2, seed=97)
    assert client.get(f"{URL}/state").json()["last_job"] == 6  # and no grid
    assert client.post(f"{URL}/read", json={"last": True}).json()["said"].startswith("6 pictures read")
    pair = client.get(f"{URL}/pair", params={**ask, "last": True}).json()["pair"]
    assert {picture["prompt"] for picture in pair} == {"the last job"}


@pytest.fixture
def history(tab, tmp_path):
    """(client, host, api, scorer): a library of 12 prompts with two checkpoints; the host has these, and the scorer."""
    import shutil
    import sys
    import types

    from .fakehost import EXTENSION

    client, host, api = tab
    weights = host.part("host").models_dir() / "tiny.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXTENSION / "smallworld" / "weights" / "tiny-imagereward.safetensors", weights)
    scorer = host.part("judges").stored_name("tiny.safetensors", weights.parent)
    models = types.ModuleType("modules.sd_models")
    models.checkpoint_aliases = {name: types.SimpleNamespace(title=f"{name}.safetensors") for name in ("alpha", "beta")}
    sys.modules["modules.sd_models"] = models
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        for prompt in range(12):
            for level, name in enumerate(("alpha", "beta")):
                path = paint(tmp_path / "outputs" / "h" / f"{prompt}-{name}.png", (20 * prompt, 50 * level, 9), "")
                made = Made(f"prompt {prompt}", "blurry", prompt, "Euler a", 20, 7.0, name)
                score = Score(scorer, prompt / 10 + level + (prompt * 7 % 5) * 0.1 * level)
                remember_now(library, Record(path, scores=(score,), made=made))
    yield client, host, api, scorer
    del sys.modules["modules.sd_models"]


def test_the_leaderboard(history):
    client, _, _, scorer = history
    found = client.get(f"{URL}/compare", params={"by": "checkpoint", "scorer": scorer}).json()
    assert (found["source"], found["images"], found["prompts"]) == ("from your history", 24, 12)
    assert [level["level"] for level in found["levels"]] == ["beta", "alpha"]
    assert found["levels"][0]["svg"].startswith("<svg xmlns")
    (sentence,) = found["sentences"]
    assert sentence["claimed"] and sentence["text"] == "beta scores 1.18 higher than alpha (from your history)"
    assert client.get(f"{URL}/compare", params={"by": "sampler"}).json()["levels"] == []
    assert client.get(f"{URL}/compare", params={"by": "moon"}).status_code == 422
    found = client.get(f"{URL}/compare", params={"planned": True}).json()
    assert found["source"] == "planned pairs" and found["levels"] == [] == found["sentences"]


def test_missing_pairs_are_made_by_the_host(history, tmp_path):
    """The same prompts and seeds with both checkpoints, all of one first; then the claim stands without a label."""
    client, host, api, scorer = history
    body = {"by": "checkpoint", "scorer": scorer, "levels": ["alpha", "beta"]}
    plan = client.post(f"{URL}/plan", json=body).json()
    assert (plan["prompts"], plan["missing"], plan["made"]) == (12, 24, 0)
    assert {json.loads(line)["checkpoint"] for line in plan["text"].splitlines()} == {"alpha", "beta"}
    assert client.post(f"{URL}/make", json=body).status_code == 200
    api.work.wait(60)
    state = client.get(f"{URL}/state").json()["work"]
    assert (state["error"], state["said"]) == ("", "24 of 24 pictures made and scored")
    models = [made["model"] for made in host.generated]
    assert models == ["alpha"] * 12 + ["beta"] * 12
    pairs = {
        name: {(made["prompt"], made["seed"]) for made in host.generated if made["model"] == name} for name in models
    }
    assert pairs["alpha"] == pairs["beta"] and len(pairs["alpha"]) == 12
    again = client.post(f"{URL}/plan", json=body).json()
    assert (again["missing"], again["made"]) == (0, 24)
    found = client.get(f"{URL}/compare", params={"scorer": scorer, "planned": True}).json()
    assert (found["source"], found["images"], found["prompts"]) == ("planned pairs", 24, 12)


def test_pairs_go_on_where_they_were_interrupted(history):
    client, host, api, scorer = history
    body = {"by": "checkpoint", "scorer": scorer, "levels": ["alpha", "beta"]}

    def interrupt(p, n):
        host.state.interrupted = len(host.generated) == 2

    host.on_sample.append(interrupt)
    client.post(f"{URL}/make", json=body)
    api.work.wait(60)
    said = client.get(f"{URL}/work").json()["work"]["said"]
    assert said == "interrupted: 2 of 24 pictures made and scored; press again to make the rest"
    host.on_sample.clear()
    host.state.interrupted = False
    assert client.post(f"{URL}/plan", json=body).json()["missing"] == 22


def test_what_cannot_be_made_is_said_before(history, tmp_path):
    import sys

    client, host, _, scorer = history
    body = {"by": "checkpoint", "scorer": scorer, "levels": ["alpha", "beta"]}
    del sys.modules["modules.sd_models"].checkpoint_aliases["beta"]
    answer = client.post(f"{URL}/make", json=body)
    assert answer.status_code == 422 and answer.json()["detail"] == "this WebUI has no checkpoint beta"
    (host.part("host").models_dir() / "tiny.safetensors").unlink()
    answer = client.post(f"{URL}/make", json=body)
    assert answer.status_code == 422 and "could not be scored" in answer.json()["detail"]
    assert client.post(f"{URL}/make", json={**body, "levels": ["gamma", "alpha"]}).status_code == 422
    assert host.generated == []


def test_the_grid_by_a_taste_after_duels(tab):
    """Choose, learn, score by it, and the grid is in its order; asked again, nothing is scored twice."""
    import shutil

    from .fakehost import EXTENSION

    client, host, api = tab
    weights = host.part("host").models_dir() / "tiny.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXTENSION / "smallworld" / "weights" / "tiny-imagereward.safetensors", weights)
    read_all(client, api)
    while pair := client.get(f"{URL}/pair", params={"taste": "my-taste"}).json()["pair"]:
        body = {"winner": pair[0]["id"], "loser": pair[1]["id"], "taste": "my-taste"}
        client.post(f"{URL}/duel", json=body)
    client.post(f"{URL}/fit", json={"taste": "my-taste", "scorer": "tiny.safetensors"})
    api.work.wait(60)
    ids = ",".join(map(str, client.get(f"{URL}/pictures").json()["ids"]))
    assert client.post(f"{URL}/score", json={"ids": ids, "scorer": "moon"}).status_code == 422
    for said in ("6 scored by my-taste", "0 scored by my-taste, 6 had a score already"):
        assert client.post(f"{URL}/score", json={"ids": ids, "scorer": "my-taste"}).status_code == 200
        api.work.wait(60)
        state = client.get(f"{URL}/state").json()
        assert (state["work"]["error"], state["work"]["said"]) == ("", said)
    name = next(scorer for scorer in state["scorers"] if scorer.startswith("my-taste"))
    scores = [picture["score"] for picture in shown(client, by=name)]
    assert len(scores) == 6 and scores == sorted(scores, reverse=True)
