"""What remembering costs a job, and whether a killed WebUI loses what it had acknowledged.

    python benchmarks/remember.py [--jobs 12] [--rows 20000] [--kills 6] [--out benchmarks/results/remember.json]

Jobs of 4 pictures of 512x512 run in the tests' stand-in for the host, scored by the small world's reward model, saved
as PNG, with a library of 20,000 pictures to be placed among. Timed is all that the job's own thread does for the
library, meanwhile the background decodes, hashes and writes. Then a process that does the same is killed (SIGKILL) at
moments of its own, and the file is asked for its integrity and for what had been acknowledged.

Bar: <= 2 ms per picture on the job's thread (the median by the clock, less what Linux says that the thread waited for a
processor which other programs had; the worst of the thread's own processor time); nothing lost.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.bars import finish, machine  # noqa: E402
from benchmarks.library import fill  # noqa: E402
from imagereward_core.library import find, open_library  # noqa: E402
from tests.contract.fakehost import FakeHost  # noqa: E402

TINY = ROOT / "smallworld" / "weights" / "tiny-imagereward.safetensors"
PICTURES = 4  # of a job
SAMPLING = 0.25  # seconds that the job's thread waits for the GPU, before each batch
TIMED = {  # all that a job does for the library and what its scores mean
    "job.Job": ("image_saved", "remember"),
    "remember.Memory": ("prepare", "mean", "settle", "wanted", "of_one_person"),
}
KILLED = """
import pathlib, sys
sys.path.insert(0, {root!r})
from benchmarks.remember import host_in, job
folder = pathlib.Path(sys.argv[1])
with host_in(folder) as host:
    recorder = host.part("remember").memory.recorder()
    for number in range(10_000):
        job(host, 1000 * number)
        print(recorder.written, flush=True)
"""


class Clock:
    """Milliseconds of this thread within functions: (by the clock, of the processor, by the clock less the time for
    which it waited for a processor) a call. Calls within calls count once.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[float, float, float]]] = {}
        self._depth = 0
        path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._file = os.open(path, os.O_RDONLY) if os.path.exists(path) else None

    def _waited(self) -> float:
        """Milliseconds for which this thread could have run, and other threads and programs did; 0 off Linux."""
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e6 if self._file is not None else 0.0

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time noted under that name."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            waited = 0.0 if self._depth > 1 else self._waited()
            start, used = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    wall, cpu = 1000 * (time.perf_counter() - start), 1000 * (time.thread_time() - used)
                    self.calls.setdefault(name, []).append((wall, cpu, wall - (self._waited() - waited)))

        return run

    def per_picture(self, pick: Callable[[list[float]], float], column: int) -> float:
        """What a picture takes, of `pick` of the calls: its own call, and its share of those that a job makes once."""
        shares = {"image_saved": 1}
        return sum(
            pick([call[column] for call in calls]) * shares.get(name, self.per_job(name) / PICTURES)
            for name, calls in self.calls.items()
        )

    def per_job(self, name: str) -> float:
        """How often a job calls it."""
        return len(self.calls[name]) * PICTURES / len(self.calls["image_saved"])


def host_in(folder: pathlib.Path) -> FakeHost:
    """A host with the small world's reward model."""
    models = folder / "models" / "ImageReward"
    models.mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY, models)
    return FakeHost(folder)


def job(host: FakeHost, seed: int) -> Any:
    """One job; each of its pictures is scored, saved and remembered."""
    return host.txt2img(
        seed=seed,
        batch_size=PICTURES,
        width=512,
        height=512,
        prompt=f"a red circle, <lora:style{seed % 7}:0.8>",
        sd_model_name="checkpoint7",
        sd_model_hash=f"{7:010x}",
        accordion={"scorer": TINY.name},
    )


