"""What the WebUI remembers of scored pictures, when it does not, and what it says of their scores."""

import base64
import io
import json
import logging
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagereward_core.library import Record, Score, find, open_library, remember_now
from imagereward_core.library.features import features_of
from imagereward_core.library.meaning import keep_k
from imagereward_core.library.records import EMBEDDING, Made

from .fakehost import EXTENSION
from .test_library_tab import URL, tab  # noqa: F401 - a fixture
from .test_panel import CONSTANTS, THREE, loads  # noqa: F401 - a fixture
from .test_sessions import LIMITS, SCORERS, from_file, plot  # noqa: F401 - fixtures
from .test_xyz_and_extras import IMAGES, run_extras  # noqa: F401 - a fixture

JUGG = {"sd_model_name": "jugg", "sd_model_hash": "ABCDEF1234"}


@pytest.fixture
def memory(host):
    host.options.data["imagereward_remember"] = True
    return host.part("remember").memory


@pytest.fixture
def place(tmp_path):
    return tmp_path / "imagereward-library.sqlite"


def kept(memory):
    """{file name: picture} of all that was remembered, when the background has caught up."""
    assert memory.recorder().flush(60)
    if not memory.recorder().place.exists():
        return {}
    with open_library(memory.recorder().place) as library:
        return {os.path.basename(picture.path): picture for picture in find.newest(library, limit=None)}


def notes_of(processed):
    return processed.extra_generation_params["ImageReward result"]["notes"]


# --- in -------------------------------------------------------------------------------------------


def test_all_that_is_known_of_a_picture(host, generate, memory, place):
    prompt = "a (red:1.2) cat, <lora:fur:0.8>"
    processed = generate(seeds=2, batch_size=1, start=160, prompt=prompt, negative_prompt="dull", **JUGG)
    found = kept(memory)
    assert set(found) == {"160.png", "161.png"}
    picture = found["161.png"]
    assert picture.path == str(host.folder / "outputs" / "images" / "161.png")
    assert picture.scores == pytest.approx({"ImageReward-v1.0": 1.1}) and (picture.width, picture.height) == (8, 8)
    assert picture.made == Made(prompt, "dull", 161, "Euler", 20, 7.0, "jugg", "abcdef1234", (("fur", 0.8),), "fake")
    (notice,) = notes_of(processed)
    assert "remembered on this machine alone" in notice and str(place) in notice and "switches it off" in notice
    assert f"ImageReward: {notice}\n" in processed.comments


def test_the_user_is_told_once(host, generate, memory, place):
    assert len(notes_of(generate(seeds=1, batch_size=1, start=160))) == 1
    kept(memory)
    assert notes_of(generate(seeds=1, batch_size=1, start=161)) == []
    memory._forgotten()  # the next start of the WebUI: the library itself knows that it was told
    memory.prepare(["ImageReward-v1.0"])
    assert memory.recorder().flush(60) and memory.announced
    assert notes_of(generate(seeds=1, batch_size=1, start=162)) == []
    assert set(kept(memory)) == {"160.png", "161.png", "162.png"}


def test_off_by_the_setting_nothing_is_made(host, generate, memory, place):
    host.options.data["imagereward_remember"] = False
    assert notes_of(generate(seeds=2)) == []
    assert memory.recorder().flush(10) and not place.exists()


@pytest.mark.parametrize(
    ("options", "remembers"),
    [
        ({"gradio_auth": "ann:x"}, True),
        ({"gradio_auth": "ann:x", "api_auth": "ann:y"}, True),
        ({"gradio_auth": "ann:x,bob:y"}, False),
        ({"gradio_auth": "ann:x", "api_auth": "script:y"}, False),
        ({"gradio_auth_path": "nowhere.txt"}, False),
    ],
)
def test_off_where_several_people_share_the_host(host, generate, memory, place, options, remembers):
    vars(host.cmd_opts).update(options)
    generate(seeds=1, batch_size=1)
    assert bool(kept(memory)) is remembers and place.exists() is remembers


