"""Score many items once: in as many processes as there are, resumable, each number written as soon as it is known."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imagereward_core.errors import ConfigError, ScoreError
from imagereward_core.log import logger

from ..items import Item
from .judges import Judge

Progress = Callable[[str, int, int, float], None]  # stage, done, total, seconds left


class World:
    """The processes of this run: one, or those that `accelerate launch` or torchrun started. `device` "cpu" avoids
    GPUs.
    """

    def __init__(self, device: str | None = None) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._state: Any = None
        if self.count > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise ConfigError("several processes need the accelerate package: pip install accelerate") from error
            from ..launched import on_cpu

            self._state = PartialState(cpu=on_cpu(device or ""))
            self.count, self.rank = self._state.num_processes, self._state.process_index

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the report."""
        return self.rank == 0

    @property
    def device(self) -> Any:
        """The device of this process, or None where nothing was launched."""
        return None if self._state is None else self._state.device

    def wait(self) -> None:
        """Until all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()


def score_items(
    items: Sequence[Item],
    judge: Judge,
    folder: Path,
    data_digest: str,
    resume: bool,
    world: World,
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """{item id: scores} of all items, the same in every process.

    `folder` gets one JSONL per judge and process: a first line that says what was scored with what, then one line per
    item. With `resume`, items found in any of them are not scored again; if they belong to other data or weights,
    ConfigError. Without, they are written anew.
    """
    stem = re.sub(r"[^\w.-]+", "_", judge.name)
    header = json.loads(
        json.dumps(
            {"judge": judge.name, "data": data_digest, **{k: v for k, v in judge.facts.items() if k != "device"}}
        )
    )
    if world.main:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob(f"{stem}.[0-9]*.jsonl")):
            if resume:
                whole = path.read_bytes()
                os.truncate(path, whole.rfind(b"\n") + 1)  # a line torn by a kill
            else:
                path.unlink()
    world.wait()
    known = _read(folder, stem, header)
    world.wait()  # nobody appends before all have read
    mine = [item for item in items[world.rank :: world.count] if item.id not in known]
    begun = time.monotonic()
    path = folder / f"{stem}.{world.rank}.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        if not file.tell():
            file.write(json.dumps(header) + "\n")
        for done, (item, found) in enumerate(zip(mine, judge.scores(mine)), start=1):
            scores = [float(value) for value in found]
            if len(scores) != len(item.images):
                raise ScoreError(
                    f"{judge.name} gave {len(scores)} scores for the {len(item.images)} images of item {item.id}"
                )
            file.write(json.dumps({"id": item.id, "scores": scores}) + "\n")
            file.flush()
            if progress and world.main:
                progress(judge.name, done, len(mine), (time.monotonic() - begun) / done * (len(mine) - done))
    world.wait()
    known = _read(folder, stem, header)
    logger.info(
        "%s: %d of %d items scored now, the others before", judge.name, len(mine), len(items[world.rank :: world.count])
    )
    return {item.id: known[item.id] for item in items}


def _read(folder: Path, stem: str, header: dict[str, Any]) -> dict[str, list[float]]:
    """All scores under this stem."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob(f"{stem}.[0-9]*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines and json.loads(lines[0]) != header:
            was = json.loads(lines[0])
            changed = sorted(key for key in was.keys() | header.keys() if was.get(key) != header.get(key))
            raise ConfigError(
                f"{path} holds scores of another run ({', '.join(changed)} differ): run without --resume, or with"
                " another --out"
            )
        for line in lines[1:]:
            row = json.loads(line)
            found[row["id"]] = row["scores"]
    return found
