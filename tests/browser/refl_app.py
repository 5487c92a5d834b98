"""The ReFL tab in a page as the hosts build it, on a stand-in host: `python refl_app.py PORT FOLDER TRAINING_PYTHON`.

Run by test_refl_tab.py in the interpreter of one gradio version. FOLDER holds checkpoints/ and models/ImageReward/;
training runs in TRAINING_PYTHON, with this repository on its path. /calls counts the presses of the host's Generate,
/reload is its Reload UI, optionally with events before ours; both are the test's own and unguarded.
"""

import os
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.append(os.environ["IMAGEREWARD_TORCH"])  # behind gradio's own libraries: torch, which every host has

import gradio as gr  # noqa: E402

from tests.contract.fakehost import FakeHost  # noqa: E402

port, folder, python = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
calls = {"generate": 0}
wanted: list[int] = []


def checkpoints() -> dict[str, types.SimpleNamespace]:
    paths = sorted((folder / "checkpoints").glob("*.safetensors"))
    return {path.name: types.SimpleNamespace(title=f"{path.name} [0123]", filename=str(path)) for path in paths}


def listed(models: types.ModuleType) -> None:
    models.checkpoints_list = {info.title: info for info in checkpoints().values()}
    models.checkpoint_aliases = {**models.checkpoints_list, **checkpoints()}
    models.get_closet_checkpoint_match = models.checkpoint_aliases.get


def generate(text):
    calls["generate"] += 1
    return f"generated {text}"


def build(host, before: int):
    """One page: events of the host, ours, as many more as `before` says in front of them."""
    tab = host.part("refl_tab.tab")
    ((blocks, title, name),) = tab.tabs()
    with gr.Blocks(analytics_enabled=False, theme=gr.themes.Default(), css=(ROOT / "style.css").read_text()) as demo:
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem("Txt2img", elem_id="tab_txt2img"):
                prompt = gr.Textbox("a cat", label="Prompt", elem_id="txt2img_prompt", lines=2)
                button, made = gr.Button("Generate", variant="primary", elem_id="generate"), gr.Textbox(label="Result")
                for _ in range(1 + before):
                    button.click(generate, prompt, made)
            with gr.TabItem(title, elem_id=f"tab_{name}"):
                blocks.render()
    demo.queue(64)
    app, _, _ = demo.launch(
        server_name="127.0.0.1", server_port=port, show_api=False, quiet=True, prevent_thread_lock=True
    )
    app.get("/calls")(lambda: calls)
    app.get("/reload")(lambda before=0: wanted.append(int(before)))
    for callback in host.callbacks.lists["on_app_started"]:
        callback(demo, app)
    return demo


real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "gradio"}
with FakeHost(folder) as host:
    models = types.ModuleType("modules.sd_models")
    models.model_path = str(folder / "checkpoints")
    listed(models)
    sys.modules["modules.sd_models"] = models
    sys.modules["modules.sd_vae"] = types.ModuleType("modules.sd_vae")
    sys.modules["modules.shared"].refresh_checkpoints = lambda: listed(models)
    host.options.data["sd_model_checkpoint"] = "tiny.safetensors"  # by name, as Forge keeps it
    sys.modules.update(real)
    for part in ("tab", "form_page", "run_page"):
        host.part(f"refl_tab.{part}").gr = gr
    host.part("host").vram_gb = lambda device: 24.0  # a larger batch, so that an update is quick here
    api = host.part("refl_tab.api")
    api.runs().python = python
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    api.environment = api.runs()._environment = lambda: {**os.environ, **variables}
    api.installer.status = lambda: {"missing": [], "installing": False, "error": ""}
    demo = build(host, 0)
    print("ready", flush=True)
    while True:
        time.sleep(0.2)
        if wanted:
            demo.close()
            demo = build(host, wanted.pop())
            print("reloaded", flush=True)
