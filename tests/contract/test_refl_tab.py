"""The ReFL tab's server side: the form, runs as processes, the queue, and what requests cannot do. No training here:
the child is a small program that keeps the run folder's protocol.
"""

import base64
import json
import subprocess
import sys
import threading
import time
import types

import pytest

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

CHILD = """
import json, pathlib, sys, time
if sys.argv[1] == "estimate":
    print(json.dumps({"text": "needs 5.5 GB", "unet_calls": 3, "fits": True})); raise SystemExit
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
config = json.loads((folder / "config.json").read_text())
def status(state, **more):
    (folder / "s.tmp").write_text(json.dumps({"state": state, "heartbeat": time.time(), **more}))
    (folder / "s.tmp").replace(folder / "status.json")
def event(**data):
    with open(folder / "events.jsonl", "a") as file:
        file.write(json.dumps(data) + "\\n")
(folder / "samples").mkdir(exist_ok=True)
(folder / "samples" / "step-000000.png").write_bytes(b"png")
print("hello from the child", flush=True)
state, control = "training", folder / "control.json"
done = json.loads(control.read_text())["id"] if control.exists() else 0  # what an earlier process was told
for turn in range(2000):
    command = json.loads(control.read_text()) if control.exists() else {"id": 0}
    if command["id"] > done:
        done = command["id"]
        state = {"pause": "paused", "resume": "training"}.get(command["command"], state)
        if command["command"] == "stop":
            (folder / "checkpoints" / "step-000001").mkdir(parents=True)
            (folder / "checkpoints" / "step-000001" / "state.json").write_text("{}")
            status("stopped", step=1); break
    status(state, step=turn)
    if turn == 0: event(type="step", step=1, reward=0.5)
    if config.get("resume_from_checkpoint") == "latest":
        status("finished", step=9, result="/lora/x.safetensors"); break
    if config["seed"] == 13: raise SystemExit("killed")
    time.sleep(0.02)
"""


def write_checkpoint(path, names):
    """A safetensors file with tensors of these names, a byte each."""
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at, name in enumerate(names)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(len(names)))


@pytest.fixture
def page(host, tmp_path, monkeypatch):
    """(client with the page's token, the runs, the host); its checkpoints are two headers."""
    write_checkpoint(tmp_path / "a.safetensors", ["cond_stage_model.x"])
    (tmp_path / "b.ckpt").write_bytes(b"\x80\x02")  # pickled: its header tells nothing
    models = types.ModuleType("modules.sd_models")
    infos = [
        types.SimpleNamespace(title=f"{name} [123]", filename=str(tmp_path / name))
        for name in ("a.safetensors", "b.ckpt")
    ]
    models.checkpoints_list = models.checkpoint_aliases = {info.title: info for info in infos}
    models.get_closet_checkpoint_match = models.checkpoint_aliases.get
    models.model_path = str(tmp_path / "sd")
    monkeypatch.setitem(sys.modules, "modules.sd_models", models)
    vae = types.ModuleType("modules.sd_vae")
    vae.vae_dict = {"good.pt": str(tmp_path / "good.pt")}
    monkeypatch.setitem(sys.modules, "modules.sd_vae", vae)
    refreshed = []
    sys.modules["modules.shared"].refresh_checkpoints = lambda: refreshed.append(1)
    host.options.data["sd_model_checkpoint"] = "a.safetensors [123]"
    api = host.part("refl_tab.api")
    libraries = tmp_path / "child"
    (libraries / "refl").mkdir(parents=True)
    (libraries / "refl" / "__main__.py").write_text(CHILD)
    api.runs()._environment = lambda: {"PYTHONPATH": str(libraries)}
    monkeypatch.setattr(api, "environment", api.runs()._environment)
    monkeypatch.setattr(api.installer, "status", lambda: {"missing": [], "installing": False, "error": ""})
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    client = testclient.TestClient(app, headers={"X-ImageReward-Token": api.TOKEN})
    client.refreshed = refreshed
    yield client, api.runs(), host
    for child in list(api.runs()._children.values()):
        child.kill()
        child.wait()


URL = "/imagereward/v1/refl"


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def start(client, **settings):
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat\na (dog:1.2)\n", **settings}})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def state(client, run):
    return client.get(f"{URL}/runs/{run}").json()["state"]


def test_form_offers_what_the_host_has(page):
    client, _, _ = page
    data = client.get(f"{URL}/options").json()
    assert data["checkpoints"] == ["a.safetensors [123]", "b.ckpt [123]"] and data["selected"] == "a.safetensors [123]"
    assert "ImageReward-v1.0" in data["rewards"]
    assert {field["name"] for field in data["fields"]} >= {
        "checkpoint",
        "prompts",
        "reward",
        "preset",
        "steps",
        "anchor",
        "held_out",
        "output",
    }


