"""The ReFL tab's "my picks": whose they are, how many, and the run that follows them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi")

from PIL import Image  # noqa: E402

from .test_refl_page import PROMPTS, actions, press_start, values  # noqa: E402, F401  actions is a fixture
from .test_refl_tab import URL, page  # noqa: E402, F401  page is a fixture


def write_duels(folder, count, prompts=8):
    """A file of duels with their pictures; returns its name."""
    (folder / "pictures").mkdir(parents=True)
    lines = []
    for number in range(count):
        names = [f"pictures/{number}-{side}.png" for side in ("won", "lost")]
        for name in names:
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
        lines.append(json.dumps({"winner": names[0], "loser": names[1], "prompt": f"<b>{number % prompts}</b>"}))
    (folder / "duels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return "duels.jsonl"


@pytest.fixture
def data(page):  # noqa: F811
    return page[2].part("refl_tab.host").data_folder()


def duels_of(host, folder, taste, count):
    """Put duels of a taste into the host's library."""
    from imagereward_core.library import Record, open_library, remember_now
    from imagereward_core.library.marks import add_duel

    place = host.part("core").module("library.place").library_place()
    folder.mkdir(parents=True, exist_ok=True)
    with open_library(place) as library:
        for number in range(count):
            paths = [folder / f"{taste}-{number}-{side}.png" for side in "ab"]
            for path in paths:
                Image.new("RGB", (8, 8), (number, len(taste), 0)).save(path)
            pair = [remember_now(library, Record(path)) for path in paths]
            add_duel(library, *pair, prompt=f"p{number}", taste=taste)


def test_picks_of_the_library_become_a_run(actions, data):  # noqa: F811
    actions, host = actions
    assert "cannot" not in actions.picked("", "") and "error" in actions.picked("", "")  # no library yet
    duels_of(host, data / "a", "my-taste", 6)
    duels_of(host, data / "b", "Anna", 5)
    rewards, of_picks, choices, told = actions.learning_from("my picks", "my-taste", "")
    assert (rewards["visible"], of_picks["visible"]) == (False, True)
    assert choices["choices"] == ["my-taste", "Anna"] and "6 picks, of 6 prompts" in told
    assert "That is few" in told and "held out" in told
    back = actions.learning_from("a reward", "my-taste", "")
    assert (back[0]["visible"], back[1]["visible"], back[3]) == (True, False, "")
    said, _ = press_start(actions, learn="my picks", picks="Anna", beta=800.0)
    assert "is started" in said
    runs = host.part("refl_tab.api").runs()
    config = runs.config(runs.list()[0]["id"])
    assert (config["algorithm"], config["picks"], config["dpo_beta"]) == ("dpo", "library:Anna", 800.0)
    assert config["prompts"] == [] and config["anchor"] is None  # picks bring their prompts


def test_what_the_process_is_asked_for_it_accepts(page, data):  # noqa: F811
    from refl.config import ReFLConfig

    form = page[2].part("refl_tab.form")
    name = write_duels(data, 4)
    for asked in ({}, {"picks": "Anna"}, {"picks_file": name}, {"anchor": "samples"}, {"algorithm": "draft-lv"}):
        resolved = ReFLConfig.from_dict(form.build_config({"learn": "my picks", **asked})).resolved()
        assert resolved.learns_picks and resolved.anchor == asked.get("anchor", "none")
    assert resolved.picks == "library"


@pytest.mark.parametrize(
    ("count", "prompts", "words", "kind"),
    [(3, 8, "At least 4 are needed", "error"), (12, 8, "That is few", "warning"), (60, 2, "drawn besides", "")],
)
def test_few_picks_are_warned_about_and_too_few_refused(actions, data, count, prompts, words, kind):  # noqa: F811
    actions, host = actions
    name = write_duels(data, count, prompts)
    told = actions.picked("", name)
    assert words in told and f"{count} picks" in told and f'note {kind}"' in told
    assert "<b>" not in told  # prompts of a file are text
    said, _ = press_start(actions, learn="my picks", picks_file=name)
    runs = host.part("refl_tab.api").runs()
    if count < 4:
        assert "3 picks, and at least 4 are needed" in said and runs.list() == []
        return
    config = runs.config(runs.list()[0]["id"])
    assert config["picks"] == str((data / name).resolve())
    assert bool(config["prompts"]) == (prompts < 4)  # others are drawn to judge by


def test_the_estimate_of_picks_says_how_many_there_are(actions, data, monkeypatch):  # noqa: F811
    actions, host = actions
    asked = []
    monkeypatch.setattr(host.part("refl_tab.api"), "estimated", lambda found: asked.append(found) or {"text": "ok"})
    shown = actions.estimate(*values(actions, learn="my picks", picks_file=write_duels(data, 12)))
    assert "Ok." in shown and "12 picks, of 8 prompts" in shown and "held out" in shown
    assert asked[0]["learn"] == "my picks"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"picks_file": "/etc/hostname"}, "outside the WebUI"),
        ({"picks_file": "../../x.jsonl"}, "outside the WebUI"),
        ({"picks_file": "none.jsonl"}, "there is no file"),
        ({"picks_file": "config.json"}, "names end in .jsonl"),
        ({"picks_file": "a\ud800"}, "a character that is none"),
        ({"picks": "../x"}, "a taste"),
        ({"beta": 0}, "Beta"),
        ({"learn": "magic"}, "Learn from"),
    ],
)
def test_picks_from_elsewhere_are_refused(page, settings, word):  # noqa: F811
    client, runs, _ = page
    body = json.dumps({"settings": {"learn": "my picks", **settings}})
    answer = client.post(f"{URL}/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and word in answer.json()["detail"] and runs.list() == []


def test_a_torn_file_of_duels_is_named(actions, data):  # noqa: F811
    actions, host = actions
    name = write_duels(data, 5)
    with (data / name).open("a") as file:
        file.write("\n<script>")
    told = actions.picked("", name)
    assert "line 6: no JSON" in told and "<script>" not in told and "error" in told
    said, _ = press_start(actions, learn="my picks", picks_file=name)
    assert "line 6: no JSON" in said and host.part("refl_tab.api").runs().list() == []


def test_a_clone_of_a_run_on_picks_keeps_the_prompts_of_the_box(actions, data):  # noqa: F811
    actions, host = actions
    press_start(actions, learn="my picks", picks_file=write_duels(data, 12), prompts=PROMPTS)
    (run,) = host.part("refl_tab.api").runs().list()
    _, *updates = actions.clone(run["id"])
    filled = dict(zip(["source", *actions.form.names], updates))
    assert filled["learn"]["value"] == "my picks" and filled["picks_file"]["value"] == "duels.jsonl"
    assert "value" not in filled["prompts"] and filled["algorithm"]["value"] == "refl+"
