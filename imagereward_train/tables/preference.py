"""Table 3: how often a scorer prefers what people prefer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imagereward_core.errors import DataError

from ..formats import read_items
from ..items import Item
from . import metrics, published, report
from .judges import Judge
from .scoring import Progress, World, score_items

TIE_RULES = {"reference": "equal scores count as wrong", "half": "equal scores count as half right"}
CHOICE_IMAGES = 8  # prompts with at least this many images stand in for the lost set
SHOWN = 10


def run_preference(
    data: str | os.PathLike[str],
    images: str | os.PathLike[str],
    judges: Sequence[Callable[[World], Judge]],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    skip_missing: bool = False,
    seed: int = 0,
    repeats: int = 1000,
    plot: bool = True,
    world: World | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every image of a ranked data set with every judge; write results.json, report.md and plot.png to `out`.

    Judges are given as functions of the World, so that only one is loaded at a time. Returns what results.json holds.
    Raises DataError for bad data or missing images (all are named, unless `skip_missing` leaves their prompts out).
    """
    world, folder = world or World(), Path(out)
    reading = read_items(data, images)
    fatal = [str(problem) for problem in reading.problems if problem.fatal]
    if fatal:
        raise DataError(f"{len(fatal)} problems in {data}: " + "; ".join(fatal[:SHOWN]))
    if any(item.ranking is None for item in reading.items):
        raise DataError(f"{data} holds pairs: this benchmark needs rankings")
    items: list[Item] = reading.items
    left_out: list[str] = []
    used: list[Judge] = []
    results: dict[str, Any] = {"scorers": {}}
    digest = report.digest_file(data)
    for build in judges:
        judge = build(world)
        if judge.needs_images and not left_out:
            items, left_out = with_images(reading.items, skip_missing)
        chosen = items if judge.needs_images else reading.items
        scores = score_items(chosen, judge, folder / "scores", digest, resume, world, progress)
        used.append(judge)
        results["scorers"][judge.name] = evaluate(
            [(item.ranking or (), scores[item.id]) for item in chosen], seed, repeats
        )
    settings = {
        "data": str(data),
        "data_sha256": digest,
        "seed": seed,
        "bootstrap": repeats,
        "tie_rules": TIE_RULES,
        "processes": world.count,
    }
    if any(judge.needs_images for judge in used) and world.main:
        settings["images_sha256"] = report.digest_images(
            (image for item in items for image in item.images), str(images or Path(data).parent)
        )
    results |= {
        "benchmark": "preference",
        "prompts": len(reading.items),
        "pairs": sum(len(item.pairs) for item in reading.items),
        "human_ties": reading.ties,
        "left_out": left_out,
        "published": {"accuracy": published.ACCURACY, "selection": published.SELECTION},
        "note": published.LOST,
        "manifest": report.manifest(used, settings),
    }
    if world.main:
        report.write_report(folder, results, markdown(results))
        if plot:
            percents = {
                name: [100 * value for value in (found["accuracy"]["pair"], *found["interval"])]
                for name, found in results["scorers"].items()
            }
            bars: dict[str, dict[str, report.Bar]] = {
                "ours": {name: (value, low, high) for name, (value, low, high) in percents.items()}
            }
            bars["paper"] = {
                name: (value, value, value) for name, value in published.ACCURACY.items() if name in bars["ours"]
            }
            report.bar_plot(
                folder / "plot.png",
                "Preference accuracy",
                bars if bars["paper"] else {"ours": bars["ours"]},
                "per cent of pairs",
                50.0,
            )
    world.wait()
    return results


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


def evaluate(data: Sequence[metrics.Ranked], seed: int = 0, repeats: int = 1000) -> dict[str, Any]:
    """All of Table 3's numbers for one scorer, in [0, 1]."""
    many = [(ranking, scores) for ranking, scores in data if len(ranking) >= CHOICE_IMAGES]
    return {
        "accuracy": dataclasses.asdict(metrics.accuracy(data)),
        "interval": metrics.accuracy_interval(data, repeats, seed),
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