def test_every_field_is_a_setting_of_the_trainer(page):
    """One table: what the form sends, the training process understands, with values it accepts."""
    from refl.config import PRESETS, ReFLConfig

    client, _, host = page
    fields = host.part("refl_tab.form")
    assert fields.PRESETS == PRESETS
    config = fields.build_config({"prompts": "a cat", "from_outputs": True, "judge": "CLIP"})
    resolved = ReFLConfig.from_dict(config).resolved()
    assert resolved.resolution == 512 and resolved.judges == ["CLIP"] and resolved.prompts == ["a cat"]
    assert resolved.gradient_accumulation_steps == 16
    for field in fields.FIELDS:
        for choice in field.choices:
            ReFLConfig.from_dict(fields.build_config({"prompts": "a cat", field.name: choice})).resolved()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"prompts": "  \n"}, "Prompts"),
        ({"checkpoint": "/etc/passwd"}, "no checkpoint"),
        ({"reward": "../../x.safetensors"}, "no scorer"),
        ({"steps": 0}, "Updates"),
        ({"learning_rate": "fast"}, "Learning rate"),
        ({"resolution": 100}, "multiple of 64"),
        ({"algorithm": "magic"}, "Algorithm"),
        ({"output_name": "../evil"}, "without folders"),
        ({"export_dir": "/"}, "unknown field"),
        ({"second_reward": "../../x.safetensors"}, "Second reward"),
        ({"anchor": "pretrain", "anchor_folder": "/etc"}, "outside the WebUI's folder"),
        ({"anchor": "pretrain", "anchor_folder": "../.."}, "outside the WebUI's folder"),
        ({"anchor": "pretrain", "anchor_folder": "nothing-here"}, "there is no folder"),
    ],
)
def test_bad_fields_are_named(page, settings, word):
    client, runs, _ = page
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat", **settings}})
    assert answer.status_code == 422 and word in answer.json()["detail"]
    assert runs.list() == []


def test_two_rewards_and_an_anchor_of_own_images(page, tmp_path):
    from refl.config import ReFLConfig
    from refl.rewards import parse_reward

    _, _, host = page
    fields = host.part("refl_tab.form")
    folder = fields.refl_host.data_folder() / "my=images"
    folder.mkdir(parents=True)
    sent = {
        "prompts": "a cat",
        "second_reward": "CLIP",
        "second_weight": 0.25,
        "anchor": "pretrain",
        "anchor_folder": "my=images",
    }
    config = fields.build_config(sent)
    assert [parse_reward(text) for text in config["rewards"]] == [("ImageReward-v1.0", 1.0), ("CLIP", 0.25)]
    assert ReFLConfig.from_dict(config).resolved().anchor_data == str(folder.resolve())
    back = fields.form_settings(config)
    assert {name: back[name] for name in ("reward", "second_reward", "second_weight", "anchor")} == {
        "reward": "ImageReward-v1.0",
        "second_reward": "CLIP",
        "second_weight": 0.25,
        "anchor": "pretrain",
    }
    assert fields.build_config(back) == config  # a clone is the same run
    assert fields.build_config({"prompts": "a cat", "anchor": "pretrain"})["anchor_data"] == str(
        fields.refl_host.outputs_folder()
    )


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.txt", "a cat\n\n a dog\n", ["a cat", " a dog"]),
        ("a.json", '["a cat", {"text": "a dog"}, {"prompt": "an\\nowl"}]', ["a cat", "a dog", "an owl"]),
        ("a.jsonl", '{"caption": "a cat"}\n\n{"text": "a dog"}\n', ["a cat", "a dog"]),
        ("a.csv", 'id,Prompt,text\n1,x,"a cat, red"\n', ["a cat, red"]),
        ("a.tsv", "prompt\tseed\na cat\t1\n", ["a cat"]),
        ("a.csv", "text;n\na cat;1\n", ["a cat"]),
        ("a.csv", 'text,n\r\n"a\ncat",1\r\n', ["a cat"]),
        ("a.csv", "id,prompt\n1,a cat\n", ["a cat"]),
        ("a.jsonl", '{"text": "a\u2028cat"}\n{"text": "a dog"}\n', ["a cat", "a dog"]),
    ],
)
def test_prompts_of_a_file(page, name, text, found):
    client, _, _ = page
    assert client.post(f"{URL}/prompts", json={"name": name, "text": text}).json() == {"prompts": found}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_files_bytes_say_its_encoding(page, encoding):
    client, _, _ = page
    content = base64.b64encode("prompt\nun café\n".encode(encoding)).decode()
    answer = client.post(f"{URL}/prompts", json={"name": "a.csv", "base64": content})
    assert answer.json() == {"prompts": ["un café"]}
    answer = client.post(f"{URL}/prompts", json={"name": "a.csv", "base64": "?"})
    assert answer.status_code == 422 and "a.csv: its content is not base64" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.json", "{", "this is not JSON"),
        ("a.json", '{"text": "x"}', "a list of prompts was expected"),
        ("a.jsonl", '{"text": "x"}\n{', "a.jsonl, line 2: this is not JSON"),
        ("a.csv", "id,name\n1,x\n", "entry 1: no text under text, prompt, caption; found ['id', 'name']"),
        ("a.json", "[3]", "found int"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '[{"prompt": 1e999}]', "the prompt must be text"),
        ("a.csv", "prompt,n\n" + "x" * 140_000 + ",1\n", "line 2: field larger"),
    ],
)
def test_files_without_prompts(page, name, text, word):
    client, _, _ = page
    answer = client.post(f"{URL}/prompts", json={"name": name, "text": text})
    assert answer.status_code == 422 and word in answer.json()["detail"]


