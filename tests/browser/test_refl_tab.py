"""The ReFL tab in both gradio versions, in a real browser, with the real training process on a tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from .conftest import ROOT, served

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("diffusers", reason="needs diffusers")

SCRIPT = ROOT / "javascript" / "imagereward_refl.js"
GUARD = "state.boot !== mark.dataset.boot"
ID = "#imagereward_refl_"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A host's folder: tiny.safetensors with its configuration, a LoRA among the checkpoints, a tiny reward model."""
    from safetensors.torch import save_file

    from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig, VisionConfig
    from imagereward_core.model import RewardModel

    from ..refl.tiny import single_file_state, tiny_modules, unet_config, write_tokenizer

    root = tmp_path_factory.mktemp("host")
    checkpoints, models = root / "checkpoints", root / "models" / "ImageReward"
    (checkpoints / "tiny" / "unet").mkdir(parents=True)
    models.mkdir(parents=True)
    save_file(single_file_state(*tiny_modules(0)), str(checkpoints / "tiny.safetensors"), {"modelspec.title": "tiny"})
    (checkpoints / "tiny" / "unet" / "config.json").write_text(json.dumps(unet_config()))
    write_tokenizer(checkpoints / "tiny" / "tokenizer")
    save_file({"lora_unet_a.lora_up.weight": torch.zeros(2)}, str(checkpoints / "a-lora.safetensors"))
    config = ModelConfig(
        vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2),
        text=TextConfig(width=32, depth=1, heads=2, intermediate=64, max_positions=64),
        projection=16,
        head=(16, 8, 8, 8),
        mean=0.0,
        std=1.0,
        max_tokens=35,
    )
    torch.manual_seed(0)
    save_file(
        RewardModel(config).state_dict(), str(models / "tiny-reward.safetensors"), {METADATA_KEY: config.to_json()}
    )
    return root


@pytest.fixture(scope="module", params=["gradio3", "gradio4"])
def app(request, files, tmp_path_factory):
    """(address, the host's folder) of the page in one gradio version."""
    folder = tmp_path_factory.mktemp(request.param) / "host"
    folder.mkdir()
    for part in files.iterdir():
        (folder / part.name).symlink_to(part)
    with served("refl_app.py", request.param, folder, folder, sys.executable, answers="calls") as address:
        yield request.param, address, folder


def opened(browser, address, script=None, theme="light", width=1280):
    """A page with the tab in front."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(180_000)
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.add_init_script(SCRIPT.read_text(encoding="utf-8") if script is None else script)
    page.goto(f"{address}?__theme={theme}")
    show_tab(page)
    return page


def show_tab(page):
    page.wait_for_selector(f"{ID}panel", state="attached")
    page.click("#tabs button:has-text('ReFL')")


@pytest.fixture
def page(app, browser):
    made = opened(browser, app[1])
    yield made
    made.close()
    assert made.failures == []


def shot(page, app, name):
    folder = os.environ.get("IMAGEREWARD_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{app[0]}-refl-{name}.png"), full_page=True)


def says(page, words, where="status"):
    page.wait_for_selector(f"{ID}{where} >> text=/{words}/")


def runs(app):
    return sorted((app[2] / "imagereward-runs").glob("*-tiny*"))


def status(run):
    return json.loads((run / "status.json").read_text())


def calls(app):
    """How often the host's Generate was pressed; waits while its UI is being reloaded."""
    for _ in range(600):
        try:
            return json.loads(urllib.request.urlopen(f"{app[1]}calls").read())["generate"]
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the host does not come back")


