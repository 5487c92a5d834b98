"""Training processes for tests: started as the tab starts them, on the tiny model with a tiny reward model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from refl.runfiles import read_events

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def training(config: Path, *arguments: str, **options) -> Iterator[subprocess.Popen]:
    """`python -m refl train`, killed at the end if it still runs."""
    command = [sys.executable, "-m", "refl", "train", "--config", str(config), *arguments]
    # what a shell gives a program in front: handlers as they are, not those of a test runner in the background
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, preexec_fn=default_signals, **options
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def default_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def steps_done(folder: str | Path) -> int:
    steps = [event["step"] for event in read_events(Path(folder) / "events.jsonl") if event["type"] == "step"]
    return max(steps, default=0)


def wait_for(condition, child: subprocess.Popen | None = None, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if child is not None and child.poll() is not None:
            raise AssertionError(child.stderr.read())
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
