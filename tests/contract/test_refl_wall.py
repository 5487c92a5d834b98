"""What the ReFL tab shows of a run's end and of its evaluations: the alignment dial, the wall, and what follows from a
saved update.
"""

from __future__ import annotations

import html
import json
import re
import types
from io import BytesIO

import pytest

pytest.importorskip("fastapi")

from PIL import Image  # noqa: E402

from .test_refl_page import actions  # noqa: E402, F401  a fixture
from .test_refl_tab import URL, old_run, page, state, wait  # noqa: E402, F401  page is a fixture

MARKS = [
    {"strength": strength, "reward": reward, "diversity": 0.1, "judges": {"CLIP": 0.2}, "verdict": verdict}
    for strength, reward, verdict in ((0, 0.1, ""), (0.5, 0.3, ""), (1, 0.4, ""), (1.25, 0.5, "CLIP <falls>"))
]


def dial(use, marks=MARKS):
    return json.dumps({"type": "dial", "step": 9, "use": use, "marks": marks}) + "\n"


def shown_of(host, run):
    """(what stands in each component of the right half, by name)."""
    view = host.part("refl_tab.run_page").RunView()
    found = dict(zip(map(id, view.outputs), view.refresh("", run)))
    return {name: found[id(getattr(view, name))] for name in ("dial", "wall", "result")}


def test_the_dial_has_a_button_for_each_strength(page):  # noqa: F811
    _, runs, host = page
    run = old_run(runs, 0, '{"state": "finished", "step": 9, "result": "/models/x&amp;.safetensors"}', dial(1))
    shown = shown_of(host, run)["dial"]["value"]
    buttons = re.findall(r'data-strength="([\d.]+)"(?: class="(\w+)")?', shown)
    assert buttons == [("0.5", ""), ("1", "recommended"), ("1.25", "refused")]
    assert shown_of(host, run)["result"]["value"] == "x&amp;:1"  # what Use in txt2img gets
    assert 'data-lora="x&amp;amp;"' in shown and "CLIP &lt;falls&gt;" in shown
    assert "Use it at strength 1" in shown and shown.count("<svg") == 3 and "judge: CLIP" in shown


@pytest.mark.parametrize(
    ("events", "words", "buttons"),
    [
        (dial(None), "At no strength", 3),
        (
            dial(1, [{**mark, "changes": {"reward": [0.02, 0.03]}} for mark in MARKS]),
            "1 if at all: its gain there may be chance",
            3,
        ),
        (dial(1, [{**mark, "changes": {"reward": [0.3, 0.03]}} for mark in MARKS]), "1: the largest gain", 3),
        ("", "", 0),
        (dial(1, "none"), "", 0),
        (dial(1, [3, {"strength": "x"}]), "", 0),
    ],
)
def test_a_dial_without_a_gain_and_one_that_says_nothing(page, events, words, buttons):  # noqa: F811
    _, runs, host = page
    run = old_run(runs, 0, '{"state": "finished", "step": 9, "result": "/models/x.safetensors"}', events)
    shown = shown_of(host, run)["dial"]["value"]
    assert words in shown and shown.count("data-strength") == buttons


def test_a_checkpoint_has_no_strength_to_use(page):  # noqa: F811
    _, runs, host = page
    status = '{"state": "finished", "step": 9, "result": "/models/x.safetensors"}'
    run = old_run(runs, 0, status, dial(1), output="single-file")
    assert "data-strength" not in shown_of(host, run)["dial"]["value"]


# --- the wall --------------------------------------------------------------------------------------------------------


