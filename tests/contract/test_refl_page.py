"""The ReFL tab as a page: what it offers on each host, what its buttons do, what it tells of a run."""

from __future__ import annotations

import json
import sys
import time
import types

import pytest

pytest.importorskip("fastapi")

from .test_refl_tab import URL, old_run, page, wait, write_checkpoint  # noqa: E402, F401  page is a fixture

PROMPTS = "\n".join(f"prompt number {n}" for n in range(60))


@pytest.fixture
def actions(page):  # noqa: F811
    """(the tab's actions, the host)."""
    _, _, host = page
    tab = host.part("refl_tab.tab")
    form, runs = host.part("refl_tab.form_page").Form(), host.part("refl_tab.run_page").RunView()
    return tab.Actions(form, runs, None, None), host


def values(actions, **changes):
    """What the page sends for the form: `source`, then every field, as the widgets stand but for `changes`."""
    form = actions.form
    source = changes.pop("source", "These prompts")
    changes.pop("far", None)
    shown = {name: widget.value for name, widget in form.widgets.items()}
    assert not set(changes) - set(shown)
    return [source, *({**shown, **changes}[name] for name in form.names)]


def press_start(actions, **changes):
    """The line below the button, and the runs."""
    said = actions.start("", None, False, changes.get("far", "normal"), *values(actions, **changes))[0]
    return said, actions.runs


# --- which checkpoint, which VAE: stand-ins for the hosts ------------------------------------------------------------


def checkpoint(title, path, *aliases):
    return types.SimpleNamespace(title=title, filename=str(path), aliases=aliases)


def host_with(models, *infos, match=None):
    models.checkpoints_list = {info.title: info for info in infos}
    models.checkpoint_aliases = {name: info for info in infos for name in (info.title, *info.aliases)}
    models.get_closet_checkpoint_match = match or models.checkpoint_aliases.get


@pytest.mark.parametrize(
    "setting",
    [
        "sd/model.safetensors [0123456789]",  # A1111: the title
        "model [0123456789]",  # A1111 with file names without paths: the short title
        "sd/model.safetensors",  # Forge and Neo: the name
        "0123456789",  # a hash, as infotexts hold it
    ],
)
def test_the_checkpoint_that_the_host_means_is_preselected(page, tmp_path, setting):  # noqa: F811
    _, _, host = page
    write_checkpoint(tmp_path / "model.safetensors", ["cond_stage_model.x"])
    title = "sd/model.safetensors [0123456789]"
    names = ("model [0123456789]", "sd/model.safetensors", "0123456789")
    first = checkpoint("another.safetensors [99]", tmp_path / "a.safetensors")
    host_with(sys.modules["modules.sd_models"], first, checkpoint(title, tmp_path / "model.safetensors", *names))
    host.options.data["sd_model_checkpoint"] = setting
    form = host.part("refl_tab.form_page").Form()
    assert form.widgets["checkpoint"].value == title
    config = host.part("refl_tab.form").build_config({"prompts": "a cat"})
    assert config["pretrained_model_name_or_path"] == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("setting", ["gone.safetensors", "", None])
def test_nothing_found_is_nothing_selected_and_is_said(page, setting):  # noqa: F811
    _, _, host = page
    sys.modules["modules.sd_models"].get_closet_checkpoint_match = lambda name: None
    host.options.data["sd_model_checkpoint"] = setting
    pages = host.part("refl_tab.form_page")
    assert pages.Form().widgets["checkpoint"].value is None
    assert "No checkpoint is chosen" in pages.about("")
    with pytest.raises(host.part("refl_tab.form").SettingError, match="none is chosen"):
        host.part("refl_tab.form").build_config({"prompts": "a cat"})


def test_the_vae_of_forge_and_neo_is_among_the_additional_modules(page, tmp_path):  # noqa: F811
    _, _, host = page
    lender = host.part("refl_tab.host")
    host.options.data["sd_vae"] = "good.pt"
    assert lender.selected_vae() == str(tmp_path / "good.pt")  # A1111
    write_checkpoint(tmp_path / "text.safetensors", ["encoder.block.0.layer.0.x"])
    write_checkpoint(tmp_path / "mine.safetensors", ["decoder.up_blocks.0.x", "encoder.down_blocks.0.x"])
    host.options.data["forge_additional_modules"] = [str(tmp_path / "text.safetensors")]
    assert lender.selected_vae() == ""  # `sd_vae` means nothing there
    host.options.data["forge_additional_modules"].append(str(tmp_path / "mine.safetensors"))
    assert lender.selected_vae() == str(tmp_path / "mine.safetensors")
    (tmp_path / "VAE").mkdir()
    (tmp_path / "VAE" / "old.pt").write_bytes(b"\x80\x02")  # its header tells nothing, its place does
    host.options.data["forge_additional_modules"] = [str(tmp_path / "VAE" / "old.pt")]
    config = host.part("refl_tab.form").build_config({"prompts": "a cat"})
    assert config["vae"] == str(tmp_path / "VAE" / "old.pt")


