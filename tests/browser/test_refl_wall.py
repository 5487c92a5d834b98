"""The end of a run in both gradio versions, in a real browser: the alignment dial and the wall, of files that a run
would have left; no training here.
"""

from __future__ import annotations

import json

import pytest

from .test_refl_tab import ID, app, files, opened, says, shot  # noqa: F401  app and files are fixtures

PROMPTS = ["a red fox", "a blue owl in a very long prompt that has to be broken somewhere", "a cat"]
COLOURS = [(60, 60, 160), (160, 60, 60), (60, 160, 60), (160, 160, 60)]
AREA = "#txt2img_prompt textarea"


@pytest.fixture(scope="module")
def run(app):  # noqa: F811
    """A finished run of four evaluations of three prompts with two seeds, and its dial; its folder."""
    from PIL import Image, ImageDraw

    folder = app[2] / "imagereward-runs" / "20250102-000000-tiny"
    (folder / "samples").mkdir(parents=True)
    events, history = [], []
    for at, colour in enumerate(COLOURS):
        step = 10 * at
        sheet = Image.new("RGB", (128, 192))
        pen = ImageDraw.Draw(sheet)
        for cell in range(6):
            x, y = cell % 2 * 64, cell // 2 * 64
            pen.rectangle((x, y, x + 63, y + 63), fill=colour)
            pen.text((x + 8, y + 20), f"{cell // 2}/{cell % 2}", fill="white")
        sheet.save(folder / "samples" / f"step-{step:06d}.png")
        told = {"reward": 0.1 * at, "reward_std": 1.0, "diversity": 0.1, "judges": {"CLIP": 0.2 - 0.01 * at}}
        changes = {"changes": {"reward": [0.1 * at, 0.03], "CLIP": [-0.01 * at, 0.02]}} if at else {}
        events.append({"type": "evaluation", "step": step, **told, **changes})
        prompts = {} if at else {"prompts": PROMPTS}
        events.append({"type": "samples", "step": step, "path": f"samples/step-{step:06d}.png", **prompts})
        scores = {"(mixed reward)": [0.1 * at * cell for cell in range(6)], "CLIP": [-0.01 * at] * 6}
        history.append({"step": step, "judges": {"CLIP": 0}, "scores": scores})
    marks = [
        {
            "strength": 0.25 * n,
            "reward": 0.1 * n if n < 4 else 0.3,
            "diversity": 0.1,
            "judges": {"CLIP": 0.2 - 0.01 * n},
        }
        for n in range(6)
    ]
    marks[5]["verdict"] = "CLIP falls"
    events.append({"type": "dial", "step": 30, "use": 0.75, "marks": marks, "exported_step": 30})
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    for step in (20, 30):
        state = folder / "checkpoints" / f"step-{step:06d}"
        state.mkdir(parents=True)
        (state / "state.json").write_text(json.dumps({"step": step, "info": {"history": history, "best": None}}))
    settings = {
        "pretrained_model_name_or_path": str(app[2] / "checkpoints" / "tiny.safetensors"),
        "max_train_steps": 30,
        "eval_seeds": 2,
        "rewards": ["CLIP"],
        "device": "cpu",
        "output_name": "walled",
        "export_dir": str(app[2] / "models" / "Lora"),
        "prompts": PROMPTS,
    }
    status = {"state": "finished", "step": 30, "result": str(app[2] / "models" / "Lora" / "walled.safetensors")}
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def prompt_is(page, text):
    page.wait_for_function(f"document.querySelector('{AREA}').value === '{text}'")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 420)])
def test_dial_and_wall(app, run, browser, theme, width):  # noqa: F811
    page = opened(browser, app[1], theme=theme, width=width)
    try:
        says(page, "Use it at strength 0.75", "dial")
        cells = page.locator(f"{ID}wall .imagereward-refl-wall-cell")
        cells.nth(11).wait_for()
        assert cells.count() == 12
        page.wait_for_function(
            f"[...document.querySelectorAll('{ID}wall .imagereward-refl-wall-cell')]"
            ".every((cell) => cell.style.backgroundImage.includes('blob:'))"
        )
        says(page, r"reward \+0.3 ± 0.03", "wall")
        shot(page, app, f"wall-{theme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if theme == "light":
            cells.nth(7).click()  # the second prompt, update 30
            box = page.locator("dialog[open]")
            box.wait_for()
            assert PROMPTS[1] in box.inner_text() and "reward +0.750" in box.inner_text()
            page.wait_for_function(
                "[...document.querySelectorAll('dialog .imagereward-refl-wall-picture')]"
                ".every((picture) => picture.style.backgroundImage.includes('blob:'))"
            )
            assert box.locator("figure").count() == 2
            shot(page, app, f"wall-large-{width}")
            assert box.evaluate("node => node.getBoundingClientRect().right") <= width
            page.keyboard.press("Escape")
            box.wait_for(state="detached")
        assert page.failures == []
    finally:
        page.close()


def test_a_strength_is_put_into_the_prompt_and_never_twice(app, run, browser):  # noqa: F811
    page = opened(browser, app[1])
    try:
        says(page, "Use it at strength 0.75", "dial")
        for button, strength in (("0.5", "0.5"), ("Use at 0.75", "0.75"), ("0.5", "0.5")):
            page.click(f"{ID}dial button:text-is('{button}')")
            prompt_is(page, f"a cat <lora:walled:{strength}>")
            page.click("#tabs button:has-text('ReFL')")
        page.click(f"{ID}use")  # at the strength that is recommended
        prompt_is(page, "a cat <lora:walled:0.75>")
        assert page.failures == []
    finally:
        page.close()


def test_an_update_leads_to_a_run_of_its_own(app, run, browser):  # noqa: F811
    page = opened(browser, app[1])
    try:
        cells = page.locator(f"{ID}wall .imagereward-refl-wall-cell")
        cells.nth(1).click()  # update 10, whose state is gone
        box = page.locator("dialog[open]")
        box.locator("text=/not kept any more/").wait_for()
        assert box.locator("button").all_inner_texts() == ["Close"]
        box.locator("text=Close").click()
        cells.nth(2).click()
        box.locator("input").nth(0).fill("0")
        box.locator("text=Branch from here").click()
        box.locator("text=/Updates: must lie between/").wait_for()
        box.locator("input").nth(0).fill("5")
        box.locator("input").nth(1).fill("0.002")
        box.locator("text=Branch from here").click()
        box.locator("text=/goes on from here/").wait_for()
        (new,) = (path for path in run.parent.iterdir() if path.is_dir() and path.name > run.name)
        config = json.loads((new / "config.json").read_text())
        assert (config["max_train_steps"], config["learning_rate"]) == (25, 0.002)
        assert config["output_name"] == "walled-from-20" and (run / "checkpoints" / "step-000020").is_dir()
        box.locator("text=Close").click()
        page.wait_for_selector(f"{ID}runs input[type=radio]:checked")
        assert page.failures == []
    finally:
        page.close()