def costs(folder: pathlib.Path, jobs: int, rows: int) -> dict[str, Any]:
    """Milliseconds per picture on the job's thread, and what reached the disk."""
    with host_in(folder) as host:
        stored = host.part("judges").stored_name(TINY.name, host.part("host").models_dir())
        with open_library(folder / "imagereward-library.sqlite") as library:
            fill(library, rows)
            with library.transaction() as connection:  # the history is of this scorer
                connection.execute("UPDATE scorers SET name = ? WHERE name = 'ImageReward-v1.0'", (stored,))
            library.optimize()
        host.on_sample.append(lambda p, n: time.sleep(SAMPLING))
        clock = Clock()
        for place, names in TIMED.items():
            module, _, kind = place.partition(".")
            owner = getattr(host.part(module), kind)
            for name in names:
                found = vars(owner)[name]
                function = found.__func__ if isinstance(found, staticmethod) else found
                timed = clock.timed(name, function)
                setattr(owner, name, staticmethod(timed) if isinstance(found, staticmethod) else timed)
        memory = host.part("remember").memory
        line = ""
        for number in range(jobs + 1):
            line = job(host, 1000 * number).comments.splitlines()[0]
            if not number:  # the first one imports what later ones find there
                first = clock.per_picture(statistics.median, 2)
                memory.recorder().flush(120)
                clock.calls.clear()
        memory.recorder().flush(120)
        written = memory.recorder().written
        with open_library(memory.recorder().place) as library:
            ((features,),) = library.query("SELECT COUNT(*) FROM features")
        memory.close()
    return {
        "pictures": PICTURES * (jobs + 1),
        "written": written,
        "with_features": features,
        "first_job_median_ms": first,
        "median_ms": clock.per_picture(statistics.median, 2),
        "median_with_waiting_ms": clock.per_picture(statistics.median, 0),
        "median_cpu_ms": clock.per_picture(statistics.median, 1),
        "worst_cpu_ms": clock.per_picture(max, 1),
        "line": line,
    }


def embeddings(pairs: int = 40) -> dict[str, float]:
    """Milliseconds that keeping what the network made of a picture adds to its forward, at ImageReward's size: tokens
    of a ViT-L [1, 577, 1024] and a fusion token [1, 768] to one row on the CPU. Nothing else is done for it.
    """
    import torch

    from imagereward_core.scorers.base import pooled

    tokens, fusion = torch.randn(1, 577, 1024), torch.randn(1, 768)
    walls, processors = [], []
    with torch.no_grad():
        for _ in range(pairs):
            start, used = time.perf_counter(), time.thread_time()
            torch.cat([fusion, pooled(tokens)], dim=1).float().cpu()[0].numpy()
            walls.append(1000 * (time.perf_counter() - start))
            processors.append(1000 * (time.thread_time() - used))
    return {"median_ms": statistics.median(walls), "median_cpu_ms": statistics.median(processors)}


def kills(folder: pathlib.Path, times: int) -> dict[str, Any]:
    """Processes killed while they write: what they had acknowledged, and what is there."""
    lost, acknowledged, sound = 0, 0, 0
    for number in range(times):
        place = folder / f"kill{number}"
        place.mkdir()
        command = [sys.executable, "-c", KILLED.format(root=str(ROOT)), str(place)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(3 + 2 * number)]
        time.sleep(0.003 * number)
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines()
        process.wait()
        before = int(told[-1])
        with open_library(place / "imagereward-library.sqlite") as library:
            sound += library.query("PRAGMA integrity_check") == [("ok",)]
            there = len(find.newest(library, limit=None))
        acknowledged += before
        lost += max(0, before - there)
    return {"killed": times, "acknowledged": acknowledged, "lost": lost, "integrity_ok": sound}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "jobs").mkdir()
        report: dict[str, Any] = {
            "machine": machine(),
            "rows": args.rows,
            "job": costs(folder / "jobs", args.jobs, args.rows),
            "embeddings": embeddings(),
            "kill": kills(folder, args.kills),
        }
    cost, extra, kill = report["job"], report["embeddings"], report["kill"]
    bars = {
        "<= 2 ms per picture on the job's thread": max(
            cost["median_ms"] + extra["median_ms"], cost["worst_cpu_ms"] + extra["median_cpu_ms"]
        )
        <= 2,
        "every picture with its features": cost["written"] == cost["pictures"] == cost["with_features"],
        "nothing acknowledged lost": kill["lost"] == 0 and kill["integrity_ok"] == kill["killed"],
    }
    return finish(report, bars, before, args.out)


if __name__ == "__main__":
    raise SystemExit(main())