def test_text_encoders_of_forge_and_neo_are_handed_to_a_flow_matching_run(page, tmp_path):  # noqa: F811
    _, _, host = page
    form = host.part("refl_tab.form")
    flow, plain = tmp_path / "flow.safetensors", tmp_path / "plain.safetensors"
    write_checkpoint(flow, ["double_blocks.0.img_attn.x"])
    write_checkpoint(plain, ["cond_stage_model.x"])
    host_with(sys.modules["modules.sd_models"], checkpoint("flow [1]", flow), checkpoint("plain [2]", plain))
    asked = {"prompts": "a cat", "checkpoint": "flow [1]"}
    assert form.build_config(asked)["parts"] == []  # A1111 has no such files
    text, vae = tmp_path / "text.safetensors", tmp_path / "ae.safetensors"
    write_checkpoint(text, ["encoder.block.0.layer.0.x"])
    write_checkpoint(vae, ["decoder.up_blocks.0.x"])
    host.options.data["forge_additional_modules"] = [str(text), str(vae)]
    config = form.build_config(asked)
    assert config["parts"][0] == str(text) and str(vae) not in config["parts"] and config["vae"] == str(vae)
    assert "parts" not in form.build_config({**asked, "checkpoint": "plain [2]"})


def test_new_checkpoints_go_to_the_first_of_neos_folders(page, tmp_path):  # noqa: F811
    _, _, host = page
    host.cmd_opts.ckpt_dirs = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert host.part("refl_tab.host").checkpoint_folder() == tmp_path / "first"


# --- what can be trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensors", "why"),
    [
        ("x.safetensors", ["lora_unet_a.lora_up.weight"], "a LoRA"),
        ("x.safetensors", ["double_stream_blocks.0.x"], "a HiDream model"),
        ("x.safetensors", ["edm_mean", "conditioner.embedders.0.x"], "Playground v2.5"),
        ("x.safetensors", ["t_block.1.weight"], "a PixArt model"),
        ("x.safetensors", ["model.diffusion_model.out.0.weight"], "no text encoder"),
        ("sd_turbo.safetensors", ["cond_stage_model.x"], "few-step model (turbo)"),
        ("x.gguf", None, "quantised (GGUF)"),
    ],
)
def test_the_form_marks_what_cannot_be_trained(page, tmp_path, name, tensors, why):  # noqa: F811
    _, runs, host = page
    path = tmp_path / name
    path.write_bytes(b"GGUF....") if tensors is None else write_checkpoint(path, tensors)
    good = checkpoint("a [1]", tmp_path / "a.safetensors")
    host_with(sys.modules["modules.sd_models"], checkpoint("bad [2]", path), good)
    pages = host.part("refl_tab.form_page")
    first, label = pages.marked_choices("checkpoint")
    assert first == "a [1]"  # what can be trained comes first
    assert label.startswith("bad [2] — cannot be trained:") and why in label
    assert pages.meant("checkpoint", label) == "bad [2]" and why in pages.about(label)
    assert why in pages.about("bad [2]") and "error" in pages.about("bad [2]")
    with pytest.raises(host.part("refl_tab.form").SettingError, match="cannot be trained"):
        host.part("refl_tab.form").build_config({"prompts": "a cat", "checkpoint": "bad [2]"})


def test_what_the_form_calls_trainable_are_the_trainers_families(page):  # noqa: F811
    from refl.families import FAMILIES

    known, form = page[2].part("refl_tab.checkpoints").FAMILIES, page[2].part("refl_tab.form")
    assert {key: family.name for key, family in FAMILIES.items()} == known
    usual = {key: family.usual.guidance for key, family in FAMILIES.items()}
    assert {key: form.usual_guidance(key) for key in known} == usual
    from refl.families import FLOWS

    assert set(page[2].part("refl_tab.checkpoints").FLOWS) == set(FLOWS)


