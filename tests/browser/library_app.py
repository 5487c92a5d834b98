"""The library tab in a page as the hosts build it, on a stand-in host: `python library_app.py PORT FOLDER`.

Run by test_library_page.py and benchmarks/library_grid.py in the interpreter of one gradio version. FOLDER is the
host's: its library and outputs/ are used if they are there. Beside the tab stand a txt2img with the host's paste
function and a PNG Info; /generated tells what was asked of the stand-in's sampler, and is the test's own.
"""

import os
import sys
import threading
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.append(os.environ["IMAGEREWARD_TORCH"])  # behind gradio's own libraries: torch, which every host has

import gradio as gr  # noqa: E402
from PIL import Image  # noqa: E402

from tests.contract.fakehost import FakeHost  # noqa: E402

port, folder = int(sys.argv[1]), Path(sys.argv[2])
new = not gr.__version__.startswith("3.")
bindings: list[types.SimpleNamespace] = []


def js(code: str) -> dict[str, str]:
    return {"js" if new else "_js": code}


def pasted(text: str) -> tuple[str, str]:
    """As the host's: prompt and negative prompt out of an infotext."""
    prompt, _, rest = text.partition("\nNegative prompt: ")
    return prompt.partition("\nSteps: ")[0], rest.partition("\nSteps: ")[0]


def infotext(found) -> str:
    """As the host's PNG Info: the text in the file."""
    image = Image.open(found) if isinstance(found, str) else found
    return image.info.get("parameters", "") if image else ""


def build(host) -> gr.Blocks:
    ((blocks, title, name),) = host.part("library_tab.tab").tabs()
    css = (ROOT / "style.css").read_text(encoding="utf-8")
    with gr.Blocks(analytics_enabled=False, theme=gr.themes.Default(), css=css) as demo:
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem("txt2img", elem_id="tab_txt2img", id="txt2img"):
                prompt = gr.Textbox(label="Prompt", elem_id="txt2img_prompt", lines=2)
                negative = gr.Textbox(label="Negative prompt", elem_id="txt2img_neg_prompt", lines=2)
            with gr.TabItem("PNG Info", elem_id="tab_pnginfo", id="pnginfo"):
                kind = "filepath" if new else "pil"  # gradio 4 hands pictures over without their texts; hosts mend that
                image = gr.Image(label="Source", elem_id="pnginfo_image", type=kind, interactive=True)
                info = gr.Textbox(label="Parameters", elem_id="pnginfo_text")
                image.change(infotext, image, info)
            with gr.TabItem(title, elem_id=f"tab_{name}", id=name):
                blocks.render()
        for binding in bindings:
            binding.paste_button.click(pasted, [binding.source_text_component], [prompt, negative])
            binding.paste_button.click(fn=None, inputs=None, outputs=None, **js(f"switch_to_{binding.tabname}"))
    return demo


real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "gradio"}
with FakeHost(folder) as host:
    host.options.data["outdir_txt2img_samples"] = str(folder / "outputs")
    paste = sys.modules["modules.infotext_utils"]
    paste.ParamBinding = types.SimpleNamespace
    paste.register_paste_params_button = bindings.append
    models = types.ModuleType("modules.sd_models")
    models.checkpoint_aliases = {name: types.SimpleNamespace(title=f"{name}.safetensors") for name in ("alpha", "beta")}
    sys.modules["modules.sd_models"] = models
    sys.modules.update(real)
    host.part("library_tab.tab").gr = gr
    demo = build(host)
    demo.queue(64)
    app, _, _ = demo.launch(
        server_name="127.0.0.1",
        server_port=port,
        show_api=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[str(folder)],
    )
    for callback in host.callbacks.lists["on_app_started"]:
        callback(demo, app)
    app.get("/generated")(lambda: host.generated)
    print("ready", flush=True)
    threading.Event().wait()