def test_two_clicks_to_a_quick_try_then_pause_kill_resume(app, page):
    assert page.input_value(f"{ID}checkpoint input") == "tiny.safetensors [0123]"
    says(page, "No runs yet")  # the first look has come: a scorer that is here is preselected, too
    says(page, "64 prompts", "count")
    shot(page, app, "opened")
    page.click(f"{ID}far label:has-text('quick try')")
    page.click(f"{ID}start")
    says(page, "Run .* is started", "said")
    says(page, "update 1 of 20")
    page.click(f"{ID}pause")
    says(page, "Pausing|paused, update")  # acknowledged before the process has heard of it
    says(page, "paused, update")
    (run,) = runs(app)
    page.reload()  # nothing of a run lives in the page
    show_tab(page)
    says(page, "paused, update")
    shot(page, app, "paused")
    os.kill(status(run)["pid"], signal.SIGKILL)
    says(page, "ended unexpectedly")
    says(page, "can be resumed")
    shot(page, app, "died")
    page.click(f"{ID}resume")
    says(page, "update 1 of 20|preparing|starting")
    page.click("text='More'")
    page.click(f"{ID}stop_now")
    says(page, "stopped")
    assert status(run)["state"] == "stopped"


def test_a_run_to_its_end_and_what_it_leads_to(app, page):
    name = f"taught-{app[0]}"  # both hosts have one folder of LoRAs, and no name is taken twice
    says(page, "No runs yet|safetensors")
    page.click("text='Advanced'")
    for field, value in (("steps", "2"), ("held_out", "2")):
        page.fill(f"{ID}{field} input", value)
    page.click(f"{ID}output_name textarea, {ID}output_name input")
    page.keyboard.type(name)
    page.click(f"{ID}start")
    says(page, "finished, update 2 of 2")
    says(page, r"After 2 updates: reward .* ±", "verdict")
    assert page.query_selector_all(f"{ID}curves svg polygon")  # a band of the standard error
    page.wait_for_selector(f"{ID}gallery img")
    shot(page, app, "finished")
    assert (app[2] / "models" / "Lora" / f"{name}.safetensors").is_file()
    page.click(f"{ID}use")
    area = "#txt2img_prompt textarea"
    used = rf"/^a cat <lora:{name}:[\d.]+>$/"  # at the strength that the run measured to be best
    page.wait_for_function(f"{used}.test(document.querySelector('{area}').value)")
    assert page.is_visible("#txt2img_prompt")  # the tab was switched; Forge writes its name with a capital
    told = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.accept()))
    for _ in range(2):
        show_tab(page)
        page.click(f"{ID}plot")
        page.wait_for_function(f"document.querySelector('{area}').value === 'a cat <lora:{name}:0>'")  # never twice
    assert re.search(r"You come to txt2img now(.|\n)*X/Y/Z plot(.|\n)*Prompt S/R", told[0])


def test_too_few_prompts_a_bad_file_and_what_cannot_be_trained(app, page):
    page.fill(f"{ID}prompts textarea", "a cat\na dog")
    page.locator(f"{ID}prompts textarea").blur()
    says(page, "At least 8 are needed", "count")
    page.click(f"{ID}start")
    says(page, "at least 8 are needed", "said")
    page.set_input_files(
        f"{ID}file input[type=file], input[type=file]{ID}file, {ID}left input[type=file]",
        {"name": "p.csv", "mimeType": "text/csv", "buffer": b"id,prompt\n" + b'1,"a cat, red"\n2,a dog\n' * 1},
    )
    page.wait_for_function(f"document.querySelector('{ID}prompts textarea').value === 'a cat, red\\na dog'")
    choice = page.locator("text=/a-lora.safetensors .* cannot be trained: it is a LoRA/").first
    for _ in range(30):  # an update of the list closes it
        page.click(f"{ID}checkpoint input")
        page.wait_for_timeout(500)
        if choice.is_visible():
            break
        page.keyboard.press("Escape")
        page.locator(f"{ID}checkpoint input").blur()
    assert choice.is_visible()
    page.keyboard.press("Escape")


