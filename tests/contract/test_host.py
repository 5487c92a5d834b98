"""What is asked of the host, and what is told to it: each question with the answers that the hosts give."""

import sys
import types

import pytest
from PIL import Image

from .test_filtering import reds


@pytest.fixture
def asked(host):
    return host.part("host")


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["backend.memory_management", "ldm_patched.modules.model_management"])
def test_the_hosts_memory_manager_is_asked_for_room(asked, monkeypatch, manager):
    wanted = []
    free = types.SimpleNamespace(free_memory=lambda size, device: wanted.append((size, str(device))))
    monkeypatch.setitem(sys.modules, manager, free)
    asked.make_room(1000, "cuda:1")
    assert wanted == [(1000, "cuda:1")]
    asked.make_room(1000, "cpu")
    assert len(wanted) == 1


def test_a_host_without_a_manager_is_not_asked(asked):
    asked.make_room(1000, "cuda")


def test_loading_asks_for_room_for_a_full_size_scorer(host, generate, monkeypatch):
    wanted = []
    manager = types.SimpleNamespace(free_memory=lambda size, device: wanted.append((size, str(device))))
    monkeypatch.setitem(sys.modules, "backend.memory_management", manager)
    monkeypatch.setattr(host.part("host"), "device", lambda: "cuda")
    monkeypatch.setattr(host.part("host"), "vram_gb", lambda name: 8.0)
    generate()
    assert wanted == [(1_500_000_000, "cuda")]
    generate()  # it was moved to the CPU after the job, and comes back
    assert wanted[1:] == [(250 * 1001 * 4, "cuda")]


def test_garbage_goes_back_to_the_device(asked, monkeypatch):
    called = []
    monkeypatch.setattr(sys.modules["modules.devices"], "torch_gc", lambda: called.append(True))
    asked.collect_garbage()
    assert called == [True]


@pytest.mark.parametrize(("setting", "device"), [("auto", "cuda:3"), ("cpu", "cpu"), ("mps", "mps")])
def test_the_device(host, asked, monkeypatch, setting, device):
    tasks = []
    monkeypatch.setattr(
        sys.modules["modules.devices"], "get_device_for", lambda task: tasks.append(task) or "cuda:3", raising=False
    )
    host.options.data["imagereward_device"] = setting
    assert asked.device() == device and tasks == (["imagereward"] if setting == "auto" else [])


def test_the_device_of_a_host_that_names_one(asked, monkeypatch):
    monkeypatch.setattr(sys.modules["modules.devices"], "get_device_for", None)
    monkeypatch.setattr(sys.modules["modules.devices"], "device", "xpu")
    assert asked.device() == "xpu"


def test_memory_of_other_devices_is_unknown(asked):
    assert asked.vram_gb("cpu") is None and asked.vram_gb("mps") is None


# --- paths ----------------------------------------------------------------------------------------


def test_the_models_folder(host, asked, tmp_path):
    assert asked.models_dir() == tmp_path / "models" / "ImageReward"
    host.options.data["imagereward_models_dir"] = str(tmp_path / "set")
    assert asked.models_dir() == tmp_path / "set"
    host.cmd_opts.imagereward_models_path = str(tmp_path / "given")
    assert asked.models_dir() == tmp_path / "given"


def test_what_a_training_run_wrote_is_listed_at_once(host, monkeypatch):
    refreshed = []
    monkeypatch.setattr(
        sys.modules["modules.shared"], "refresh_checkpoints", lambda: refreshed.append("checkpoints"), raising=False
    )
    networks = types.SimpleNamespace(list_available_networks=lambda: refreshed.append("LoRA"))
    monkeypatch.setitem(sys.modules, "networks", networks)
    monkeypatch.setitem(sys.modules, "modules.sd_models", types.SimpleNamespace())
    host.part("refl_tab.host").take_back({"device": "cpu", "id": "1"})
    assert refreshed == ["checkpoints", "LoRA"]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        ({}, "AUTOMATIC1111"),
        ({"modules_forge": {}}, "reForge"),
        ({"modules_forge": {}, "backend.memory_management": {}}, "Forge"),
        (
            {
                "modules_forge": {},
                "backend.memory_management": {},
                "backend.args": {"dynamic_args": types.SimpleNamespace(wan=False)},
            },
            "Forge Neo",
        ),
        ({"modules_forge": {}, "backend.memory_management": {}, "backend.args": {"dynamic_args": {}}}, "Forge"),
    ],
)
def test_the_hosts_name(asked, monkeypatch, modules, name):
    for module, content in modules.items():
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**content))
    assert asked.name() == name


# --- a running job --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "interrupted", "cut_short"),
    [
        ({}, False, False),
        ({"interrupted": True}, True, True),
        ({"skipped": True}, True, True),
        ({"stopping_generation": True}, True, False),
    ],
)
def test_interrupt_and_skip(host, asked, flags, interrupted, cut_short):
    vars(host.state).update(flags)
    assert (asked.interrupted(), asked.cut_short()) == (interrupted, cut_short)
    del host.state.stopping_generation  # older hosts have no such button
    asked.interrupted()


