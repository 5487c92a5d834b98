"""A whole run on a tiny model: files, events, states, resume, export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from refl import Trainer
from refl.runfiles import read_events, read_json

from .tiny import colour_mix


def run(settings, **changes):
    return Trainer(args=dataclasses.replace(settings, **changes), rewards=colour_mix(), judges=[]).train()


def test_run_leaves_all_files(settings):
    result = run(settings)
    folder = Path(settings.output_dir)
    assert result.state == "finished" and result.step == 3
    assert result.exported == folder / "tiny-sd1-refl.safetensors" and result.exported.is_file()
    events = read_events(folder / "events.jsonl")
    assert [event["step"] for event in events if event["type"] == "step"] == [1, 2, 3]
    assert [event["step"] for event in events if event["type"] == "evaluation"] == [0, 2, 3]
    status = read_json(folder / "status.json")
    assert status["state"] == "finished" and status["step"] == 3
    assert (folder / "samples" / "step-000000.png").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "redness" in page
    assert json.loads((folder / "config.json").read_text())["lora_alpha"] == 4.0
