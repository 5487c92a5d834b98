"""The tab's process manager with the real training process."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from .test_rewards_and_metrics import reward_file  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]


def test_a_run_started_by_the_host_finishes_and_reports(settings, reward_file, tmp_path):  # noqa: F811
    sys.path.insert(0, str(ROOT))
    try:
        from imagereward_webui.refl_tab.runs import Runs
    finally:
        sys.path.remove(str(ROOT))
    ended = []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    runs = Runs(tmp_path / "runs", lambda: environment, after=ended.append)
    config = dataclasses.asdict(
        dataclasses.replace(
            settings, rewards=[str(reward_file)], export_dir=str(tmp_path / "Lora"), output_name="taught"
        )
    )
    run = runs.create(config)
    end = time.monotonic() + 300
    while runs.summary(run)["state"] not in ("finished", "failed", "died"):
        assert time.monotonic() < end, runs.events(run)["log"]
        time.sleep(0.2)
    summary = runs.summary(run)
    assert summary["state"] == "finished", runs.events(run)["log"]
    assert (summary["step"], summary["max_steps"]) == (3, 3) and summary["resumable"]
    assert Path(summary["result"]) == tmp_path / "Lora" / "taught.safetensors" and Path(summary["result"]).is_file()
    assert {event["type"] for event in runs.events(run)["events"]} >= {
        "step",
        "evaluation",
        "samples",
        "checkpoint",
        "exported",
        "state",
    }
    assert json.loads((runs.path(run) / "config.json").read_text())["output_name"] == "taught"
    while not ended:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert ended[0]["id"] == run