# --- Basic -----------------------------------------------------------------------------------------------------------


def test_two_clicks_lead_to_a_running_quick_try(actions):
    actions, host = actions
    assert [update["value"] for update in actions.budget("quick try", "a.safetensors [123]")] == [20, 1e-4, 8]
    said, _ = press_start(actions, far="quick try")  # before the numbers have reached the fields
    api = host.part("refl_tab.api")
    (run,) = api.runs().list()
    assert f"Run {run['id']} is started." in said and run["max_steps"] == 20
    config = api.runs().config(run["id"])
    assert len(config["prompts"]) == 64 and config["held_out"] == 8
    wait(lambda: api.runs().summary(run["id"])["state"] == "training")


def test_numbers_of_ones_own_are_not_replaced(actions):
    actions, host = actions
    press_start(actions, far="quick try", steps=100, learning_rate=2e-4)
    runs = host.part("refl_tab.api").runs()
    config = runs.config(runs.list()[0]["id"])
    assert (config["max_train_steps"], config["learning_rate"]) == (100, 2e-4)


def test_a_budget_depends_on_the_family(page, tmp_path):  # noqa: F811
    _, _, host = page
    write_checkpoint(tmp_path / "xl.safetensors", ["conditioner.embedders.0.transformer.x"])
    host_with(sys.modules["modules.sd_models"], checkpoint("xl [1]", tmp_path / "xl.safetensors"))
    pages, form = host.part("refl_tab.form_page"), host.part("refl_tab.form")
    for name in form.HOW_FAR:
        assert (
            pages.budget(name, "xl [1]")["steps"]
            < form.how_far(name, "sd1")["steps"]
            == pages.budget(name, "")["steps"]
        )


@pytest.mark.parametrize(
    ("count", "word"), [(0, "At least 8 are needed"), (7, "At least 8 are needed"), (8, "That is few: 2 are held out")]
)
def test_few_prompts_are_warned_about_and_too_few_refused(actions, count, word):
    actions, host = actions
    text = "\n".join(f"a {n}" for n in range(count))
    assert word in host.part("refl_tab.form_page").prompts_note("These prompts", text)
    said, _ = press_start(actions, prompts=text)
    runs = host.part("refl_tab.api").runs()
    if count < 8:
        assert "at least 8 are needed" in said and runs.list() == []
    else:
        assert runs.config(runs.list()[0]["id"])["held_out"] == 2  # a quarter: most are trained on


def test_enough_prompts_are_counted_and_three_are_shown(page):  # noqa: F811
    note = page[2].part("refl_tab.form_page").prompts_note("These prompts", PROMPTS)
    assert "60 prompts: " in note and note.count("prompt number") == 3 and "warning" not in note


def test_prompts_of_my_images_need_no_others(actions):
    actions, host = actions
    said, _ = press_start(actions, source="Prompts of my images", prompts="a cat")
    runs = host.part("refl_tab.api").runs()
    config = runs.config(runs.list()[0]["id"])
    assert config["prompts"] == [] and config["train_data"] == str(host.part("refl_tab.host").outputs_folder())
    back = host.part("refl_tab.form").form_settings(config)
    assert actions.form.filled(back)[0]["value"] == "Prompts of my images"


def test_a_file_of_prompts_fills_the_box_or_says_what_is_wrong(actions, tmp_path):
    actions, _ = actions
    (tmp_path / "p.csv").write_text('id,prompt\n1,"a cat, red"\n2,a dog\n')
    box, note = actions.load_file(str(tmp_path / "p.csv"), "These prompts")
    assert box["value"] == "a cat, red\na dog" and "2 prompts" in note
    (tmp_path / "q.csv").write_text("id,name\n1,x\n")
    box, note = actions.load_file(types.SimpleNamespace(name=str(tmp_path / "q.csv")), "These prompts")
    assert "value" not in box and "no text under text, prompt, caption" in note