def test_unsaved_and_unscored_pictures_never(host, generate, memory, place, loader):
    generate(seeds=2, do_not_save_samples=True)
    host.txt2img(seed=148)  # accordion off
    loader.failure = RuntimeError("no weights")
    host.part("lifecycle").holder.unload()
    generate(seeds=1, batch_size=1, start=170)
    assert kept(memory) == {} and not place.exists()


def test_rest_never(host, memory, place):
    fastapi, testclient = pytest.importorskip("fastapi"), pytest.importorskip("fastapi.testclient")
    from .test_rest import picture

    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    body = {"images": [picture()], "prompt": "a cat"}
    assert testclient.TestClient(app).post("/imagereward/v1/score", json=body).status_code == 200
    assert memory.recorder().flush(10) and not place.exists()


@pytest.mark.parametrize(("low", "there"), [("move to subfolder", True), ("don't save", False), ("keep", True)])
def test_files_that_are_moved_or_removed(host, generate, memory, low, there):
    generate(seeds=4, accordion={"filter_by": "top k", "top_k": 1, "low_images": low})
    paths = {name: picture.path for name, picture in kept(memory).items()}
    assert set(paths) == ({"148.png", "149.png", "150.png", "151.png"} if there else {"151.png"})
    assert all(os.path.isfile(path) for path in paths.values())
    assert any("low-score" in path for path in paths.values()) is (low == "move to subfolder")


def test_prompts_from_file_over_all_waits_for_where_files_stay(from_file, memory):  # noqa: F811
    processed = from_file(filter_by="top k", top_k=2, over="all prompts", low_images="move to subfolder")
    pictures = kept(memory).values()
    assert len(pictures) == 6 and all(os.path.isfile(picture.path) for picture in pictures)
    assert sum("low-score" in picture.path for picture in pictures) == 4
    assert sum("remembered on this machine" in note for note in notes_of(processed)) == 1


def test_a_numbered_file_is_not_taken_for_the_older_one(host, generate, memory):
    """With "add number suffix" the host reports the name it wanted."""
    host.options.save_images_replace_action = "Add number suffix"
    generate(seeds=1, batch_size=1, start=160, prompt="first")
    generate(seeds=1, batch_size=1, start=160, prompt="again")
    prompts = {name: picture.made.prompt for name, picture in kept(memory).items()}
    assert prompts == {"160.png": "first", "160-1.png": "again"}
    host.options.save_images_replace_action = "Replace"
    generate(seeds=1, batch_size=1, start=161)
    generate(seeds=1, batch_size=1, start=161)
    assert "161-1.png" not in kept(memory)


def test_a_file_that_was_overwritten_since_takes_no_score(host, generate, memory, place):
    """The background is late; meanwhile another picture came to lie there."""
    open_library(place).close()
    generate(seeds=1, batch_size=1, start=160)  # the user is told
    kept(memory)
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    host.txt2img(seed=161, accordion={})
    host.txt2img(seed=162, accordion={}, prompt="first")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(host.folder / "outputs" / "images" / "162.png")
    other.execute("ROLLBACK")
    other.close()
    assert set(kept(memory)) == {"160.png", "161.png"}


def test_a_program_that_marks_the_file_changes_nothing(host, generate, memory, place):
    """Another extension's callback writes into the file, and leaves picture and infotext."""
    host.callbacks.lists["on_image_saved"].append(lambda params: rewrite(params.filename))
    generate(seeds=2, batch_size=1, start=160)
    assert set(kept(memory)) == {"160.png", "161.png"}


def rewrite(path):
    from PIL import PngImagePlugin

    with Image.open(path) as image:
        image.load()
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", image.info["parameters"])
        info.add_text("mark", "x" * 50)
        image.save(path, pnginfo=info)


def test_what_the_infotext_leaves_out_is_known_from_the_job(host, generate, memory):
    host.options.data["enable_pnginfo"] = False
    generate(seeds=1, batch_size=1, start=160, prompt="a cat", **JUGG)
    (picture,) = kept(memory).values()
    assert picture.made.prompt == "a cat" and picture.made.seed == 160 and picture.made.checkpoint == "jugg"


