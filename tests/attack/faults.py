"""Faults put into writers: killed at any moment, disk full, folder read-only, two at a time.

What counts is what is left: no image damaged, no score lost that was acknowledged, no conversion that is not whole, and
errors that are ours.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from .fuzz import ROOT

IMAGES = 12
# Each child prints "done …" only after the call has returned: that is the acknowledgement. ENTRY's lines come first.
ENTRY = """
import sys, errno
from pathlib import Path
folder, count, key = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def refuse(error):
    from imagereward_core.errors import ImageRewardError
    print("refused" if isinstance(error, ImageRewardError) else f"FAULT {type(error).__name__}: {error}", flush=True)
print("ready", flush=True)
"""
SCORES = (
    ENTRY
    + """
from imagereward_core.metadata import write_score
from imagereward_core.metadata.infotext import StoredScore
for turn in range(count):
    for path in sorted(folder.glob("*.*g")):
        try:
            write_score(path, StoredScore(turn + 1.0, "m", "a cat", key))
            print(f"done {path.name} {turn + 1}", flush=True)
        except Exception as error:
            refuse(error)
"""
)
CONVERT = (
    ENTRY
    + """
from imagereward_core.weights.convert import convert
for turn in range(count):
    try:
        convert(folder / "model.pt", ("fp32", "fp16")[turn % 2])
        print("done", flush=True)
        for made in folder.glob("*.safetensors"):
            if turn < count - 1:
                made.unlink()
    except Exception as error:
        refuse(error)
"""
)
SMALL = (
    ENTRY
    + """
from imagereward_core import atomic
for turn in range(count):
    try:
        atomic.write_json(folder / "settings.json", {"turn": turn, "text": "x" * 300_000})
        print("done", flush=True)
    except OSError:
        print("refused", flush=True)