@pytest.mark.parametrize(("job_no", "count", "last"), [(0, 3, False), (2, 3, False), (3, 3, True), (0, -1, True)])
def test_the_last_image_of_extras(host, asked, job_no, count, last):
    host.state.job_no, host.state.job_count = job_no, count
    assert asked.at_last_image() is last


def test_progress_text(host, asked):
    asked.show_progress("loading")
    assert host.state.textinfo == "loading"
    asked.show_progress(None)
    assert host.state.textinfo is None


@pytest.mark.parametrize("is_api", [True, False])
def test_too_few_arguments_are_counted_for_api_clients_only(host, asked, is_api):
    p = host.job(script="ImageReward - generate human preference scores", script_args=[True], is_api=is_api)
    assert asked.missing_arguments(p) == (1 if is_api else 0)
    assert asked.missing_arguments(types.SimpleNamespace(is_api=True, scripts=None, script_args=[1])) == 0


@pytest.mark.parametrize(
    ("args", "title"),
    [({}, None), ([], None), ([0], None), ([None], None), ([1], "A"), ([2], "B"), ([9], "another script")],
)
def test_the_driving_script(asked, args, title):
    scripts = [types.SimpleNamespace(title=lambda name=name: name) for name in "AB"]
    p = types.SimpleNamespace(script_args=args, scripts=types.SimpleNamespace(selectable_scripts=scripts))
    assert asked.driving_script(p) == title


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "composite", "count"), [(False, False, 0), (True, False, 1), (True, True, 2)])
def test_masks_per_image(host, asked, mask, composite, count):
    host.options.data.update(return_mask=mask, return_mask_composite=composite)
    assert asked.masks_per_image(types.SimpleNamespace(mask_for_overlay=Image.new("L", (8, 8)))) == count
    assert asked.masks_per_image(types.SimpleNamespace(mask_for_overlay=None)) == 0


def test_the_mask_of_a_single_image_stays_with_it(host):
    """With one image only the settings tell its mask from a control map at the tail."""
    host.options.data.update(return_mask=True)
    processed = host.img2img(seed=148, mask=Image.new("L", (8, 8), 255), accordion={"sort": True})
    assert host.errors == [] and reds(processed.images[0].tiles) == [48, 255]


def test_the_grid_is_written_with_the_users_settings(host, asked, generate):
    host.options.data.update(grid_format="webp", grid_extended_filename=True, enable_pnginfo=False)
    saved = []
    save = sys.modules["modules.images"].save_image
    sys.modules["modules.images"].save_image = lambda *args, **kwargs: (
        saved.append((args, kwargs)) or save(*args, **kwargs)
    )
    processed = generate(seeds=2, accordion={"sort": True})
    args, options = saved[-1]
    assert args[2:] == ("grid", 148, "a cat", "webp") and args[1].endswith("grids")
    assert options["grid"] is True and options["short_filename"] is False
    assert "parameters" not in processed.images[0].info
    assert options["info"] == processed.infotexts[0]


def test_infotext_of_an_image_without_any(asked):
    assert asked.read_infotext(Image.new("RGB", (8, 8))) == {}


def test_infotext_names(host, asked):
    assert asked.infotext_names() == []
    host.options.data_labels = {"a": types.SimpleNamespace(infotext=None), "b": types.SimpleNamespace(infotext="Eta")}
    assert asked.infotext_names() == ["Eta"]


def test_results_are_refreshed_once_however_often_the_ui_is_reloaded(host, asked):
    calls = []
    for _ in range(3):
        asked.before_results_are_sent(calls.append)
    processed = host.txt2img(seed=148, accordion={})
    processed.js()
    assert calls == [processed]


def test_the_folder_of_shown_pictures_is_there_when_a_result_is_sent(host, asked, tmp_path):
    """Forge Neo's `temp_dir` may not exist: its gallery would fail, and with it the result that was made."""
    asked.module("shared").opts.temp_dir = str(tmp_path / "webui" / "tmp")
    asked.before_results_are_sent(lambda processed: None)
    processed = host.txt2img(seed=148, accordion={})
    assert not (tmp_path / "webui").exists()  # nothing is made before it is needed
    processed.js()
    assert (tmp_path / "webui" / "tmp").is_dir()


@pytest.mark.parametrize(("is_api", "status"), [(True, 422), (False, None)])
def test_a_bad_input_answers_clients_with_422(asked, is_api, status):
    error = asked.input_error(types.SimpleNamespace(is_api=is_api), ValueError("no number"))
    assert getattr(error, "status_code", None) == status and "no number" in str(getattr(error, "detail", error))
