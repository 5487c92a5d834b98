"""The run protocol: what is read is typed, what is written is whole, and one damaged thing hides no other."""

import json
import os
import subprocess
import sys
import time

import pytest

from imagereward_core import runs
from imagereward_core.runs import Command, EventKind, Name, State

HOLDER = """
import sys, time
from imagereward_core.runs import RunFolder
with RunFolder(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_protocol_needs_neither_torch_nor_a_host():
    code = "import imagereward_core.runs, sys; assert not {'torch', 'numpy', 'PIL', 'refl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_state_is_queued_active_or_ended():
    kinds = {state: (state is State.QUEUED, state.active, state.ended) for state in State}
    assert all(sum(kind) == 1 for kind in kinds.values())
    words = runs.schema()
    assert words["commands"] == ["pause", "resume", "sample", "save", "stop", "stop_now"]
    assert {"finished", "stopped", "stop_rule", "failed", "died", "cancelled", "damaged"} == set(words["ended"])
    assert json.loads(json.dumps(words)) == words and f"{State.PAUSED}" == "paused" and str(Command.STOP) == "stop"


def test_status_events_and_commands_go_round(tmp_path):
    with runs.RunFolder(tmp_path / "run", clock=lambda: 100.0) as folder:
        folder.status(state=State.TRAINING, step=4, message="half\udcff name", seconds_left=12)
        folder.event(EventKind.STEP, step=4, reward=0.5, parts=[float("nan"), {"x": float("inf")}])
        assert folder.state is State.TRAINING and folder.command() is None
        assert runs.read_status(tmp_path / "run").message == "half\udcff name"
        runs.send(tmp_path / "run", "pause")
        runs.send(tmp_path / "run", "stop")  # the newest wins
        assert folder.command() is Command.STOP and folder.command() is None
    status = runs.read_status(tmp_path / "run")
    assert (status.state, status.step, status.heartbeat, status.seconds_left) == (State.TRAINING, 4, 100.0, 12)
    assert status.message.startswith("Saving and stopping")  # it was heard
    events = runs.read_events(tmp_path / "run" / Name.EVENTS)
    assert events == [{"time": 100.0, "type": "step", "step": 4, "reward": 0.5, "parts": [None, {"x": None}]}]
    with runs.RunFolder(tmp_path / "run") as folder:
        assert folder.command() is None  # what an earlier process was told
    with pytest.raises(ValueError, match="dance"):
        runs.send(tmp_path / "run", "dance")


def test_a_busy_run_acknowledges_commands_with_its_heartbeat(tmp_path, monkeypatch):
    """Even while it loads models and asks for no command; the command stays to be obeyed."""
    monkeypatch.setattr("imagereward_core.runs.writing.HEARTBEAT", 0.01)
    with runs.RunFolder(tmp_path) as folder:
        folder.status(state=State.PREPARING, message="loading")
        runs.send(tmp_path, "pause")
        _wait(lambda: runs.read_status(tmp_path).message.startswith("Pausing"))
        assert folder.state is State.PREPARING and folder.command() is Command.PAUSE
        folder.status(state=State.PAUSED, message="")
        runs.send(tmp_path, "save")  # nothing to save since
        assert folder.command() is Command.SAVE and runs.read_status(tmp_path).message == ""


def _wait(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def test_a_command_that_came_while_the_process_was_loading_is_obeyed(tmp_path):
    runs.send(tmp_path, "pause")  # to an earlier process
    runs.write_status(tmp_path, State.STARTING, launched_after=runs.read_command(tmp_path)[0])
    runs.send(tmp_path, "stop")
    with runs.RunFolder(tmp_path) as folder:
        assert folder.command() is Command.STOP
    with runs.RunFolder(tmp_path) as folder:  # started again by hand
        assert folder.command() is None


def test_two_processes_and_two_threads_cannot_hold_one_folder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "locked\n"
            with pytest.raises(runs.RunBusy, match="another process"), runs.RunFolder(tmp_path / "run"):
                pass
        finally:
            child.kill()
    with (
        runs.RunFolder(tmp_path / "run"),  # the lock died with its process
        pytest.raises(runs.RunBusy),
        runs.RunFolder(tmp_path / "run"),
    ):
        pass


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_the_lock_is_the_one_that_earlier_versions_take(tmp_path):
    import fcntl

    with runs.RunFolder(tmp_path), open(tmp_path / "run.lock", "ab+") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"state": NaN}', '{"step": 1e999}', '{"a":' * 100_000, "\udcff", '{"x": "\\ud800"'],
)
def test_a_torn_file_is_an_error_that_names_it(tmp_path, text):
    for name in (Name.CONFIG, Name.STATUS):
        (tmp_path / name).write_bytes(text.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(runs.RunDamaged, match=r"the settings of this run are damaged: config\.json"):
        runs.read_settings(tmp_path)
    with pytest.raises(runs.RunDamaged, match=r"status\.json is damaged"):
        runs.read_status(tmp_path)


def test_settings_that_are_gone_are_damaged_and_the_other_copy_is_named(tmp_path):
    with pytest.raises(runs.RunDamaged, match="is missing"):
        runs.read_settings(tmp_path)
    runs.write_settings(tmp_path, {"seed": 1}, Name.ASKED)
    with pytest.raises(runs.RunDamaged, match=r"asked\.json beside it is whole"):
        runs.read_settings(tmp_path)
    assert runs.read_status(tmp_path) is None  # none was written yet


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"step": None}, "step must be a number, found None"),
        ({"step": True}, "step must be"),
        ({"step": "3"}, "step must be"),
        ({"heartbeat": "now"}, "heartbeat must be a number"),
        ({"message": 5}, "message must be text"),
        ({"state": "dancing"}, "no state 'dancing'"),
        ({"state": ["paused"]}, "no state"),
    ],
)
def test_a_status_of_another_kind_is_named(tmp_path, data, word):
    (tmp_path / Name.STATUS).write_text(json.dumps({"state": "training", **data}))
    with pytest.raises(runs.RunDamaged, match=word):
        runs.read_status(tmp_path)


def test_damaged_lines_are_shown_and_hide_no_others(tmp_path):
    path = tmp_path / Name.EVENTS
    good = [{"type": "step", "step": step, "reward": 0.1} for step in (1, 2)]
    bad = [
        b'{"type": "st',
        b"3",
        b"\xff\xfe",
        b'{"type": "step", "step": null}',
        b'{"type": "evaluation"}',
        b'{"step": 1}',
    ]
    lines = [json.dumps(good[0]).encode(), *bad, json.dumps(good[1]).encode()]
    path.write_bytes(b"\n".join(lines) + b'\n{"type": "step", "st')
    events = runs.read_events(path)
    assert [event for event in events if event["type"] == "step"] == good
    damaged = [event for event in events if event["type"] == "damaged"]
    assert [event["line"] for event in damaged] == [2, 3, 4, 5, 6, 7] and damaged[0]["text"] == '{"type": "st'
    assert len(events) == 8  # the line in the writing waits
    assert runs.read_events(path, 7) == good[1:] and runs.read_events(path, 99) == []
    assert runs.read_events(path, ended=True)[-1]["line"] == 9  # and counts as torn once nobody writes
    assert runs.settled(events)


def test_half_a_line_of_a_killed_process_swallows_no_event(tmp_path):
    (tmp_path / Name.EVENTS).write_bytes(b'{"type": "step", "step": 1}\n{"type": "ste')
    with runs.RunFolder(tmp_path) as folder:
        folder.event(EventKind.RESUMED, step=1)
        folder.event(EventKind.STEP, step=2)
    events = runs.read_events(tmp_path / Name.EVENTS)
    assert [event["type"] for event in events] == ["step", "damaged", "resumed", "step"]


def test_what_a_killed_process_did_after_its_state_is_told_once():
    steps = [{"type": "step", "step": step, "try": 1} for step in (1, 2, 3)]
    again = [{"type": "resumed", "step": 1}, {"type": "step", "step": 2, "try": 2}]
    kept = runs.settled([*steps, {"type": "damaged", "line": 4}, *again])
    assert [(event["step"], event.get("try")) for event in kept if event["type"] == "step"] == [(1, 1), (2, 2)]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    runs.write_settings(tmp_path, {"seed": 7})
    code = (
        "import resource, signal, sys; from pathlib import Path; from imagereward_core import runs\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: runs.write_settings(Path(sys.argv[1]), {'prompts': ['a cat'] * 100})\n"
        "except runs.RunUnwritable as error: print(error)"
    )
    if os.name == "nt":
        pytest.skip("no limit of file sizes")
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot write" in told.stdout and "File too large" in told.stdout
    assert runs.read_settings(tmp_path) == {"seed": 7}
    assert os.listdir(tmp_path) == [Name.CONFIG]


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        ("a/b", "without folders"),
        ("..\\b", "without folders"),
        ("..", "no file name"),
        ("a:b", "without :"),
        ("CON", "device"),
        ("nul.tar", "device"),
        ("COM1", "device"),
        ("LPT³.x", "device"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\udcff", "half a character"),
        ("a.", "dot"),
        ("a ", "blank"),
        ("é" * 101, "202 bytes"),
    ],
)
def test_names_that_some_system_refuses(name, word):
    assert word in runs.check_name(name)


@pytest.mark.parametrize("name", ["a", "é" * 100, "com10", "console", "a.b", "模型-refl", ".hidden", "a b"])
def test_names_that_every_system_takes(name, tmp_path):
    assert runs.check_name(name) == ""
    (tmp_path / f"{name}.safetensors").write_bytes(b"")


def test_a_name_made_from_a_checkpoints_is_one():
    assert runs.derived_name("anime v3") == "anime v3-refl"
    for stem in ("é" * 120, "a:b?c", "x\udcffy", "\x01", " "):
        assert runs.check_name(runs.derived_name(stem)) == "", stem
        assert runs.check_name(runs.derived_name(stem) + "-12") == ""


def test_a_free_name_counts_files_and_promises_whatever_their_case(tmp_path):
    (tmp_path / "A-refl.safetensors").write_bytes(b"")
    taken = runs.taken_names(tmp_path, ["a-REFL-2"])
    assert runs.free_name("a-refl", taken) == "a-refl-3" and not taken("b")
    assert not runs.taken_names(tmp_path / "nothing")("a-refl")


def test_room_and_permission_are_asked_before(tmp_path):
    runs.check_space([(tmp_path / "not" / "there", 1000, "the result")])
    with pytest.raises(runs.RunUnwritable, match=r"GB for 4 saved states, 1 MB for the result"):
        runs.check_space([(tmp_path, 1 << 60, "4 saved states"), (tmp_path / "x", 1 << 20, "the result")])
    runs.check_writable(tmp_path / "new", "the result")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x", tmp_path / "a\0b"):
        with pytest.raises(runs.RunUnwritable, match="the result cannot be written in"):
            runs.check_writable(place, "the result")