"""
)
LIMITED = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = {limit}\n"
LIMITED += "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"


@dataclass
class Injected:
    """What a kind of fault left behind, over so many rounds; `note` says why it was not tried."""

    name: str
    rounds: int = 0
    findings: list[str] = field(default_factory=list)
    note: str = ""


class Unavailable(Exception):
    """This system cannot make that fault."""


def inject(name: str, seed: int, seconds: float) -> Injected:
    """Rounds of one kind of fault for so long, at least one."""
    result, end, rng = Injected(name), time.monotonic() + seconds, random.Random(f"{seed} {name}")
    try:
        while not result.rounds or time.monotonic() < end:
            with tempfile.TemporaryDirectory(prefix="imagereward-attack-") as folder:
                result.findings += [f"{name}: {found} (seed {seed})" for found in FAULTS[name](Path(folder), rng)]
            result.rounds += 1
    except Unavailable as why:
        result.note = f"not tried: {why}"
    return result


# --- what is written to, and what must be left ------------------------------------------------------


def fill(folder: Path) -> dict[str, bytes]:
    """Images of noise, large enough to be caught half-written; their pixels by name."""
    pixels = {}
    for number in range(IMAGES):
        ending, form = (("png", "PNG"), ("jpg", "JPEG"))[number % 2]
        path = folder / f"{number:02}.{ending}"
        Image.frombytes("RGB", (160, 120), random.Random(number).randbytes(160 * 120 * 3)).save(path, form)
        pixels[path.name] = _pixels(path)
    return pixels


def _pixels(path: Path) -> bytes:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.convert("RGB").tobytes()


def damaged(folder: Path, pixels: dict[str, bytes]) -> list[str]:
    """Images that are not what they were."""
    found = []
    for name, wanted in pixels.items():
        try:
            if _pixels(folder / name) != wanted:
                found.append(f"{name} has other pixels")
        except (OSError, SyntaxError, ValueError) as error:
            found.append(f"{name} is damaged: {error}")
    return found


def lost(folder: Path, output: str, key: str) -> list[str]:
    """Scores that were acknowledged and are not in their files."""
    from imagereward_core.errors import ImageRewardError
    from imagereward_core.metadata import read_score

    last = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "done":
            last[words[1]] = float(words[2])
    found = []
    for name, value in last.items():
        try:
            stored = read_score(folder / name, key)
        except ImageRewardError as error:
            found.append(f"{name} cannot be read: {error}")
            continue
        if stored is None or stored.value < value:
            found.append(f"{name} lost its score {key} {value} (found {stored and stored.value})")
    return found


def faults_in(output: str) -> list[str]:
    """Errors that a child met and that are not ours."""
    return sorted({line for line in output.splitlines() if line.startswith("FAULT")})


def checkpoint(folder: Path, megabytes: int = 8) -> None:
    import torch

    torch.save({f"w{number}": torch.rand(megabytes << 15) for number in range(8)}, folder / "model.pt")


def torn(folder: Path) -> list[str]:
    """Conversions that have their name and are not whole."""
    from imagereward_core.weights.checkpoint import inspect

    return [f"{path.name} {inspect(path)[1]}" for path in folder.glob("*.safetensors") if inspect(path)[1]]


# --- children ---------------------------------------------------------------------------------------


def start(code: str, folder: Path, count: int, key: str = "ImageReward", before: str = "") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            code.replace('print("ready"', before + 'print("ready"', 1),
            str(folder),
            str(count),
            key,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder,
    )


def finish(child: subprocess.Popen, seconds: float = 180) -> tuple[str, list[str]]:
    """(what it printed, a finding if it did not end by itself)."""
    try:
        return child.communicate(timeout=seconds)[0], []
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0], [f"a writer did not end within {seconds:.0f} s"]


def _killed(code: str, folder: Path, rng: random.Random, how: signal.Signals) -> str:
    """Start a writer, end it at some moment after its first line; what it printed."""
    child = start(code, folder, 10_000)
    first = child.stdout.readline() if child.stdout else ""
    time.sleep(rng.random() ** 2 * 1.5)
    child.send_signal(how)
    rest, _ = finish(child, 60)
    return first + rest


def _killed_scores(folder: Path, rng: random.Random, how: signal.Signals) -> list[str]:
    pixels = fill(folder)
    output = _killed(SCORES, folder, rng, how)
    found = damaged(folder, pixels) + lost(folder, output, "ImageReward") + faults_in(output)
    again, late = finish(start(SCORES, folder, 1, "CLIP score"))  # a key that is new to every file: all are written
    left = [path.name for path in folder.glob(".imagereward-*")]
    return found + late + faults_in(again) + [f"left behind after the next write: {name}" for name in left]


def killed(folder: Path, rng: random.Random) -> list[str]:
    """kill -9 while scores are written."""
    return _killed_scores(folder, rng, signal.SIGKILL)


def terminated(folder: Path, rng: random.Random) -> list[str]:
    """SIGTERM while scores are written."""
    return _killed_scores(folder, rng, signal.SIGTERM)


def killed_conversion(folder: Path, rng: random.Random) -> list[str]:
    """kill -9 while a checkpoint is converted; the next conversion is whole and cleans up."""
    checkpoint(folder)
    output = _killed(CONVERT, folder, rng, signal.SIGKILL)
    found = torn(folder) + faults_in(output)
    again, late = finish(start(CONVERT, folder, 1))
    left = [path.name for path in folder.iterdir() if path.name not in ("model.pt", *CONVERTED)]
    if "done" not in again:
        found.append(f"no conversion after a killed one: {again[-300:]}")
    return found + late + torn(folder) + [f"left behind: {name}" for name in left]


CONVERTED = ("model.safetensors", "model.fp16.safetensors")


def limited(folder: Path, rng: random.Random) -> list[str]:
    """A full disk by RLIMIT_FSIZE: no file may grow beyond a part of what is needed."""
    if not sys.platform.startswith("linux"):
        raise Unavailable("RLIMIT_FSIZE with SIGXFSZ ignored is Linux'")
    pixels = fill(folder)
    checkpoint(folder, 2)
    (folder / "settings.json").write_text('{"turn": -1}')
    found = []
    limit = rng.choice((1000, 20_000, 50_000))
    for code, what in ((SCORES, "scores"), (CONVERT, "conversion"), (SMALL, "settings")):
        output, late = finish(start(code, folder, 1, before=LIMITED.format(limit=limit)))
        found += late + faults_in(output)
        if "Traceback" in output:
            found.append(f"{what}: {output[-300:]}")
    if (folder / "settings.json").read_text() != '{"turn": -1}':
        found.append("settings.json was harmed")
    return found + damaged(folder, pixels) + torn(folder)


@contextmanager
def _small_disk(folder: Path, size: str):  # type: ignore[no-untyped-def]
    """A tmpfs of that size below `folder`."""
    place = folder / "disk"
    place.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False)
        if sys.platform.startswith("linux")
        else None
    )
    if mounted is None or mounted.returncode:
        raise Unavailable("mounting a tmpfs is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def full(folder: Path, rng: random.Random) -> list[str]:
    """A disk that is full, or fills up while something is written."""
    with _small_disk(folder, "4m") as disk:
        pixels = fill(disk)
        (disk / "settings.json").write_text('{"turn": -1}')
        room = os.statvfs(disk)
        (disk / "ballast").write_bytes(b"x" * max(room.f_bavail * room.f_frsize - rng.choice((0, 8192, 40_000)), 0))
        found = []
        for code in (SCORES, SMALL):
            output, late = finish(start(code, disk, 1))
            found += late + faults_in(output) + (["a traceback: " + output[-300:]] if "Traceback" in output else [])
        if len((disk / "settings.json").read_text()) not in (12, 300_000 + 25):
            found.append("settings.json was harmed")
        return found + damaged(disk, pixels)


def read_only(folder: Path, rng: random.Random) -> list[str]:
    """A folder that nobody may write to."""
    with _small_disk(folder, "40m") as disk:
        pixels = fill(disk)
        checkpoint(disk, 1)
        if subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, check=False).returncode:
            raise Unavailable("a mount cannot be made read-only here")
        found = []
        for code in (SCORES, CONVERT):
            output, late = finish(start(code, disk, 1))
            found += late + faults_in(output)
            if "done" in output or "Traceback" in output:
                found.append(f"a write that cannot have been: {output[-300:]}")
        return found + damaged(disk, pixels)


def together(folder: Path, rng: random.Random) -> list[str]:
    """Two processes write two scores into the same images; what each was told is done, is there."""
    pixels = fill(folder)
    keys = ("ImageReward", "CLIP score")
    children = [start(SCORES, folder, 25, key) for key in keys]
    found = []
    for child, key in zip(children, keys):
        output, late = finish(child)
        found += late + faults_in(output) + [f"{key}: {one}" for one in lost(folder, output, key)]
    return found + damaged(folder, pixels)


def convert_together(folder: Path, rng: random.Random) -> list[str]:
    """Two processes convert one checkpoint."""
    checkpoint(folder, 2)
    children = [start(CONVERT, folder, 1) for _ in range(2)]
    found = []
    for child in children:
        output, late = finish(child)
        found += late + faults_in(output) + ([] if "done" in output else [f"no conversion: {output[-300:]}"])
    return found + torn(folder)


FAULTS: dict[str, Callable[[Path, random.Random], list[str]]] = {
    "killed": killed,
    "terminated": terminated,
    "killed_convert": killed_conversion,
    "limited": limited,
    "full": full,
    "read_only": read_only,
    "together": together,
    "convert_both": convert_together,
}