def test_no_result_replaces_an_earlier_one(page, tmp_path):
    _, _, host = page
    build = host.part("refl_tab.form").build_config
    loras = tmp_path / "models" / "Lora"
    loras.mkdir(parents=True, exist_ok=True)
    assert build({"prompts": "a cat"})["output_name"] == "a-refl"
    (loras / "a-refl.safetensors").write_bytes(b"")
    assert build({"prompts": "a cat"})["output_name"] == "a-refl-2"
    with pytest.raises(host.part("refl_tab.form").SettingError, match="choose another name"):
        build({"prompts": "a cat", "output_name": "a-refl"})


def test_run_from_start_to_result(page, tmp_path):
    client, runs, host = page
    run = start(client, seed=1)
    wait(lambda: state(client, run) == "training")
    config = json.loads((runs.path(run) / "config.json").read_text())
    assert config["prompts"] == ["a cat", "a dog"] and config["pretrained_model_name_or_path"] == str(
        tmp_path / "a.safetensors"
    )
    assert config["export_dir"] == str(tmp_path / "models" / "Lora")
    wait(lambda: client.get(f"{URL}/runs/{run}").json()["next"] == 1)
    first = client.get(f"{URL}/runs/{run}").json()
    assert first["events"] == [{"type": "step", "step": 1, "reward": 0.5}] and "hello from the child" in first["log"]
    assert client.get(f"{URL}/runs/{run}?after=1").json()["events"] == []
    assert client.get(f"{URL}/runs/{run}/samples/step-000000.png").content == b"png"
    client.post(f"{URL}/runs/{run}/command", json={"command": "pause"})
    wait(lambda: state(client, run) == "paused")
    client.post(f"{URL}/runs/{run}/command", json={"command": "resume"})
    wait(lambda: state(client, run) == "training")
    assert client.delete(f"{URL}/runs/{run}").status_code == 422  # not while it runs
    client.post(f"{URL}/runs/{run}/command", json={"command": "stop"})
    wait(lambda: state(client, run) == "stopped")
    wait(lambda: client.refreshed)  # the host lists its files again
    client.post(f"{URL}/runs/{run}/command", json={"command": "resume"})  # an ended run goes on from its saved state
    wait(lambda: state(client, run) == "finished")
    assert client.get(f"{URL}/runs/{run}").json()["result"] == "/lora/x.safetensors"
    assert client.get(f"{URL}/runs/{run}/settings").json()["settings"]["seed"] == 1
    wait(lambda: not runs._children)
    assert client.delete(f"{URL}/runs/{run}").status_code == 200 and runs.list() == []


def test_one_run_at_a_time_the_others_wait(page):
    client, runs, _ = page
    first = start(client)
    wait(lambda: state(client, first) == "training")
    second, third = start(client), start(client)
    time.sleep(1.5)
    assert (state(client, second), state(client, third)) == ("queued", "queued") and len(runs._children) == 1
    client.post(f"{URL}/runs/{second}/command", json={"command": "stop"})
    assert state(client, second) == "cancelled"
    client.post(f"{URL}/runs/{first}/command", json={"command": "stop"})
    wait(lambda: state(client, third) == "training")