# --- the networks' features ----------------------------------------------------------------------


def test_features_come_from_the_forward_that_scores(host, generate, memory, tmp_path):
    """By the real loader; scores are the same with and without, and a taste learns without loading the scorer."""
    import shutil

    lifecycle = host.part("lifecycle")
    folder = host.part("host").models_dir()
    folder.mkdir(parents=True)
    shutil.copy(pathlib.Path(EXTENSION) / "smallworld" / "weights" / "tiny-imagereward.safetensors", folder)
    name = "tiny-imagereward.safetensors"
    lifecycle.holder._load = lifecycle.load_scorer
    host.options.data["imagereward_remember"] = False
    before = generate(seeds=2, batch_size=1, start=160, accordion={"scorer": name})
    host.options.data["imagereward_remember"] = True
    after = generate(seeds=2, batch_size=1, start=160, accordion={"scorer": name})
    results = [one.extra_generation_params["ImageReward result"]["scores"] for one in (before, after)]
    assert results[0] == results[1]
    numbers = [picture.id for picture in kept(memory).values()]
    stored = host.part("judges").stored_name(name, folder)
    scorer = lifecycle.holder._get(name)
    with open_library(memory.recorder().place) as library:
        found = features_of(library, numbers, stored, EMBEDDING)
        pictures = {number: find.by_id(library, number) for number in numbers}
    assert sorted(found) == sorted(numbers)
    from imagereward_core.taste.learning import embedded

    for number, features in found.items():
        image = Image.open(pictures[number].path)
        ((score,), rows) = embedded(scorer, ["a cat"], [image])
        assert np.allclose(features, rows[0], rtol=1e-3, atol=1e-3)
        assert pictures[number].scores[stored] == pytest.approx(score, abs=1e-4)


def test_a_panels_scorers_each_have_their_own(host, generate, memory, loads):  # noqa: F811
    processed = generate(seeds=1, batch_size=1, start=160, accordion={"panel": THREE, "panel_constants": CONSTANTS})
    (picture,) = kept(memory).values()
    expected = {"ImageReward-v1.0": 1.0, "PickScore": 18.0, "CLIP": 0.3}
    assert picture.scores == pytest.approx(expected, abs=1e-5)
    result = processed.extra_generation_params["ImageReward result"]
    assert result["scorer"] == "ImageReward-v1.0; PickScore; CLIP" and set(result["percentiles"]) == set(THREE)


def test_a_scorer_without_embeddings_scores_all_the_same(host, generate, memory, loads, place):  # noqa: F811
    """Red's features are one number an image: nothing a taste could learn from."""
    text = generate(seeds=1, batch_size=1, start=160, accordion={"scorer": "PickScore"}).infotexts[0]
    assert "PickScore: 18.0000" in text and kept(memory)["160.png"].scores == {"PickScore": 18.0}
    with open_library(place) as library:
        assert library.query("SELECT COUNT(*) FROM features") == [(0,)]


def test_who_combines_in_a_way_of_its_own_keeps_its_scores():
    """A subclass that changes `combine` alone inherits embeddings whose scores are its parent's."""
    from imagereward_core import registry
    from imagereward_core.scorers import Scorer

    class Parent(Scorer):
        def encode_images(self, pixels):
            return pixels[:, :, 0, 0]

        def pixels_from_image(self, image):
            return torch.ones(3, 1, 1) * image.getpixel((0, 0))[0]

        def combine(self, prompts, images):
            return images.sum(1)

        def with_embeddings(self, prompts, images):
            return images.sum(1), images * 2

    class Child(Parent):
        def combine(self, prompts, images):
            return -images.sum(1)

    images = [Image.new("RGB", (1, 1), (red, 0, 0)) for red in (3, 5)]
    for kind, scores, rows in ((Parent, [9, 15], [[6] * 3, [10] * 3]), (Child, [-9, -15], [[3] * 3, [5] * 3])):
        scorer = kind(torch.nn.Linear(1, 1), registry.MODELS[0], torch.device("cpu"))
        with scorer.keeping_embeddings() as found:
            assert scorer.score_pairs(["a", "b"], images) == scores
        assert [found[index].tolist() for index in (0, 1)] == rows
        assert scorer.score_pairs(["a", "b"], images) == scores and len(found) == 2


