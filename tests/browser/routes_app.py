"""Our routes behind uvicorn, on a stand-in host, for an attack from another page: `python routes_app.py PORT`.

Run by test_other_origin.py in the interpreter of one gradio version, with the FastAPI that belongs to it. /calls tells
what was reached; it is the test's own and unguarded.
"""

import contextlib
import sys
import tempfile
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from fastapi.responses import HTMLResponse  # noqa: E402

from tests.contract.fakehost import FakeHost  # noqa: E402

calls: list[str] = []


def load(name, device, precision, folder, progress=None):
    calls.append(f"load {name}")
    return types.SimpleNamespace(name=name, device="cpu", net=None, score_pairs=score_pairs)


def score_pairs(prompts, images):
    calls.append(f"score {len(images)}")
    return [0.5] * len(images)


with FakeHost(Path(tempfile.mkdtemp())) as host:
    models = types.ModuleType("modules.sd_models")
    models.checkpoints_list, models.model_path = {}, str(host.folder)
    sys.modules["modules.sd_models"] = models
    api, holder = host.part("refl_tab.api"), host.part("lifecycle").holder
    holder._load = load
    host.part("lifecycle")._plain_torch = contextlib.nullcontext  # these interpreters have no torch
    unload = holder.unload
    holder.unload = lambda: calls.append("unload") or unload()
    api.installer.start = lambda: calls.append("install")
    api.installer.status = lambda: {"missing": ["diffusers"], "installing": False, "error": ""}
    app = FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    app.get("/calls")(lambda: calls)
    app.get("/")(lambda: HTMLResponse(host.part("refl_tab.tab").boot_html("x")))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