def test_dead_child_is_reported_and_can_be_resumed(page):
    client, runs, _ = page
    run = start(client, seed=13)
    wait(lambda: state(client, run) == "died")
    data = client.get(f"{URL}/runs/{run}").json()
    assert "ended unexpectedly (exit code 1)" in data["message"] and "killed" in data["log"] and not data["active"]


def test_a_dead_child_stays_dead_though_its_heartbeat_is_fresh(page):
    """Once it is told, nothing may wait until the heartbeat is stale: neither the queue nor Resume."""
    client, runs, _ = page
    run = start(client, seed=13)
    waiting = start(client)
    # buried: its process let go, and its end written down (before the start the first two hold as well)
    wait(lambda: run not in runs._children and run not in runs._announced and state(client, run) == "died")
    assert not runs.summary(run)["active"]
    assert "(exit code 1)" in runs.summary(run)["message"]
    wait(lambda: state(client, waiting) == "training", seconds=10)  # less than what makes a heartbeat stale


def test_runs_are_found_again_after_a_restart(page):
    client, runs, host = page
    run = start(client)
    wait(lambda: state(client, run) == "training")
    again = type(runs)(runs.folder, runs._environment)  # as after a restart: nothing in memory
    assert again.summary(run)["state"] == "training"
    again.command(run, "stop")
    wait(lambda: again.summary(run)["state"] == "stopped")
    silent = type(runs)(runs.folder, runs._environment, clock=lambda: time.time() + 60)
    (runs.path(run) / "status.json").write_text(json.dumps({"state": "training", "heartbeat": time.time()}))
    assert silent.summary(run)["state"] == "died"  # no heartbeat for a minute


def test_requests_reach_nothing_outside(page):
    client, runs, _ = page
    run = start(client)
    for name in ("..%2f..%2fconfig.json", "config.json", "step-000000.png%00", "step-999999.png"):
        assert client.get(f"{URL}/runs/{run}/samples/{name}").status_code in (404, 422)
    for name in ("..", "%2e%2e", "20260101-000000-none", "x"):
        assert client.get(f"{URL}/runs/{name}/report").status_code in (404, 422)
    assert client.post(f"{URL}/runs/{run}/command", json={"command": "rm -rf"}).status_code == 422


def test_accounts_and_the_pages_token(page):
    client, _, host = page
    host.cmd_opts.gradio_auth = "anna:secret"
    assert client.get(f"{URL}/runs").status_code == 200
    stranger = testclient.TestClient(client.app)
    assert stranger.get(f"{URL}/runs").status_code == 401
    stale = stranger.get(f"{URL}/runs", headers={"X-ImageReward-Token": "wrong"})
    assert stale.status_code == 401 and "reload the page" in stale.json()["detail"]
    # the routes are the page's alone: an account opens the page, and the page holds the token
    assert stranger.get(f"{URL}/runs", auth=("anna", "secret")).status_code == 401
    tab = host.part("refl_tab.tab")
    assert host.part("refl_tab.api").TOKEN in tab.boot_html("x")


def test_every_route_of_the_tab_needs_the_token_also_without_accounts(page):
    client, runs, _ = page
    stranger = testclient.TestClient(client.app)
    routes = [route for route in client.app.openapi()["paths"].items() if route[0].startswith(URL)]
    assert len(routes) >= 9
    for path, methods in routes:
        for method in methods:
            answer = stranger.request(method, path.format(run_id="x", name="y"), json={} if method != "get" else None)
            assert answer.status_code == 401 and "reload the page" in answer.json()["detail"], (method, path)
    assert runs.list() == []


def test_one_estimate_at_a_time(page):
    client, _, host = page
    calls, begun, go_on = [], threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        calls.append(args)
        begun.set()
        assert go_on.wait(30)
        return types.SimpleNamespace(returncode=0, stdout='{"text": "x"}', stderr="")

    api = host.part("refl_tab.api")
    api.subprocess = types.SimpleNamespace(run=slow, TimeoutExpired=TimeoutError)
    body = {"settings": {"prompts": "a cat"}}
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post(f"{URL}/estimate", json=body).status_code))
    first.start()
    assert begun.wait(30)
    others = [client.post(f"{URL}/estimate", json=body) for _ in range(3)]
    assert [answer.status_code for answer in others] == [429] * 3 and "try again" in others[0].json()["detail"]
    go_on.set()
    first.join(30)
    assert answers == [200] and len(calls) == 1
    assert client.post(f"{URL}/estimate", json=body).status_code == 200