def walled(runs, number=0, **settings):
    """A run of two evaluations with their sheets, the state of the second saved; its id."""
    events = [
        {"type": "evaluation", "step": 0, "reward": 0.1, "judges": {"CLIP": 0.5}},
        {"type": "samples", "step": 0, "path": "samples/step-000000.png", "prompts": ["a <b>", "c"]},
        {"type": "step", "step": 1, "reward": 0.5},
        {"type": "evaluation", "step": 2, "reward": 0.4, "judges": {"CLIP": 0.4}, "changes": {"reward": [0.3, 0.1]}},
        {"type": "samples", "step": 2, "path": "samples/step-000002.png"},
        {"type": "samples", "step": 3, "path": "samples/step-000003-now.png"},
        {"type": "step", "step": 3, "reward": 0.5},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    given = {"eval_seeds": 2, "output_name": "mine", "export_dir": str(runs.folder / "loras"), "learning_rate": 1e-3}
    run = old_run(runs, number, '{"state": "finished", "step": 3}', lines, **{**given, **settings})
    (runs.folder / "loras").mkdir(exist_ok=True)
    folder = runs.folder / run
    for name in ("step-000000", "step-000002", "step-000003-now"):
        Image.new("RGB", (600, 600), (200, 30, 30)).save(folder / "samples" / f"{name}.png")
    saved = folder / "checkpoints" / "step-000002"
    saved.mkdir(parents=True)
    scores = [
        {"(mixed reward)": [0, 0, 0, 0], "CLIP": [0, 0, 0, 0]},
        {"(mixed reward)": [1, 0, 0, 0], "CLIP": [0, 0, 2, -4]},
    ]
    history = [{"step": 2 * at, "judges": {"CLIP": 0}, "scores": found} for at, found in enumerate(scores)]
    (saved / "state.json").write_text(json.dumps({"step": 2, "info": {"history": history, "best": [2, 0.4]}}))
    return run


def told_by(shown):
    return json.loads(html.unescape(re.search(r'data-wall="([^"]*)"', shown)[1]))


def test_the_wall_is_a_row_a_prompt_and_a_column_an_evaluation(page):  # noqa: F811
    _, runs, host = page
    run = walled(runs)
    shown = shown_of(host, run)["wall"]["value"]
    assert "<b>" not in shown
    wall = told_by(shown)
    assert (wall["run"], wall["prompts"], wall["seeds"], wall["updates"]) == (run, ["a <b>", "c"], 2, 9)
    first, second, asked_for = wall["columns"]
    assert (first["step"], first["told"], first["moved"], first["saved"]) == (0, "", [], False)
    assert second["told"] == "reward +0.3 ± 0.1, CLIP -0.1" and second["saved"]
    assert second["moved"] == [[["reward", 0.5], ["CLIP", 0.0]], [["reward", 0.0], ["CLIP", -1.0]]]
    assert (asked_for["sheet"], asked_for["saved"], asked_for["told"]) == ("step-000003-now.png", False, "")


@pytest.mark.parametrize(
    "torn", ["{", '{"info": {"history": [3]}}', '{"info": {"history": [{"scores": {}}, {"step": 2}]}}']
)
def test_a_torn_state_leaves_the_wall(page, torn):  # noqa: F811
    _, runs, host = page
    run = walled(runs)
    (runs.folder / run / "checkpoints" / "step-000002" / "state.json").write_text(torn)
    wall = told_by(shown_of(host, run)["wall"]["value"])
    assert len(wall["columns"]) == 3 and wall["columns"][1]["moved"] == []


def test_sheets_of_the_wall_are_small(page):  # noqa: F811
    client, runs, _ = page
    run = walled(runs)
    answer = client.get(f"{URL}/runs/{run}/samples/step-000002.png/small")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (256, 256)
    (runs.folder / run / "samples" / "step-000002.png").write_bytes(b"no picture")
    for name in ("step-000002.png", "config.json", "..%2fconfig.json"):
        assert client.get(f"{URL}/runs/{run}/samples/{name}/small").status_code in (404, 422)


# --- what follows from an update -------------------------------------------------------------------------------------


def test_a_branch_is_a_new_run_and_the_old_one_stays(page):  # noqa: F811
    client, runs, _ = page
    run = walled(runs)
    files = {path: path.read_bytes() for path in (runs.folder / run).rglob("*") if path.is_file()}
    body = {"step": 2, "updates": 5, "learning_rate": 0.01}
    new = client.post(f"{URL}/runs/{run}/branch", json=body).json()["id"]
    assert new != run
    config = json.loads((runs.folder / new / "config.json").read_text())
    wanted = {
        "output_name": "mine-from-2",
        "max_train_steps": 7,
        "learning_rate": 0.01,
        "resume_from_checkpoint": "latest",
    }
    assert {name: config[name] for name in wanted} == wanted and config["output_dir"] == str(runs.folder / new)
    events = (runs.folder / new / "events.jsonl").read_text().splitlines()[:4]
    assert [json.loads(line)["step"] for line in events] == [0, 0, 1, 2]
    assert (runs.folder / new / "samples" / "step-000002.png").is_file()
    assert (runs.folder / new / "checkpoints" / "step-000002" / "state.json").is_file()
    second = client.post(f"{URL}/runs/{run}/branch", json={"step": 2, "updates": 5}).json()["id"]
    config = json.loads((runs.folder / second / "config.json").read_text())
    assert (config["output_name"], config["learning_rate"]) == ("mine-from-2-2", 1e-3)  # the first is promised
    wait(lambda: state(client, new) == "finished")  # the process was told to go on from its state
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"step": 3, "updates": 5}, "no saved state that is still kept; there are: 2"),
        ({"step": 2, "updates": 0}, "Updates"),
        ({"step": 2, "updates": 5, "learning_rate": 7}, "Learning rate"),
        ({"step": -1, "updates": 5}, "no saved state"),
    ],
)
def test_branches_that_cannot_be_are_refused(page, body, word):  # noqa: F811
    client, runs, _ = page
    run = walled(runs)
    answer = client.post(f"{URL}/runs/{run}/branch", json=body)
    assert answer.status_code == 422 and word in answer.json()["detail"]
    assert [found["id"] for found in runs.list()] == [run]
    assert client.post(f"{URL}/runs/20260101-000000-x/branch", json=body).status_code == 422


def test_an_update_is_exported_under_a_name_of_its_own(page):  # noqa: F811
    client, runs, host = page
    run = walled(runs)
    (runs.folder / "loras" / "mine-at-2.safetensors").write_bytes(b"")
    asked = []

    def work(command, **_):
        asked.append(command[1:])
        return types.SimpleNamespace(returncode=int(len(asked) > 1), stdout="", stderr="…\nERROR the state is torn\n")

    host.part("refl_tab.api").subprocess = types.SimpleNamespace(run=work, TimeoutExpired=TimeoutError)
    answer = client.post(f"{URL}/runs/{run}/export", json={"step": 2})
    assert answer.json() == {"name": "mine-at-2-2"} and client.refreshed
    options = ["--run-dir", str(runs.folder / run), "--step", "2", "--output_name", "mine-at-2-2"]
    assert asked == [["-m", "refl", "export", *options]]
    failed = client.post(f"{URL}/runs/{run}/export", json={"step": 2})
    assert failed.status_code == 422 and "the state is torn" in failed.json()["detail"]
    assert client.post(f"{URL}/runs/{run}/export", json={"step": 3}).status_code == 422 and len(asked) == 2