# --- other ways to score ---------------------------------------------------------------------------


def test_extras(run_extras, host, memory, place):  # noqa: F811
    below = run_extras(IMAGES)[1]
    found = kept(memory)
    assert set(found) == {"00001.png", "00002.png", "00004.png"}  # c.png has no prompt and no score
    assert found["00002.png"].made.prompt == "a <b>dog</b>" and found["00002.png"].scores == {"ImageReward-v1.0": 3.0}
    assert found["00002.png"].path == str(host.folder / "outputs" / "extras" / "00002.png")
    assert below.count("remembered on this machine alone") == 1 and str(place) in below
    assert "remembered" not in run_extras(IMAGES)[1]


def test_a_plots_cells_add_their_scores_to_the_one_picture(plot, memory):  # noqa: F811
    processed = plot(SCORERS, LIMITS)
    found = kept(memory)
    assert {"148.png"} == set(found)
    assert found["148.png"].scores == pytest.approx({"ImageReward-v1.0": -0.2, "CLIP": -0.2})
    assert sum("remembered on this machine" in note for note in notes_of(processed)) == 1


# --- faults -----------------------------------------------------------------------------------------


def test_a_newer_library_is_said_once_and_costs_no_picture(host, generate, memory, place, caplog):
    connection = sqlite3.connect(place)
    connection.execute("CREATE TABLE x (y)")
    connection.execute("PRAGMA application_id = 0x49525742")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    before = place.read_bytes()
    with caplog.at_level(logging.WARNING, "imagereward"):
        said = []
        for seed in (160, 161, 162):
            said += notes_of(generate(seeds=1, batch_size=1, start=seed))
            assert memory.recorder().flush(60)
        said += notes_of(generate(seeds=1, batch_size=1, start=163))
    assert len(said) == 2 and "remembered on this machine" in said[0]
    assert said[1].startswith("library: pictures are not remembered for now; scoring goes on: ")
    assert "newer version" in said[1] and caplog.text.count("newer version") == 1
    assert place.read_bytes() == before


def test_a_torn_file_is_set_aside(host, generate, memory, place):
    place.write_bytes(b"no library" * 900)
    generate(seeds=1, batch_size=1, start=160)
    assert set(kept(memory)) == {"160.png"} and list(place.parent.glob("*.damaged-*"))


def test_a_locked_library_holds_no_job_up(host, generate, memory, place):
    open_library(place).close()
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    generate(seeds=2, batch_size=1, start=160)  # would take 15 s, or fail
    assert not memory.recorder().flush(0.1)
    other.execute("ROLLBACK")
    other.close()
    assert len(kept(memory)) == 2


KILLED = """
import pathlib, sys
sys.path.insert(0, {root!r})
from tests.contract.conftest import Loader
from tests.contract.fakehost import FakeHost
with FakeHost(pathlib.Path(sys.argv[1])) as host:
    host.part("lifecycle").holder._load = Loader()
    recorder = host.part("remember").memory.recorder()
    for seed in range(100, 200):
        host.txt2img(seed=seed, accordion={{}})
        before = recorder.written
        recorder.flush(0.01)  # the writer is somewhere in the middle whenever the signal comes
        print(seed, recorder.written, flush=True)
"""


@pytest.mark.newest
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("after", [1, 7])
def test_a_killed_webui_loses_nothing_acknowledged(tmp_path, after):
    code = KILLED.format(root=str(EXTENSION))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.wait()
    written = int(lines[-1].split()[1])
    with open_library(tmp_path / "imagereward-library.sqlite") as library:
        assert library.query("PRAGMA integrity_check") == [("ok",)]
        pictures = find.newest(library, limit=None)
    assert len(pictures) >= written and len(lines) < 100
    assert all(len(picture.scores) == 1 and os.path.isfile(picture.path) for picture in pictures)