def test_estimate_comes_from_the_training_process(page):
    client, _, _ = page
    answer = client.post(f"{URL}/estimate", json={"settings": {"prompts": "a cat"}})
    assert answer.json() == {"text": "needs 5.5 GB", "unet_calls": 3, "fits": True, "seconds": None}
    assert client.post(f"{URL}/estimate", json={"settings": {}}).json() == answer.json()  # needs no prompts
    assert client.post(f"{URL}/estimate", json={"settings": {"reward": "nothing"}}).status_code == 422


def test_time_is_told_by_an_earlier_run_with_the_settings_that_matter(page):
    client, runs, _ = page
    run = start(client, steps=10, seed=5)
    wait(lambda: client.get(f"{URL}/runs/{run}").json()["next"] == 1)
    with open(runs.path(run) / "events.jsonl", "a") as file:
        file.write(json.dumps({"type": "step", "step": 2, "seconds_per_update": 1.5}) + "\n")

    def seconds(**settings):
        return client.post(f"{URL}/estimate", json={"settings": {"prompts": "a dog", **settings}}).json()["seconds"]

    assert seconds(steps=40) == 60.0
    assert seconds(steps=40, resolution=768) is None and seconds(checkpoint="b.ckpt [123]") is None


def test_missing_libraries_are_named_before_a_start(page, monkeypatch):
    client, runs, host = page
    monkeypatch.setattr(
        host.part("refl_tab.api").installer,
        "status",
        lambda: {"missing": ["diffusers==0.30.3"], "installing": False, "error": ""},
    )
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat"}})
    assert answer.status_code == 422 and "diffusers==0.30.3" in answer.json()["detail"] and runs.list() == []


def test_libraries_go_to_a_folder_of_their_own(host, tmp_path, monkeypatch):
    libraries = host.part("refl_tab.libraries")
    commands = []
    monkeypatch.setattr(libraries, "missing", lambda folder, also: ["peft==0.13.2", *sorted(also)])

    def run(command, **_):
        commands.append(command)
        return types.SimpleNamespace(returncode=1, stdout="", stderr="no network")

    monkeypatch.setattr(libraries.subprocess, "run", run)
    installer = libraries.Installer(tmp_path / "libs", "python")
    installer.start()
    installer._thread.join(10)
    assert commands == [
        [
            "python",
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(tmp_path / "libs"),
            "peft==0.13.2",
        ]
    ]
    assert installer.status()["error"] == "no network"


def test_the_library_of_a_quantised_base_is_wanted_once_it_is_asked_for(page, monkeypatch):
    client, runs, host = page
    libraries, api = host.part("refl_tab.libraries"), host.part("refl_tab.api")
    monkeypatch.setattr(api, "installer", libraries.Installer())
    here = [types.SimpleNamespace(metadata={"Name": name}, version="99") for name in libraries.NEEDED]
    monkeypatch.setattr(libraries.importlib.metadata, "distributions", lambda path=None: here)
    assert api.installer.status()["missing"] == []
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat", "base": "fp4"}})
    assert (
        answer.status_code == 422 and "Base model in memory: must be one of auto, int8, nf4" in answer.json()["detail"]
    )
    assert api.installer.status()["missing"] == []
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat", "base": "nf4"}})
    assert answer.status_code == 422 and "bitsandbytes==0.46.1" in answer.json()["detail"] and runs.list() == []
    assert api.installer.status()["missing"] == ["bitsandbytes==0.46.1"]  # and the button that installs it is shown
    here.append(types.SimpleNamespace(metadata={"Name": "bitsandbytes"}, version="0.45.5"))
    assert libraries.missing(also=["bitsandbytes"]) == ["bitsandbytes==0.46.1"] and libraries.missing() == []
    here[-1].version = "0.50.2"
    assert libraries.missing(also=["bitsandbytes"]) == []


def test_version_comparison_and_environment(host, tmp_path, monkeypatch):
    libraries = host.part("refl_tab.libraries")
    assert (
        libraries._version("0.30.3") == (0, 30, 3)
        and libraries._version("2.1.2+cu121") == (2, 1, 2)
        and libraries._version("1.0.dev0") == (1, 0)
    )
    found = [
        types.SimpleNamespace(metadata={"Name": "diffusers"}, version="0.28.0"),
        types.SimpleNamespace(metadata={"Name": "peft"}, version="0.13.2"),
    ]
    monkeypatch.setattr(libraries.importlib.metadata, "distributions", lambda path=None: [] if path else found)
    wanted = libraries.missing(tmp_path)
    assert "diffusers==0.30.3" in wanted and "peft==0.13.2" not in wanted
    monkeypatch.setenv("PYTHONPATH", "/host")
    (tmp_path / "libs").mkdir()
    child = libraries.environment(tmp_path / "libs")
    assert child["PYTHONPATH"].split(":")[0] == str(tmp_path / "libs") and "/host" not in child["PYTHONPATH"]


