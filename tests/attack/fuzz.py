"""Runs a target's inputs in processes of their own, and sees when one hangs or dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEAF = 60.0  # seconds without a new input after which a process is ended; a busy machine needs some
AGAIN = 40  # processes per target: each one that died had a finding


@dataclass
class Result:
    """What became of a target's inputs."""

    name: str
    done: int = 0
    refused: int = 0
    peak: int = 0
    slowest: float = 0.0
    findings: list[str] = field(default_factory=list)


def attack(name: str, seed: int, seconds: float, first: int = 0, last: int = 10**9) -> Result:
    """Inputs `first` to `last` of a target, or as many as the seconds allow."""
    result, end, known = Result(name), time.monotonic() + seconds, set()
    for _ in range(AGAIN):
        if first >= last or time.monotonic() >= end:
            break
        with tempfile.TemporaryDirectory(prefix="imagereward-attack-") as folder:
            first = _one_process(result, seed, first, last, end - time.monotonic(), folder, known)
    return result


def _one_process(
    result: Result, seed: int, first: int, last: int, seconds: float, folder: str, known: set[tuple[str, str]]
) -> int:
    """The number of the input to go on from."""
    log = Path(folder, "log")
    command = [sys.executable, "-m", "tests.attack.worker", result.name, str(seed), str(first), str(last), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out, Path(folder, "errors").open("w") as errors:
        process = subprocess.Popen([*command, folder], stdout=out, stderr=errors, cwd=ROOT, env=environment)
        silent = _wait(process, Path(folder, "now"))
    summary = None
    for line in log.read_text().splitlines():
        found = json.loads(line)
        if "done" in found:
            summary = found
        elif (found["kind"], found["what"]) not in known:
            known.add((found["kind"], found["what"]))
            result.findings.append(
                f"{found['target']}: {found['kind']}: {found['what']} ({found['bytes']} bytes; python -m tests.attack"
                f" --seed {seed} --only {found['target']} --input {found['input']})"
            )
    if summary is not None:
        result.done += summary["done"]
        result.refused += summary["refused"]
        result.peak = max(result.peak, summary["peak"])
        result.slowest = max(result.slowest, summary["slowest"])
        return int(summary["next"])
    now = Path(folder, "now")
    number = int(now.read_text() or first) if now.exists() else first
    why = "no answer and was ended" if silent else f"the process died ({process.returncode})"
    tail = Path(folder, "errors").read_text()[-500:]
    result.findings.append(
        f"{result.name}: {why} (python -m tests.attack --seed {seed} --only {result.name} --input {number}) {tail}"
    )
    result.done += max(number - first, 0) + 1
    return number + 1


def _wait(process: subprocess.Popen, now: Path) -> bool:
    """Until the process ends; True if it had to be ended."""
    changed, stamp = time.monotonic(), 0
    while process.poll() is None:
        time.sleep(0.1)
        latest = now.stat().st_mtime_ns if now.exists() else 0
        if latest != stamp:
            changed, stamp = time.monotonic(), latest
        if time.monotonic() - changed > (DEAF if stamp else 3 * DEAF):  # the first one comes after the imports
            process.kill()
            process.wait()
            return True
    return False