def test_the_reward_falls_to_a_scorer_that_is_here_and_a_download_is_said(page, monkeypatch):  # noqa: F811
    _, _, host = page
    rewards = host.part("refl_tab.rewards")
    monkeypatch.setattr(rewards, "to_download", lambda name: 1_790_000_000)
    assert rewards.default() == "ImageReward-v1.0"
    assert "begins with a download of 1.8 GB" in rewards.note("ImageReward-v1.0")
    folder = rewards.host.models_dir()
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "a-lora.safetensors", ["lora_unet_a.lora_up.weight"])  # no reward, whatever lies here
    write_checkpoint(folder / "mine.safetensors", ["blip.visual_encoder.x"])
    monkeypatch.setattr(rewards, "to_download", lambda name: int("safetensors" not in name))
    assert rewards.default() == "mine.safetensors" and rewards.note("mine.safetensors") == ""


# --- Advanced --------------------------------------------------------------------------------------------------------


def test_every_advanced_field_has_a_group_and_a_line_of_help(page):  # noqa: F811
    form = page[2].part("refl_tab.form")
    for field in form.FIELDS:
        assert field.group in form.GROUPS
        assert field.help or field.group == form.BASIC, field.name


def test_settings_are_saved_under_a_name_and_come_back(actions):
    actions, host = actions
    choices, said = actions.save(" mine ", *values(actions, rank=4, anchor="samples", prompts=PROMPTS))
    assert choices["choices"] == ["mine"] and "Saved as mine" in said
    _, *updates = actions.load("mine")
    filled = dict(zip(["source", *actions.form.names], updates))
    assert filled["rank"]["value"] == 4 and filled["anchor"]["value"] == "samples"
    for name in ("source", "prompts", "checkpoint", "output_name"):  # these belong to one run
        assert "value" not in filled[name]
    assert "empty" in actions.save(" ", *values(actions))[1]
    assert actions.forget("mine")[0]["choices"] == []
    store = host.part("refl_tab.form_page").store()
    store.path.write_text("{")
    assert "damaged" in actions.load("mine")[0] and "damaged" in actions.save("x", *values(actions))[1]


def test_gpu_presets_are_chosen_by_the_card(page):  # noqa: F811
    presets = page[2].part("core").presets
    found = {gib: presets.of_memory(gib) for gib in (None, 5.9, 7.8, 11.7, 15.7, 23.6, 79.2)}
    assert list(found.values()) == ["8 GB", "8 GB", "8 GB", "12 GB", "16 GB", "24 GB", "24 GB"]


# --- Estimate --------------------------------------------------------------------------------------------------------


def test_estimate_needs_no_prompts_and_shows_a_table(actions):
    actions, host = actions
    api = host.part("refl_tab.api")
    cells = [{"resolution": 512, "batch": n, "gb": 4.0 + n, "fits": n < 4, "chosen": n == 1} for n in (1, 2, 4)]
    bases = [{"base": "auto", "gb": 25.0, "card": None, "chosen": True}]
    bases += [{"base": "nf4", "gb": 11.5, "card": 12, "chosen": False}]
    told = {"text": "needs 5.0 GB, free 7.0 GB", "fits": True, "table": cells, "bases": bases}
    api.subprocess = types.SimpleNamespace(
        run=lambda command, **_: types.SimpleNamespace(
            returncode=0, stdout=json.dumps(told), stderr="", command=command
        ),
        TimeoutExpired=TimeoutError,
    )
    shown = actions.estimate(*values(actions, prompts=""))
    assert "Needs 5.0 GB, free 7.0 GB." in shown and shown.count("<td class=") == 3
    assert "auto 25.0 GB (more than a card of 24 GB), nf4 11.5 GB (a card of 12 GB)" in shown
    told |= {"fits": False, "free": 12 * 2**30}
    assert "resolution, or keep the base model in nf4, which fits." in actions.estimate(*values(actions, prompts=""))
    told["free"] = 11 * 2**30
    assert "choose a smaller batch or resolution.<" in actions.estimate(*values(actions, prompts=""))
    assert 'class="fits chosen">5.0' in shown and 'class="too-large">8.0' in shown


@pytest.mark.parametrize(
    ("stdout", "stderr", "said"),
    [
        ('{"error": "the file is a LoRA"}\n', "2026-11-27 10:00:00 ERROR the file is a LoRA\n", ">the file is a LoRA<"),
        ("", "Traceback …\nImportError: no torch\n", ">the estimate failed: ImportError: no torch<"),
        ("", "", ">the estimate failed: it ended without a message<"),
    ],
)
def test_errors_of_the_estimate_are_sentences(actions, stdout, stderr, said):
    actions, host = actions
    answer = types.SimpleNamespace(returncode=1, stdout=stdout, stderr=stderr)
    api = host.part("refl_tab.api")
    api.subprocess = types.SimpleNamespace(run=lambda *_, **__: answer, TimeoutExpired=TimeoutError)
    assert said in actions.estimate(*values(actions))


