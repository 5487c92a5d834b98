"""What a run writes down: metrics.jsonl, TensorBoard events, a curve."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagereward_core.atomic import replacing, write_text
from imagereward_core.log import logger


class Records:
    """Appends one JSON object per event to `metrics.jsonl` and mirrors numbers to TensorBoard where it is installed."""

    def __init__(self, folder: Path, tensorboard: bool, resume_at: int | None):
        self.path = folder / "metrics.jsonl"
        if resume_at is None:
            write_text(self.path, "")
        else:
            keep = [line for line, event in _events(self.path) if event["update"] <= resume_at]
            write_text(self.path, "".join(keep))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run; close() ends it
        self._writer = _summary_writer(folder / "tensorboard", resume_at) if tensorboard else None

    def write(self, kind: str, update: int, **values: Any) -> None:
        """One line {"kind": …, "update": …, …}; floats are written so that they read back to the same bits."""
        self._file.write(json.dumps({"kind": kind, "update": update, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _events(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(line, event) of every whole line. What a crash or a full disk tore is left out, the lines after it are not."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("update"), int):
            yield f"{line}\n", event


def _summary_writer(folder: Path, resume_at: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("tensorboard is not installed: metrics.jsonl holds the same numbers")
        return None
    return SummaryWriter(str(folder), purge_step=None if resume_at is None else resume_at + 1)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl; torn lines are left out."""
    return [event for _, event in _events(Path(path))]


def draw_curve(metrics: Path, target: Path) -> bool:
    """Loss and accuracy over the updates as a PNG; False (and a log line) without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("matplotlib is not installed: no curve is drawn")
        return False
    events = read_metrics(metrics)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name, chance in zip(figure.subplots(1, 2), ("loss", "accuracy"), (0.6931, 0.5)):
        for kind, style in (("train", "-"), ("valid", "o-")):
            points = [(event["update"], event[name]) for event in events if event["kind"] == kind]
            if points:
                axes.plot(*zip(*points), style, label=kind, linewidth=1, markersize=3)
        axes.axhline(chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
        axes.set_xlabel("update")
        axes.set_ylabel(f"pair {name}")
        axes.legend()
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return True