def test_gpu_is_lent_and_taken_back(page, monkeypatch):
    _, _, host = page
    asked = []
    lender = host.part("refl_tab.host")
    monkeypatch.setattr(lender.host, "device", lambda: "cuda")
    models = sys.modules["modules.sd_models"]
    models.unload_model_weights = lambda: asked.append("unload")
    models.send_model_to_device = lambda model: asked.append(f"back {model}")
    models.model_data = types.SimpleNamespace(sd_model="model")
    lender.lend_gpu({"id": "1", "device": ""})
    lender.take_back({"id": "1", "device": ""})
    assert asked == ["unload", "back model"]
    lender.lend_gpu({"id": "1", "device": "cpu"})
    assert len(asked) == 2  # a run on the CPU leaves the host alone


# --- what one run does to the others ---------------------------------------------------------------------------------


def test_a_start_answers_at_once_while_the_host_is_busy(page):
    """The host lends its GPU when its own job is done: until then the run is queued and every route answers."""
    client, runs, _ = page
    free, asked = threading.Event(), []

    def lend(run):
        asked.append(run["id"])
        assert free.wait(30)

    runs._before = lend
    first = start(client, seed=1)
    wait(lambda: asked == [first])
    second = start(client, seed=2)  # answers although the first still waits
    assert [run["state"] for run in client.get(f"{URL}/runs").json()["runs"]] == ["queued", "queued"]
    assert client.post(f"{URL}/runs/{second}/command", json={"command": "stop"}).json()["state"] == "cancelled"
    assert runs._children == {}
    assert "waits until the WebUI" in client.get(f"{URL}/runs/{first}").json()["message"]
    free.set()
    wait(lambda: state(client, first) == "training")
    assert state(client, second) == "cancelled"


def test_a_run_cancelled_while_the_host_is_busy_never_starts(page):
    client, runs, _ = page
    free, told = threading.Event(), []
    runs._before, runs._after = (lambda run: free.wait(30)), (lambda run: told.append(run["id"]))
    run = start(client)
    wait(lambda: runs._serving)
    client.post(f"{URL}/runs/{run}/command", json={"command": "stop"})
    free.set()
    wait(lambda: told == [run])  # what was lent is taken back
    assert state(client, run) == "cancelled" and runs._children == {}


@pytest.mark.parametrize("keep_going", [True, False])
def test_only_a_run_that_is_to_keep_going_outlives_the_host(page, monkeypatch, keep_going):
    client, runs, host = page
    started = []
    real = host.part("refl_tab.runs").subprocess.Popen

    def popen(command, **options):
        started.append((command, options["stdin"]))
        return real(command, **options)

    monkeypatch.setattr(host.part("refl_tab.runs").subprocess, "Popen", popen)
    body = {"settings": {"prompts": "a cat", "seed": 13}, "keep_going": keep_going}
    client.post(f"{URL}/runs", json=body)
    wait(lambda: started)
    command, stdin = started[0]
    assert ("--follow-stdin" in command) is not keep_going
    assert stdin == (subprocess.DEVNULL if keep_going else subprocess.PIPE)


# --- one bad file hides nothing --------------------------------------------------------------------------------------


def old_run(runs, name, status, events="", **config):
    path = runs.folder / f"20250101-00000{name}"
    (path / "samples").mkdir(parents=True)
    settings = {"pretrained_model_name_or_path": "/a.safetensors", "max_train_steps": 9, "rewards": ["CLIP"], **config}
    (path / "config.json").write_text(json.dumps(settings))
    (path / "status.json").write_text(status)
    (path / "events.jsonl").write_text(events)
    return path.name


