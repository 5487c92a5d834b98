"""How benchmarks of the library say what they ran on, and whether their bars are met."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sqlite3
from typing import Any


def machine() -> str:
    """What the numbers depend on, as far as it is known."""
    return (
        f"{platform.machine()}, {os.cpu_count()} threads, Python {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version}"
    )


def finish(report: dict[str, Any], bars: dict[str, bool], load_before: float, out: pathlib.Path | None) -> int:
    """Print the report with its bars and the machine's load before and after, and write it to `out`; the command's exit
    status, 1 where a bar is not met.
    """
    report = {**report, "load": {"before": load_before, "after": os.getloadavg()[0]}, "bars": bars}
    text = json.dumps(report, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(bars.values()) else 1
