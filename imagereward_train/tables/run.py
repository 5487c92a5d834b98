"""What every table does alike: load one judge after the other, score resumably, and leave results, report and plot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..items import Item
from . import report
from .judges import Judge
from .scoring import Progress, World, score_items

BuildJudge = Callable[[World], Judge]
"""Judges are given as functions of the World, so that only one is loaded at a time."""


@dataclass(frozen=True)
class Page:
    """How a table is shown: its Markdown, and its bars as (title, {series: {name: bar}}, axis label, line or None)."""

    markdown: Callable[[dict[str, Any]], str]
    bars: Callable[[dict[str, Any]], tuple[str, dict[str, dict[str, report.Bar]], str, float | None]]


class TableRun:
    """One run of one table. `results` is what results.json will hold; judges add to `results["scorers"]`."""

    def __init__(
        self,
        benchmark: str,
        out: str | os.PathLike[str],
        *,
        resume: bool = False,
        seed: int = 0,
        repeats: int = 1000,
        plot: bool = True,
        world: World | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.folder = Path(out)
        self.world = world or World()
        self.resume, self.seed, self.repeats, self.plot, self.progress = resume, seed, repeats, plot, progress
        self.used: list[Judge] = []
        self.results: dict[str, Any] = {"benchmark": benchmark, "scorers": {}}

    def judges(self, builders: Sequence[BuildJudge]) -> Iterator[Judge]:
        """Each judge, loaded when its turn comes."""
        for build in builders:
            judge = build(self.world)
            self.used.append(judge)
            yield judge

    def score(self, items: Sequence[Item], judge: Judge, digest: str) -> dict[str, list[float]]:
        """{item id: scores}; `digest` names the data that the scores belong to."""
        folder = self.folder / "scores"
        return score_items(items, judge, folder, digest, self.resume, self.world, self.progress)

    def finish(self, facts: dict[str, Any], settings: dict[str, Any], page: Page) -> dict[str, Any]:
        """Add `facts` and a manifest to the results, let the main process write them, and return them."""
        settings = {**settings, "seed": self.seed, "bootstrap": self.repeats, "processes": self.world.count}
        self.results |= {**facts, "manifest": report.manifest(self.used, settings)}
        if self.world.main:
            report.write_report(self.folder, self.results, page.markdown(self.results))
            if self.plot:
                report.bar_plot(self.folder / "plot.png", *page.bars(self.results))
        self.world.wait()
        return self.results