def test_damaged_runs_are_shown_as_such_and_the_others_live(page):
    client, runs, _ = page
    good = old_run(runs, 0, '{"state": "finished", "step": 9}')
    torn = old_run(runs, 1, '{"state": "finished"}')
    (runs.folder / torn / "config.json").write_text('{"seed": 1, "promp')
    bad = [
        old_run(runs, 2, '{"state": "training", "step": null}'),
        old_run(runs, 3, '{"state": "trai'),
        old_run(runs, 4, '{"state": "finished", "step": 1e999}'),
        old_run(runs, 5, '{"state": "finished"}', max_train_steps="many"),
        old_run(runs, 6, '{"state": "finished"}', rewards=[3]),
        old_run(runs, 7, '{"state": "finished", "heartbeat": NaN}'),
    ]
    answer = client.get(f"{URL}/runs")
    assert answer.status_code == 200
    states = {run["id"]: run["state"] for run in answer.json()["runs"]}
    assert states == {good: "finished", **dict.fromkeys([torn, *bad], "damaged")}
    for name in (torn, *bad):
        shown = client.get(f"{URL}/runs/{name}").json()
        assert "damaged" in shown["message"] and shown["hint"] and not shown["active"]
    assert "step must be a number, found None" in client.get(f"{URL}/runs/{bad[0]}").json()["message"]
    refused = client.post(f"{URL}/runs/{torn}/command", json={"command": "resume"})
    assert refused.status_code == 422 and "the settings of this run are damaged" in refused.json()["detail"]
    assert client.get(f"{URL}/runs/{torn}/settings").status_code == 422
    assert client.delete(f"{URL}/runs/{torn}").status_code == 200
    run = start(client)
    wait(lambda: state(client, run) == "training")


def test_a_torn_line_of_the_log_leaves_the_curve(page):
    client, runs, _ = page
    lines = ['{"type": "step", "step": 1, "reward": 0.5}', '{"type": "st', "null", '{"type": "step", "step": NaN}']
    name = old_run(runs, 0, '{"state": "finished", "step": 2}', "\n".join([*lines, lines[0]]) + "\n")
    shown = client.get(f"{URL}/runs/{name}").json()
    assert [event["type"] for event in shown["events"]] == ["step", "damaged", "damaged", "damaged", "step"]
    assert shown["next"] == 5 and client.get(f"{URL}/runs/{name}?after=4").json()["events"] == shown["events"][4:]


def test_a_full_disk_at_resume_destroys_no_settings(page, monkeypatch):
    client, runs, host = page
    name = old_run(runs, 0, '{"state": "stopped", "step": 3}', seed=5)
    before = (runs.folder / name / "config.json").read_bytes()
    atomic = sys.modules[host.part("core").CORE_NAME + ".atomic"]

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "replace", full)
    answer = client.post(f"{URL}/runs/{name}/command", json={"command": "resume"})
    assert answer.status_code == 422 and "No space left" in answer.json()["detail"]
    assert (runs.folder / name / "config.json").read_bytes() == before
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat"}})
    assert answer.status_code == 422 and "No space left" in answer.json()["detail"]
    assert [run["id"] for run in runs.list()] == [name]  # no half-made run is left


def test_an_unwritable_folder_for_results_is_said_at_the_start(page, tmp_path):
    client, runs, _ = page
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models" / "Lora").write_text("a file where the folder should be")
    answer = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat"}})
    assert answer.status_code == 422 and "the result cannot be written" in answer.json()["detail"] and not runs.list()


# --- names of results ------------------------------------------------------------------------------------------------


def test_a_name_is_promised_to_one_run_until_it_has_ended(page):
    client, runs, _ = page

    def name(run):
        return json.loads((runs.path(run) / "config.json").read_text())["output_name"]

    first, second = start(client), start(client)
    assert (name(first), name(second)) == ("a-refl", "a-refl-2")
    taken = client.post(f"{URL}/runs", json={"settings": {"prompts": "a cat", "output_name": "A-REFL"}})
    assert taken.status_code == 422 and "choose another name" in taken.json()["detail"]
    assert client.get(f"{URL}/runs/{first}/settings").json()["settings"]["output_name"] == ""  # a clone gets its own
    wait(lambda: state(client, first) == "training")
    for run, end in ((second, "cancelled"), (first, "stopped")):
        assert client.post(f"{URL}/runs/{run}/command", json={"command": "stop"}).status_code == 200
        wait(lambda run=run, end=end: state(client, run) == end)
    assert name(start(client)) == "a-refl"  # nothing was written, nobody holds it