# --- away -------------------------------------------------------------------------------------------


def test_forgetting_takes_what_waits_along(host, generate, memory, place):
    """The queue, the open handle, features, journals and thumbnails; what is scored afterwards begins anew."""
    generate(seeds=1, batch_size=1, start=160)
    kept(memory)
    thumbnails = place.parent / "imagereward-library-thumbnails"
    thumbnails.mkdir()
    (thumbnails / "x.jpg").write_bytes(b"x")
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    generate(seeds=3, batch_size=1, start=170)  # wait for the lock
    forgetting = threading.Thread(target=memory.forget)
    forgetting.start()
    while not memory.recorder()._forgetting:
        pass
    other.execute("ROLLBACK")
    other.close()
    forgetting.join(60)
    assert not list(place.parent.glob("imagereward-library*"))
    assert any("remembered on this machine" in note for note in notes_of(generate(seeds=1, batch_size=1, start=180)))
    assert set(kept(memory)) == {"180.png"}


def test_the_route(tab, memory, place):  # noqa: F811
    client, _, api = tab
    client.post(f"{URL}/read", json={})
    api.work.wait(30)
    assert place.exists()
    assert client.post(f"{URL}/forget", json={}, headers={"X-ImageReward-Token": ""}).status_code == 401
    assert client.post(f"{URL}/forget", json={}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post(f"{URL}/forget", json={}).json() == {"place": str(place), "deleted": True}
    assert not place.exists() and client.get(f"{URL}/state").json()["pictures"] == 0
    assert client.post(f"{URL}/forget", json={}).json() == {"place": str(place), "deleted": False}


# --- what a score means -----------------------------------------------------------------------------


def fill(place, count, checkpoint=None, scorer="ImageReward-v1.0", first=0.0):
    """Pictures whose scores are `first`, `first` + 0.1, …"""
    place.parent.joinpath("old").mkdir(exist_ok=True)
    with open_library(place) as library:
        for number in range(count):
            path = place.parent / "old" / f"{checkpoint}-{number}.png"
            Image.new("RGB", (4, 4), (number % 256, len(checkpoint or ""), number // 256)).save(path)
            made = Made(prompt="old", checkpoint=checkpoint, checkpoint_hash=checkpoint and f"{checkpoint}12")
            remember_now(library, Record(path, (Score(scorer, first + number / 10),), made=made))


def prepared(host, memory, scorer="ImageReward-v1.0"):
    """As after a generation, that leaves the background its time."""
    memory.prepare([scorer])
    assert memory.recorder().flush(60)


def test_percentiles_in_status_line_and_result(host, generate, memory, place):
    fill(place, 30, first=-1.0)
    prepared(host, memory)
    processed = generate(seeds=2, batch_size=1, start=150)
    result = processed.extra_generation_params["ImageReward result"]
    best = {"percent": 36, "pictures": 30, "same_checkpoint": False}
    sentence = "better than 36 % of your 30 pictures"
    assert result["percentiles"] == {
        "ImageReward-v1.0": [
            None,
            {**best, "percent": 33, "sentence": "better than 33 % of your 30 pictures"},
            {**best, "sentence": sentence},
        ]
    }
    assert f"best 0.10 (seed 151) · the best is {sentence}\n" in processed.comments
    caveat = "on pictures of generators of 2025, ImageReward-v1.0 agrees with people on 54 % of pairs"
    assert f"ImageReward: {caveat}" in processed.comments and result["caveats"]["ImageReward-v1.0"].startswith(caveat)
    assert result["meanings"][0] == "" and result["meanings"][2].startswith(f"{sentence}\n")
    assert caveat in result["meanings"][2] and "is unknown" in result["meanings"][2]
    assert result["wins"] == [None, None, None] and result["win_known"] is False
    json.dumps(result)


def test_fifty_of_the_same_checkpoint_are_compared_with_these(host, generate, memory, place):
    fill(place, 49, "jugg", first=5.0)
    fill(place, 60, "other", first=-9.0)
    prepared(host, memory)
    line = generate(seeds=1, batch_size=1, start=160, sd_model_name="jugg", sd_model_hash="jugg12").comments
    assert "better than 55 % of your 109 pictures\n" in line
    memory._forgotten()
    fill(place, 50, "jugg", first=5.0)
    prepared(host, memory)
    line = generate(seeds=1, batch_size=1, start=160, sd_model_name="jugg", sd_model_hash="jugg12").comments
    assert "better than 0 % of your 5" in line and "pictures with this checkpoint" in line


def test_below_twenty_nothing_is_said(host, generate, memory, place):
    fill(place, 19)
    prepared(host, memory)
    processed = generate(seeds=1, batch_size=1, start=160)
    assert "better than" not in processed.comments and "agrees with people" not in processed.comments


def test_the_probability_to_be_preferred_once_k_is_known(host, generate, memory, place):
    with open_library(place) as library:
        keep_k(library, "ImageReward-v1.0", 2.0)
    fill(place, 20)
    prepared(host, memory)
    processed = generate(seeds=2, batch_size=1, start=150)
    result = processed.extra_generation_params["ImageReward result"]
    assert result["wins"][0] is None and result["wins"][1:] == pytest.approx([0.4502, 0.5498], abs=1e-4)
    assert "preferred to the next of its prompt in about 55 % of choices" in processed.comments
    prompts = ["a cat", "a dog"]
    alone = generate(seeds=2, batch_size=1, start=150, prompt=prompts).extra_generation_params["ImageReward result"]
    assert alone["wins"] == [None, None, None]


def test_extras_tell_it_in_the_table(run_extras, host, memory, place):  # noqa: F811
    fill(place, 40, first=-1.0)
    prepared(host, memory)
    below = run_extras(IMAGES)[1]
    assert "<td data-value='1.0' title='better than 50 % of your 40 pictures\non pictures of" in below


def test_rest_tells_it_where_the_library_is_on(host, memory, place):
    fastapi, testclient = pytest.importorskip("fastapi"), pytest.importorskip("fastapi.testclient")
    from .test_rest import picture

    fill(place, 60, "jugg", first=5.0)
    fill(place, 60, "other", first=-9.0)
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    client = testclient.TestClient(app)
    body = {"images": [picture(60), picture(45)], "prompt": "a cat"}
    answer = client.post("/imagereward/v1/score", json=body).json()
    (found,) = answer["percentiles"].values()
    assert [one["percent"] for one in found] == [50, 50] and found[0]["pictures"] == 120
    assert found[0]["sentence"] == "better than 50 % of your 120 pictures"
    buffer, info = io.BytesIO(), PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20, Model hash: jugg12, Model: jugg")
    Image.new("RGB", (8, 8), (60, 0, 0)).save(buffer, "PNG", pnginfo=info)
    body = {"images": [base64.b64encode(buffer.getvalue()).decode()], "prompt": "a cat"}
    answer = client.post("/imagereward/v1/score", json=body).json()
    sentence = answer["percentiles"]["ImageReward-v1.0"][0]["sentence"]
    assert sentence == "better than 0 % of your 60 pictures with this checkpoint"
    host.options.data["imagereward_remember"] = False
    assert set(client.post("/imagereward/v1/score", json=body).json()) == {"scorer", "scores"}


def test_percentiles_are_read_anew_as_the_library_grows(host, generate, memory, place):
    fill(place, 19)
    prepared(host, memory)
    assert memory.place("ImageReward-v1.0", 0.5, (None, None)) is None
    generate(seeds=24, batch_size=8, start=110)
    kept(memory)
    prepared(host, memory)
    assert memory.place("ImageReward-v1.0", 99.0, (None, None)).pictures == 43