# --- a run -----------------------------------------------------------------------------------------------------------


def told(**changes):
    run = {
        "state": "training",
        "active": True,
        "id": "x",
        "checkpoint": "a<b>.safetensors",
        "step": 4,
        "max_steps": 20,
        "done": 3,
        "total": 16,
        "since": 100.0,
        "seconds_left": 200,
        "message": "",
        "hint": "",
        "result": "",
        "pending": "",
    }
    return {**run, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "update 5 of 20, sample 4 of 16, about 4 min left"),
        ({"seconds_left": None, "step": 0, "done": 0}, "update 1 of 20, sample 1 of 16, the time is known after the"),
        (
            {"state": "evaluating", "done": 8, "total": 32, "step": 0, "seconds_left": None},
            "drawing held-out pictures, 8 of 32, about 60 s left of this step",
        ),
        ({"state": "evaluating", "done": 8, "total": 32}, "drawing held-out pictures, 8 of 32 after update 4 of 20"),
        ({"state": "paused", "total": 0}, "paused, update 4 of 20"),
        ({"state": "died", "total": 0}, "ended unexpectedly, update 4 of 20"),
    ],
)
def test_a_phase_has_its_count_and_its_time(page, changes, words):  # noqa: F811
    view = page[2].part("refl_tab.view")
    assert view.phase(told(**changes), 120.0).startswith(words)


@pytest.mark.parametrize(("output", "name"), [("lora", "x:1"), ("single-file", "")])
def test_only_a_lora_is_offered_for_the_prompt(page, output, name):  # noqa: F811
    _, runs, host = page
    run = old_run(runs, 0, '{"state": "finished", "step": 9, "result": "/models/x.safetensors"}', output=output)
    view = host.part("refl_tab.run_page").RunView()
    shown = dict(zip(map(id, view.outputs), view.refresh("", run)))
    assert shown[id(view.result)]["value"] == name and shown[id(view.result_row)]["visible"] is bool(name)
    assert "/models/x.safetensors" in shown[id(view.status)]["value"]


@pytest.mark.parametrize(
    ("use", "strength"), [("1.25", "1.25"), ("null", "1"), ('"2> <lora:y:9"', "1"), ("1e99", "1"), ("[]", "1")]
)
def test_the_lora_is_used_at_the_strength_that_was_measured(page, use, strength):  # noqa: F811
    """The run's own words, "Use it at strength 1.25", and its button agree."""
    _, runs, host = page
    dial = f'{{"type": "dial", "step": 9, "time": 1, "marks": [], "use": {use}}}\n'
    run = old_run(runs, 0, '{"state": "finished", "step": 9, "result": "/models/x.safetensors"}', dial)
    view = host.part("refl_tab.run_page").RunView()
    shown = dict(zip(map(id, view.outputs), view.refresh("", run)))
    assert shown[id(view.result)]["value"] == f"x:{strength}"


def test_the_hosts_folder_for_shown_pictures_is_there(page, tmp_path):  # noqa: F811
    """Forge Neo's `temp_dir` names a folder that a fresh installation lacks: its gallery fails, and with it every look
    of the heartbeat.
    """
    from PIL import Image

    _, runs, host = page
    shared = host.part("host").module("shared")
    shared.opts.temp_dir = str(tmp_path / "webui" / "tmp")
    samples = '{"type": "samples", "step": 0, "time": 1, "path": "samples/step-000000.png", "prompts": ["a cat"]}\n'
    run = old_run(runs, 0, '{"state": "training", "step": 0}', samples, eval_seeds=1)
    Image.new("RGB", (8, 8)).save(runs.path(run) / "samples" / "step-000000.png")
    view = host.part("refl_tab.run_page").RunView()
    shown = dict(zip(map(id, view.outputs), view.refresh("", run)))
    assert len(shown[id(view.gallery)]["value"]) == 1 and (tmp_path / "webui" / "tmp").is_dir()


def test_failed_runs_look_like_errors_and_texts_are_escaped(page):  # noqa: F811
    view = page[2].part("refl_tab.view")
    shown = view.status(told(state="failed", active=False, message="<b>out of memory</b>", hint="Less."), 0.0, False)
    assert 'class="imagereward-refl-status error"' in shown and 'role="alert"' in shown
    assert "&lt;b&gt;out of memory" in shown and "a&lt;b&gt;.safetensors" in shown and 'data-live="0"' in shown


