"""What a benchmark leaves behind: results.json with a manifest that replays it, report.md for people, a plot."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from imagereward_core import __version__
from imagereward_core.atomic import replacing, write_json, write_text
from imagereward_core.hashing import file_digest
from imagereward_core.log import logger

from .judges import Judge

PACKAGES = ("torch", "numpy", "Pillow", "safetensors", "tokenizers", "transformers", "accelerate")


def digest_images(paths: Iterable[str], root: str) -> str:
    """sha256 over names (relative to `root`) and contents of images, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(f"{os.path.relpath(path, root)} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def manifest(judges: Sequence[Judge], settings: dict[str, Any]) -> dict[str, Any]:
    """Versions, machine, settings and what each judge was: enough to run the same again and to see why numbers
    differ.
    """
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "imagereward": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "machine": f"{platform.system()} {platform.machine()}",
        "command": ["imagereward", *sys.argv[1:]] if Path(sys.argv[0]).name != "pytest" else [],
        "settings": settings,
        "judges": {judge.name: judge.facts for judge in judges},
    }


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(value: float | None) -> str:
    """0.6514 → 65.14; — for None."""
    return "—" if value is None else f"{100 * value:.2f}"


def write_report(folder: Path, results: dict[str, Any], text: str) -> None:
    """results.json (numbers that are none as null) and report.md, whole or not at all."""
    write_json(folder / "results.json", _finite(results), indent=1)
    write_text(folder / "report.md", text)


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Bar = tuple[float, float, float]
"""Value, and the ends of its interval."""


def bar_plot(path: Path, title: str, groups: dict[str, dict[str, Bar]], label: str, line: float | None = None) -> bool:
    """{series: {name: bar}} as grouped bars with their intervals; False (and a log line) without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("matplotlib is not installed: no plot is drawn")
        return False
    names = list(dict.fromkeys(name for series in groups.values() for name in series))
    figure = Figure(figsize=(max(5.0, 1.4 * len(names)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / max(1, len(groups))
    for number, (series, values) in enumerate(groups.items()):
        places = [index + number * width for index, name in enumerate(names) if name in values]
        heights, lows, highs = zip(*(values[name] for name in names if name in values), strict=True)
        # A percentile interval need not hold the value itself; an error bar cannot point backwards.
        ends = [
            [max(0.0, height - low) for height, low in zip(heights, lows)],
            [max(0.0, high - height) for height, high in zip(heights, highs)],
        ]
        axes.bar(places, heights, width, yerr=ends, capsize=3, error_kw={"linewidth": 0.8}, label=series)
    if line is not None:
        axes.axhline(line, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xticks([index + 0.4 - width / 2 for index in range(len(names))], names, rotation=20, ha="right")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return True
