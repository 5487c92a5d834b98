"""A page with the host's gallery, for one of the two gradio versions that hosts use. Run by test_gallery.py in that
version's own interpreter: `python gallery_app.py PORT`.

Element ids, the hidden generation-info textarea and the gallery's options are those of the hosts. Each button
"generates" another result, so that gradio reuses the thumbnails' buttons as it does between real runs.
"""

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import fake_modules
import gradio as gr
from PIL import Image, ImageDraw

from imagereward_webui import downloads, extras_table, host, saving, scorer_list

host.models_dir = lambda: FOLDER
host.saves_chosen_image = lambda index, first: False  # as if the setting "save selected only" was off

FOLDER = Path(tempfile.mkdtemp())
counter = itertools.count(1)
RESULTS = {
    # name: (scores by gallery position, index of the first image, how the page learns the scores)
    "first": ([None, 1.22, -0.41, 0.58, -1.9, 0.0, 2.4, -0.05, 0.58], 1, "result"),
    "second": ([0.3, -0.7, 1.1, 0.2], 0, "infotext"),
    "masks": ([0.5, None, -0.5, None], 0, "masks"),
    "told": ([0.496, None, None, -0.5, None, None], 0, "told"),
    "clip": ([0.21, 0.24, 0.29], 0, "clip"),
    "unscored": ([None, None], 0, "result"),
    "hundred": ([round(-2 + 0.04 * i, 2) for i in range(100)], 0, "result"),
    "loopback": ([0.7, 0.7, 0.7], 0, "same text"),
    "looptold": ([0.7, 0.1, -0.4], 0, "same text told"),
    "newcomer": ([18.0, 21.0, 26.0], 0, "PickScore"),
    "stranger": ([3.0, 4.0, 5.0], 0, "Unheard of"),
    "empty": ([], 0, "result"),
    "grouped": ([None, 0.5, None, -0.5, None, 0.9, None, None], 1, "grid and masks"),
}


def picture(name, i):
    path = FOLDER / f"{name}-{i}.png"
    image = Image.new(
        "RGB", (96, 96), ((37 * i) % 200 + 40, (91 * i + 60) % 200 + 30, (53 * i + len(name) * 20) % 200 + 30)
    )
    ImageDraw.Draw(image).text((8, 40), f"{name} {i}", fill="white")
    image.save(path)
    return str(path)


def generate(name):
    scores, first, source = RESULTS[name]
    key = {"clip": "CLIP score", "PickScore": "PickScore", "Unheard of": "Unheard of"}.get(source, "ImageReward")
    model = f"{key} model: x, " if source == "Unheard of" else ""
    texts = []
    for i, score in enumerate(scores):
        if source in ("masks", "told") and score is None:
            continue  # masks have no infotext
        if source == "grid and masks" and score is None and i:
            continue
        shown = scores[0] if source == "same text told" else score
        pair = f"{key}: {shown:.4f}, {model}" if score is not None else ""
        seed = 0 if source.startswith("same text") else i
        texts.append(f"a cat, ImageReward: 9.9\nSteps: 20, Sampler: Euler, Seed: {seed}, {pair}Version: 1")
    info = {"infotexts": texts, "index_of_first_image": first, "extra_generation_params": {}}
    info["job_timestamp"] = str(next(counter))
    if source in ("result", "told", "same text told", "grid and masks"):
        hidden, empty = (0, "") if scores else (3, "Nothing to show: the best of 3 has 0.10, and the limit is 9.")
        info["extra_generation_params"]["ImageReward result"] = {"scores": scores, "hidden": hidden, "empty": empty}
    return [picture(name, i) for i in range(len(scores))], json.dumps(info)


def save_files(text, images, do_make_zip, index):
    """As the host's: the n-th image given is saved with the n-th infotext given. Says "picture=its seed"."""
    info = json.loads(text)
    saved = []
    for i, image in enumerate(images):
        path = image["name"] if isinstance(image, dict) else image[0]
        seed = info["infotexts"][i].partition("Seed: ")[2].partition(",")[0]
        saved.append(f"{Path(path).stem.rpartition('-')[2]}={seed}")
    return None, f"{next(counter)} · {info['index_of_first_image']} grids: " + " ".join(saved)