def test_a_pause_is_acknowledged_at_once(page):  # noqa: F811
    client, runs, host = page
    control, actions_of = [], host.part("refl_tab.run_page").RunView()
    name = old_run(runs, 0, json.dumps({"state": "training", "step": 3, "heartbeat": time.time()}))
    protocol = host.part("core").runs
    said, *updates = actions_of.obey(protocol.Command.PAUSE)("", name)
    assert said == "" and any("Pausing" in str(update) for update in updates)
    assert runs.summary(name)["pending"] == "pause"
    for taken, state, pending in ((1, "training", "pause"), (1, "paused", ""), (0, "training", "pause")):
        text = json.dumps({"state": state, "step": 3, "heartbeat": time.time(), "control_id": taken})
        (runs.path(name) / "status.json").write_text(text)
        assert runs.summary(name)["pending"] == pending, control
    text = json.dumps({"state": "training", "heartbeat": time.time(), "control_id": 1, "control_start": 1})
    (runs.path(name) / "status.json").write_text(text)
    assert runs.summary(name)["pending"] == ""  # it was for an earlier process


def test_what_a_run_was_told_is_said_once(page):  # noqa: F811
    view, heard = page[2].part("refl_tab.view"), "Pausing as soon as the present step is done."
    shown = view.status(told(pending="pause", message=heard), 0.0, True)
    assert shown.count("Pausing") == 1
    assert heard in view.status(told(message=heard), 0.0, True)


def test_a_killed_run_says_whether_it_can_be_resumed(page):  # noqa: F811
    _, runs, _ = page
    name = old_run(runs, 0, json.dumps({"state": "training", "step": 3, "heartbeat": 1.0}))
    assert "ended unexpectedly" in runs.summary(name)["message"] and "start again" in runs.summary(name)["hint"]
    state = runs.path(name) / "checkpoints" / "step-000002"
    state.mkdir(parents=True)
    (state / "state.json").write_text('{"step": 2}')
    assert "can be resumed" in runs.summary(name)["hint"] and "resume" in runs.summary(name)["commands"]


def test_the_first_look_of_a_page_marks_and_preselects(actions, tmp_path):
    actions, host = actions
    write_checkpoint(tmp_path / "x.safetensors", ["lora_unet_a.lora_up.weight"])
    good = checkpoint("a [1]", tmp_path / "a.safetensors", "a")
    host_with(sys.modules["modules.sd_models"], good, checkpoint("x [2]", tmp_path / "x.safetensors"))
    host.options.data["sd_model_checkpoint"] = "a"
    first = actions.tick("", None, "quick try")
    assert first[0]["value"] == "a [1]" and "cannot be trained" in first[0]["choices"][1]
    reward = first[6]
    assert first[3]["value"] == 20 and reward["value"] in reward["choices"] and first[7]["choices"][0] == "none"
    # no labels beside the values: gradio 3's drop-downs have none
    assert all(isinstance(choice, str) for update in (first[0], *first[6:9]) for choice in update["choices"])
    memory = first[11]
    later = actions.tick(memory, None, "quick try")
    assert len(first) == len(later) and all(update == {"__type__": "update"} for update in later[:9])


def test_what_is_chosen_before_the_first_look_stays(actions, tmp_path):
    """On a slow machine the first look's answer comes seconds after the page: it put the host's checkpoint back in
    silence, and *Start* trained another one than was chosen.
    """
    actions, host = actions
    for name in "ab":
        write_checkpoint(tmp_path / f"{name}.safetensors", ["cond_stage_model.x"])
    both = [checkpoint(f"{name} [1]", tmp_path / f"{name}.safetensors", name) for name in "ab"]
    host_with(sys.modules["modules.sd_models"], *both)
    host.options.data["sd_model_checkpoint"] = "a"
    widgets = actions.form.widgets
    widgets["checkpoint"].value = "a [1]"  # the page was made with what the host had selected
    untouched = actions.tick("", None, "normal", "a [1]", widgets["reward"].value)
    assert untouched[0]["choices"] == ["a [1]", "b [1]"] and "value" not in untouched[0]
    chosen = actions.tick("", None, "normal", "b [1]", "CLIP")
    assert "value" not in chosen[0] and all(update == {"__type__": "update"} for update in chosen[1:6])
    assert chosen[6].get("value", "CLIP").startswith("CLIP")  # with the mark of what must be fetched
    host.options.data["sd_model_checkpoint"] = "b"  # changed since the page was made
    assert actions.tick("", None, "normal", "a [1]", None)[0]["value"] == "b [1]"