@pytest.mark.parametrize("name", ["con", "a\u0000b", "a\ud800", "x" * 201, "..", "a.", "a?b", 7, ["a"], None])
def test_names_that_no_file_can_have_are_refused(page, name):
    client, runs, _ = page
    answer = client.post(
        f"{URL}/runs",
        content=json.dumps({"settings": {"prompts": "a", "output_name": name}}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422 and "Name of the result" in answer.json()["detail"] and not runs.list()


# --- the form --------------------------------------------------------------------------------------------------------

OTHER_VALUES = {
    "checkpoint": "b.ckpt [123]",
    "output_name": "mine",
    "prompts": ["a dog", "an owl"],
    "from_outputs": True,
    "reward": "CLIP",
    "second_reward": "CLIP",
    "second_weight": 0.123456789,
    "judge": "CLIP",
    "preset": "24 GB",
    "algorithm": "draft-lv",
    "steps": 7,
    "learning_rate": 3e-5,
    "rank": 3,
    "guidance": 4.5,
    "resolution": 640,
    "anchor": "pretrain",
    "anchor_folder": "my images",
    "held_out": 5,
    "stop_rule": "off",
    "seed": 2**31,
    "output": "single-file",
    "learn": "my picks",
    "picks": "another taste",
    "picks_file": "duels.jsonl",
    "beta": 2000.0,
    "base": "nf4",
}


def test_settings_through_the_form_are_the_same_settings(page):
    """config → form → config, with each field at another value than its default, alone and together."""
    _, _, host = page
    form = host.part("refl_tab.form")
    (form.refl_host.data_folder() / "my images").mkdir(parents=True)
    (form.refl_host.data_folder() / "duels.jsonl").write_text("")
    assert list(OTHER_VALUES) == [field.name for field in form.FIELDS]
    base = {"prompts": ["a cat"]}
    needs = {"second_weight": {"second_reward": "CLIP"}, "anchor_folder": {"anchor": "pretrain"}}
    needs |= dict.fromkeys(("picks", "picks_file"), {"learn": "my picks"})
    default = form.build_config(base)
    together = dict(OTHER_VALUES) | {"reward": "ImageReward-v1.0", "learn": "a reward"}
    together |= {"picks": "my-taste", "picks_file": ""}  # a run follows one of the two
    of_picks = {**together, "learn": "my picks", "picks_file": "duels.jsonl", "algorithm": "refl+"}
    singles = [{**base, **needs.get(name, {}), name: value} for name, value in OTHER_VALUES.items()]
    for settings in (base, together, of_picks, *singles):
        config = form.build_config(settings)
        back = form.form_settings(config)
        assert form.build_config(back) == config
        sizes = form.PRESETS[settings.get("preset", "8 GB")]
        assert form.PRESETS[back["preset"]] == sizes  # two names may stand for the same sizes
        assert {name: back[name] for name in settings} == {
            **settings,
            **({"preset": back["preset"]} if "preset" in settings else {}),
        }
        assert settings is base or config != default
        assert list(back) == [field.name for field in form.FIELDS]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"steps": 1e400}, "Updates"),
        ({"steps": "1e999"}, "Updates"),
        ({"steps": 3.5}, "whole number"),
        ({"steps": True}, "not a number"),
        ({"steps": None}, "not a number"),
        ({"steps": "9" * 5000}, "not a number"),
        ({"learning_rate": float("nan")}, "Learning rate"),
        ({"learning_rate": [1]}, "not a number"),
        ({"from_outputs": "false"}, "true or false"),
        ({"prompts": {"a": 1}}, "must be text"),
        ({"prompts": ["a", 5]}, "must be text"),
        ({"prompts": "a \ud800 cat"}, "a character that is none"),
        ({"checkpoint": {"x": 1}}, "Checkpoint"),
        ({"anchor": "pretrain", "anchor_folder": "a\u0000b"}, "a character that is none"),
    ],
)
def test_values_of_another_kind_are_named(page, settings, word):
    client, runs, _ = page
    body = json.dumps({"settings": {"prompts": "a cat", **settings}})
    for route in ("runs", "estimate"):
        answer = client.post(f"{URL}/{route}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        if isinstance(answer.json()["detail"], str) and "JSON" not in answer.text:
            assert word in answer.json()["detail"]
    assert runs.list() == []


@pytest.mark.parametrize("field", ["prompts", "output_name", "anchor_folder"])
def test_half_a_character_is_none(page, field):
    form = page[2].part("refl_tab.form")
    with pytest.raises(form.SettingError, match="a character that is none"):
        form.build_config({"prompts": "a cat", "anchor": "pretrain", field: "a\ud800"})


def test_the_page_reads_the_words_of_the_protocol(page):
    from imagereward_core.runs import schema

    client, _, _ = page
    assert client.get(f"{URL}/schema").json() == schema()


def test_guidance_starts_as_the_hosts_own_page(page, monkeypatch):
    client = page[0]
    assert client.get(f"{URL}/options").json()["guidance"] is None
    saved = types.SimpleNamespace(ui_settings={"txt2img/CFG Scale/value": 4.5})
    demo = types.SimpleNamespace(ui_loadsave=saved)  # where ui.py of every host keeps it
    monkeypatch.setattr(sys.modules["modules.shared"], "demo", demo, raising=False)
    assert client.get(f"{URL}/options").json()["guidance"] == 4.5