EXTRAS = [
    ("cat.png", 0.5, "a cat"),
    ("b10.png", -1.25, "a <b>dog</b>"),
    ("b9.png", None, ""),
    ("a.png", 1.75, "=an apple"),
]


def run_extras():
    """As the host's, with the table that the extension adds."""
    rows, pictures = [], []
    for i, (name, score, prompt) in enumerate(EXTRAS):
        pictures.append(picture("extras", i))
        note = "" if score is not None else "not scored, the image carries no prompt"
        rows.append(
            extras_table.Row(f"/in/{name}", "ImageReward-v1.0", prompt, pictures[-1], score, note, f"/out/{i}.png")
        )
    return extras_table.with_table(lambda: (pictures, add_rows(rows), ""))()[:2]


def add_rows(rows):
    for row in rows:
        extras_table.add(row)
    return "<p>ImageReward: 1.7500</p>"


def fetch(name, progress):
    """As slow as a real download, and as large; MPS has no server."""
    if name == "MPS":
        raise RuntimeError("https://example.org cannot be reached")
    for part in range(1, 11):
        progress(part * 390_000_000, 3_900_000_000)
        time.sleep(0.3)
    fake_modules.ABSENT.discard(name)


downloads.downloads.fetch = fetch


def button_js(code):
    return {"_js" if gr.__version__.startswith("3.") else "js": code}


GALLERY = {} if gr.__version__.startswith("3.") else {"type": "filepath", "interactive": False}

with gr.Blocks(analytics_enabled=False) as demo:
    with gr.Row():
        with gr.Column(elem_id="txt2img_results"):
            with gr.Group(elem_id="txt2img_gallery_container"):
                gallery = gr.Gallery(
                    label="Output",
                    show_label=False,
                    elem_id="txt2img_gallery",
                    columns=4,
                    preview=False,
                    height=480,
                    **GALLERY,
                )
            info = gr.Textbox(visible=False, elem_id="generation_info_txt2img")
            save = gr.Button("save", elem_id="save_txt2img")
            files, saved = gr.File(visible=False), gr.HTML(elem_id="html_log_txt2img")
            save.click(
                fn=saving.taking_what_is_seen(save_files),
                inputs=[info, gallery, saved, saved],
                outputs=[files, saved],
                **button_js("(x, y, z, w) => [x, y, false, -1]"),
            )
            for name in RESULTS:
                button = gr.Button(name, elem_id=f"generate_{name}")
                button.click(fn=lambda name=name: generate(name), inputs=[], outputs=[gallery, info])

    with gr.Column(elem_id="accordion"):
        scorer_list.dropdown("Scorer", "scorer", status_id="scorer_status")
    with gr.Column(elem_id="extras_results"):
        extras = gr.Gallery(
            label="Output", show_label=False, elem_id="extras_gallery", columns=4, preview=False, **GALLERY
        )
        below = gr.HTML(elem_id="html_info_x_extras")
        gr.Button("extras", elem_id="generate_extras").click(fn=run_extras, inputs=[], outputs=[extras, below])

app, _, _ = demo.launch(
    server_name="127.0.0.1", server_port=int(sys.argv[1]), show_api=False, quiet=True, prevent_thread_lock=True
)


app.include_router(downloads.router)


@app.get("/imagereward/v1/schema")
def schema():
    """As the extension's own route: every scorer's key and scale; the last has neither a place in our registry."""
    return {
        "scorers": [
            {"key": "ImageReward", "former_keys": [], "low": -2, "high": 2},
            {"key": "CLIP score", "former_keys": [], "low": 0.1, "high": 0.35},
            {"key": "PickScore", "former_keys": [], "low": 18, "high": 24},
        ]
    }


demo.block_thread()