def test_a_button_pressed_before_the_first_look_does_not_prevent_it(actions, tmp_path):
    actions, host = actions
    write_checkpoint(tmp_path / "a.safetensors", ["lora_unet_a.lora_up.weight"])
    host_with(sys.modules["modules.sd_models"], checkpoint("a [1]", tmp_path / "a.safetensors", "a"))
    memory = actions.runs.refresh("", None)[0]
    first = actions.tick(memory, None, "quick try")
    assert "cannot be trained" in first[0]["choices"][0]
    assert all(update == {"__type__": "update"} for update in actions.tick(first[11], None, "quick try")[:9])


def test_a_refresh_sends_only_what_changed(page):  # noqa: F811
    _, runs, host = page
    name = old_run(runs, 0, '{"state": "finished", "step": 9}', '{"type": "step", "step": 1, "reward": 0.5}\n')
    view = host.part("refl_tab.run_page").RunView()
    memory, *first = view.refresh("", None)
    assert first[0]["value"] == name and all(len(update) > 1 for update in first)
    again, *second = view.refresh(memory, name)
    assert again == memory and all(update == {"__type__": "update"} for update in second)
    (runs.path(name) / "status.json").write_text('{"state": "stopped", "step": 9}')
    _, *third = view.refresh(memory, name)
    assert [len(update) > 1 for update in third[:3]] == [True, True, False]
    assert view.refresh("not JSON", name)[1]["value"] == name


def test_what_was_asked_before_a_run_was_started_does_not_turn_the_page_back(page):  # noqa: F811
    _, runs, host = page
    old = old_run(runs, 0, '{"state": "stopped", "step": 9}')
    view = host.part("refl_tab.run_page").RunView()
    before, *_ = view.refresh("", None)
    new = old_run(runs, 1, '{"state": "finished", "step": 2}')
    late, *found = view.refresh(before, old)  # a beat under way while Start was pressed
    assert found[0]["value"] == new
    _, *chosen = view.refresh(late, old)  # what the user chooses then counts
    assert chosen[0]["value"] == old


def test_every_page_has_a_boot_id_of_its_own(page):  # noqa: F811
    client, runs, host = page
    tab, api = host.part("refl_tab.tab"), host.part("refl_tab.api")
    ((blocks, title, name),) = tab.tabs()
    first = client.get(f"{URL}/state").json()
    assert (title, name) == ("ReFL", "imagereward_refl") and first["boot"] == api.boot
    assert client.get(f"{URL}/state").json() == first  # nothing happened
    old_run(runs, 0, '{"state": "finished", "step": 9}')
    second = client.get(f"{URL}/state").json()
    assert second["boot"] == first["boot"] and second["version"] != first["version"]
    tab.tabs()  # Reload UI
    assert client.get(f"{URL}/state").json()["boot"] != first["boot"]
    assert f'data-boot="{api.boot}"' in tab.boot_html(api.boot)


def test_a_clone_fills_the_form_and_a_deletion_asks_first(page, actions):  # noqa: F811
    actions, host = actions
    _, runs, _ = page
    press_start(actions, prompts=PROMPTS, steps=7, rank=3, seed=5)
    (run,) = runs.list()
    said, *updates = actions.clone(run["id"])
    filled = dict(zip(["source", *actions.form.names], updates))
    assert said == "" and filled["steps"]["value"] == 7 and filled["rank"]["value"] == 3
    assert filled["prompts"]["value"] == PROMPTS and filled["checkpoint"]["value"] == "a.safetensors [123]"
    assert "no run" in actions.clone("x")[0]
    wait(lambda: runs.summary(run["id"])["state"] == "training")
    assert "stop it first" in actions.runs.remove(run["id"], "")[0]
    runs.command(run["id"], "stop")
    wait(lambda: run["id"] not in runs._children)
    assert actions.runs.remove("", "")[0] == "" and len(runs.list()) == 1  # the user said no
    assert "is deleted" in actions.runs.remove(run["id"], "")[0] and runs.list() == []