def test_my_picks_are_counted_and_too_few_are_refused(app, page):
    from PIL import Image

    folder = app[2] / "duels"
    (folder).mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    lines = [json.dumps({"winner": "a.png", "loser": "b.png", "prompt": f"<b>prompt</b> {n}"}) for n in range(12)]
    (folder / "few.jsonl").write_text("\n".join(lines[:3]))
    (folder / "duels.jsonl").write_text("\n".join(lines))
    assert page.is_visible(f"{ID}prompts") and not page.is_visible(f"{ID}picks_file")
    page.click(f"{ID}learn label:has-text('my picks')")
    page.wait_for_selector(f"{ID}picks_file")
    says(page, "My picks: ", "picks_count")  # there is no library here
    assert not page.is_visible(f"{ID}prompts")
    box = page.locator(f"{ID}picks_file textarea, {ID}picks_file input").first
    box.fill("duels/few.jsonl")
    box.blur()
    says(page, "3 picks, .* At least 4 are needed", "picks_count")
    page.click(f"{ID}start")
    says(page, "3 picks, and at least 4 are needed", "said")
    box.fill("duels/duels.jsonl")
    box.blur()
    says(page, "12 picks, of 12 prompts: .*<b>prompt</b> 0.* That is few", "picks_count")
    shot(page, app, "picks")
    gap = """([above, below]) => document.querySelector(below).getBoundingClientRect().top
        - document.querySelector(above).getBoundingClientRect().bottom"""
    for above, most in ((f"{ID}of_picks", 60), (f"{ID}picks_count .imagereward-refl-note", 100)):
        # nothing gapes between them, once gradio has taken its sign of waiting away
        page.wait_for_function(f"(names) => ({gap})(names) < {most}", arg=[above, f"{ID}far"])
    page.click(f"{ID}learn label:has-text('a reward')")
    page.wait_for_selector(f"{ID}prompts")
    assert not page.is_visible(f"{ID}picks_file")


@pytest.mark.parametrize(("guarded", "events"), [(False, 60), (True, 120)])  # more each time: the numbers move
def test_a_page_from_before_a_reload_presses_nothing(app, browser, guarded, events):
    """Reload UI with events before ours: our numbers are the host's buttons then. Without the guard they are pressed,
    so this does see it.
    """
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count(GUARD) == 1
    page = opened(browser, app[1], text if guarded else text.replace(GUARD, "false"))
    try:
        says(page, "No runs yet|safetensors")
        before, mark = calls(app), f"{ID}boot [data-boot]"
        boot = page.get_attribute(mark, "data-boot")
        old = app[2] / "imagereward-runs" / f"20250101-00000{int(guarded)}-tiny"
        old.mkdir(parents=True)  # news, so that a heartbeat has something to fetch
        urllib.request.urlopen(f"{app[1]}reload?before={events}").read()
        settings = {"pretrained_model_name_or_path": "/a.safetensors", "max_train_steps": 9, "rewards": ["CLIP"]}
        (old / "config.json").write_text(json.dumps(settings))
        (old / "status.json").write_text('{"state": "finished", "step": 9}')
        if guarded:
            page.wait_for_selector(f"{mark} >> text=/reload the page/")
            assert page.evaluate(f"document.querySelector('{ID}panel').inert")
            page.wait_for_timeout(7000)  # longer than a page at rest waits between two looks
            assert calls(app) == before
            page.reload()
            show_tab(page)
            page.wait_for_function(f"document.querySelector('{mark}').dataset.boot !== '{boot}'")
            says(page, "finished, update|stopped")
        else:
            for _ in range(600):
                if calls(app) > before:
                    break
                page.wait_for_timeout(500)
            assert calls(app) > before
    finally:
        page.close()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 420)])
def test_the_tab_fits_its_width(app, browser, theme, width):
    page = opened(browser, app[1], theme=theme, width=width)
    try:
        says(page, "No runs yet|safetensors")
        page.click("text='Advanced'")
        page.wait_for_selector(f"{ID}rank input")
        page.wait_for_timeout(500)
        shot(page, app, f"{theme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        bare = page.evaluate(
            f"[...document.querySelectorAll('{ID}panel :is(select, progress, input[type=file]:not([hidden]))')]"
            ".filter(node => node.offsetParent !== null).length"
        )
        assert bare == 0  # no raw widget of the browser
    finally:
        page.close()
