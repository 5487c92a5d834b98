"""Table 3: how often a scorer prefers what people prefer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagereward_core.errors import DataError
from imagereward_core.hashing import file_digest

from .. import parquet
from ..formats import read_items
from ..items import Item, Pair
from ..readers import Reading
from . import metrics, published, report
from .run import BuildJudge, Page, TableRun

TIE_RULES = {"reference": "equal scores count as wrong", "half": "equal scores count as half right"}
CHOICE_IMAGES = 8  # prompts with at least this many images stand in for the lost set
SHOWN = 10


def run_preference(
    data: str | os.PathLike[str],
    images: str | os.PathLike[str],
    judges: Sequence[BuildJudge],
    out: str | os.PathLike[str],
    *,
    skip_missing: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Score every image of a ranked data set with every judge; write results.json, report.md and plot.png to `out`.

    options: those of `TableRun` (resume, seed, repeats, plot, world, progress). Returns what results.json holds. Raises
    DataError for bad data or missing images (all are named, unless `skip_missing` leaves their prompts out).
    """
    run = TableRun("preference", out, **options)
    reading = _readable(data, images)
    items: list[Item] = reading.items
    left_out: list[str] = []
    digest = data_digest(Path(data))
    for judge in run.judges(judges):
        if judge.needs_images and not left_out:
            items, left_out = with_images(reading.items, skip_missing)
        chosen = items if judge.needs_images else reading.items
        scores = run.score(chosen, judge, digest)
        ranked = [(item.ranking or (), scores[item.id]) for item in chosen]
        found = evaluate(ranked, run.seed, run.repeats, [item.pairs for item in chosen])
        run.results["scorers"][judge.name] = found
    settings: dict[str, Any] = {"data": str(data), "data_sha256": digest, "tie_rules": TIE_RULES}
    if any(judge.needs_images for judge in run.used) and run.world.main:
        pictures = (image for item in items for image in item.images)
        settings["images_sha256"] = report.digest_images(pictures, str(images or Path(data).parent))
    facts = {
        "prompts": len(reading.items),
        "pairs": sum(len(item.pairs) for item in reading.items),
        "human_ties": reading.ties,
        "left_out": left_out,
        "published": {"accuracy": published.ACCURACY, "selection": published.SELECTION},
        "note": published.LOST,
    }
    return run.finish(facts, settings, Page(markdown, bars))


def data_digest(path: Path) -> str:
    """sha256 of the data set: of its file, or of names and contents of a folder's files."""
    if not path.is_dir():
        return file_digest(path)
    files = parquet.files(path) or [entry for entry in path.rglob("*") if entry.is_file()]
    return report.digest_images(map(str, files), str(path))


def _readable(data: str | os.PathLike[str], images: str | os.PathLike[str]) -> Reading:
    """The data set, or DataError if anything in it is wrong."""
    reading = read_items(data, images)
    fatal = [str(problem) for problem in reading.problems if problem.fatal]
    if fatal:
        raise DataError(f"{len(fatal)} problems in {data}: " + "; ".join(fatal[:SHOWN]))
    if not reading.items:
        raise DataError(f"{data} holds no preference: " + "; ".join(map(str, reading.problems[:SHOWN])))
    return reading


def bars(results: dict[str, Any]) -> tuple[str, dict[str, dict[str, report.Bar]], str, float | None]:
    """Accuracy in per cent with its interval, beside the paper's for the scorers that it has."""
    ours: dict[str, report.Bar] = {}
    for name, found in results["scorers"].items():
        low, high = found["interval"]
        ours[name] = (100 * found["accuracy"]["pair"], 100 * low, 100 * high)
    paper = {name: (value, value, value) for name, value in published.ACCURACY.items() if name in ours}
    groups = {"ours": ours, "paper": paper} if paper else {"ours": ours}
    return "Preference accuracy", groups, "per cent of pairs", 50.0


def with_images(items: Sequence[Item], skip_missing: bool) -> tuple[list[Item], list[str]]:
    """(items whose images are all there, ids of the others). DataError naming the missing files unless
    `skip_missing`.
    """
    missing = {item.id: [image for image in item.images if not os.path.isfile(image)] for item in items}
    absent = [image for images in missing.values() for image in images]
    if absent and not skip_missing:
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        raise DataError(
            f"{len(absent)} images are missing: {', '.join(absent[:SHOWN])}{more}. Check --images, or leave their"
            " prompts out with --skip-missing"
        )
    kept = [item for item in items if not missing[item.id]]
    if not kept:
        raise DataError("no prompt has all its images")
    return kept, [item.id for item in items if missing[item.id]]


def evaluate(
    data: Sequence[metrics.Ranked],
    seed: int = 0,
    repeats: int = 1000,
    judged: Sequence[Sequence[Pair]] | None = None,
) -> dict[str, Any]:
    """All of Table 3's numbers for one scorer, in [0, 1]. `judged`: each prompt's (better, worse), where they are not
    those of a ranking.
    """
    many = [(ranking, scores) for ranking, scores in data if len(ranking) >= CHOICE_IMAGES]
    return {
        "accuracy": dataclasses.asdict(metrics.accuracy(data, judged)),
        "interval": metrics.accuracy_interval(data, repeats, seed, judged),
        "selection": {"prompts": len(many), **metrics.selection(many)} if many else None,
    }


def markdown(results: dict[str, Any]) -> str:
    """The report for people: ours beside the paper's row."""
    rows = []
    for name, found in results["scorers"].items():
        a, (low, high) = found["accuracy"], found["interval"]
        paper = published.ACCURACY.get(name)
        rows.append(
            [
                name,
                report.percent(a["pair"]),
                f"{report.percent(low)} to {report.percent(high)}",
                f"{paper:.2f}" if paper else "—",
            ]
            + [report.percent(a[key]) for key in ("pair_half", "prompt", "prompt_half")]
            + [f"{a['prompts']} / {a['pairs']}", a["equal"]]
        )
    header = [
        "scorer",
        "accuracy",
        "95 % interval",
        "paper",
        "ties half",
        "per prompt",
        "per prompt, ties half",
        "prompts / pairs",
        "equal scores",
    ]
    text = "# Preference accuracy (Table 3)\n\n"
    text += (
        f"{results['prompts']} prompts, {results['pairs']} pairs on which people had a preference,"
        f" {results['human_ties']} human ties left out.\n"
    )
    text += (
        "Accuracy: per cent of pairs ordered as people order them; equal scores count as wrong (the reference's"
        " rule).\n"
    )
    if results["left_out"]:
        text += (
            f"**{len(results['left_out'])} prompts are left out because images are missing: these are not the paper's"
            " numbers.**\n"
        )
    text += "\n" + report.markdown_table(header, rows)
    chosen = {name: found["selection"] for name, found in results["scorers"].items() if found["selection"]}
    if chosen:
        keys = [key for key in next(iter(chosen.values())) if key != "prompts"]
        rows = [
            [name, *(report.percent(found[key]) for key in keys), found["prompts"]] for name, found in chosen.items()
        ]
        rows += [
            [f"{name}, paper (371 prompts, lost)", *(f"{row[key]:.2f}" for key in keys), 371]
            for name, row in published.SELECTION.items()
        ]
        text += f"\n## Recall@k and Filter@k: substitute set\n\n{results['note']}\n\n" + report.markdown_table(
            ["scorer", *keys, "prompts"], rows
        )
    return text
