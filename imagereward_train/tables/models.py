"""Table 1: rank text-to-image models by the mean score of their images, and compare with people's ranking."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagereward_core import prompt_files
from imagereward_core.errors import DataError
from imagereward_core.hashing import file_digest
from imagereward_core.image_files import is_image_name

from ..items import Item
from . import metrics, published, report
from .run import BuildJudge, Page, TableRun

SHOWN = 10
WINS = frozenset(("model", "wins"))  # columns of a file of human wins


def read_prompts(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """(id, prompt) of a JSON list of {id, prompt}. Raises DataError."""
    try:
        rows = prompt_files.parsed(str(path), prompt_files.decoded(str(path), prompt_files.read_file(path)))
        prompts = [(str(row["id"]), str(row["prompt"])) for row in rows]
    except (DataError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} must be a JSON list of objects with id and prompt: {type(error).__name__}: {error}"
        ) from error
    if len({key for key, _ in prompts}) < len(prompts) or not prompts:
        raise DataError(f"{path} holds {len(prompts)} prompts; each needs an id of its own")
    return prompts


def read_wins(path: str | os.PathLike[str]) -> dict[str, float]:
    """{model: how often people preferred it} of a JSON object, or of a table or list with model and wins. Raises
    DataError.
    """
    name, content = str(path), prompt_files.read_file(path)
    found: list[Any] = []
    if name.lower().endswith(".json"):
        data = prompt_files.parsed(name, prompt_files.decoded(name, content))
        found = list(data.items()) if isinstance(data, dict) else []
    if not found:
        rows = [entry.value for entry in prompt_files.entries(name, content, WINS, expected=" of {model, wins}")]
        found = [(row.get("model"), row.get("wins")) if isinstance(row, dict) else (None, row) for row in rows]
    wins: dict[str, float] = {}
    for model, value in found:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not isinstance(model, str) or not model or not math.isfinite(number) or model in wins:
            raise DataError(f"{path}: each model needs its number of wins, once; found {model!r}: {value!r}")
        wins[model] = number
    return wins


def read_generations(
    prompts: Sequence[tuple[str, str]], folder: Path, models: Sequence[str] = ()
) -> dict[str, list[Item]]:
    """{model: one item per prompt} from `folder`/<model>/<prompt id>_<number>.png. Every prompt needs an image of every
    model.

    Without `models`: the paper's six if they are there, else every subfolder. Raises DataError naming what is missing.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder of generations: {folder}")
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    names = {
        name: generator.folder for generator in published.GENERATORS for name in (generator.folder, *generator.aliases)
    }
    wanted = list(models) or [name for name in names if name in there] or there
    if not wanted:
        raise DataError(f"{folder} holds no folder with a model's images")
    found: dict[str, list[Item]] = {}
    missing: list[str] = []
    for name in wanted:
        if name not in there:
            raise DataError(f"{folder} has no folder {name!r}; there are {', '.join(there) or 'none'}")
        images: dict[str, list[tuple[int, str]]] = {}
        for path in (folder / name).iterdir():
            match = re.fullmatch(r"(.+)_(\d+)", path.stem)
            if match and is_image_name(path):
                images.setdefault(match.group(1), []).append((int(match.group(2)), str(path)))
        missing += [f"{name}/{key}" for key, _ in prompts if key not in images]
        paths = {key: tuple(path for _, path in sorted(entries)) for key, entries in images.items()}
        found[names.get(name, name)] = [
            Item(f"{name}/{key}", prompt, paths.get(key, ()), ()) for key, prompt in prompts
        ]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DataError(
            f"{len(missing)} prompts have no image called <id>_<number>: {', '.join(missing[:SHOWN])}{more}"
        )
    return found


def run_models(
    prompts: str | os.PathLike[str],
    generations: str | os.PathLike[str],
    judges: Sequence[BuildJudge],
    out: str | os.PathLike[str],
    *,
    models: Sequence[str] = (),
    wins: dict[str, float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score all generations with every judge; write results.json, report.md and plot.png to `out`, and return the
    results.

    wins: {model: human wins} to compare with (default: the paper's, for its six models). options: those of `TableRun`
    (resume, seed, repeats, plot, world, progress). Raises DataError.
    """
    run = TableRun("models", out, **options)
    items = read_generations(read_prompts(prompts), Path(generations), models)
    human = (
        wins if wins is not None else {generator.folder: float(generator.wins) for generator in published.GENERATORS}
    )
    if wins is not None and len(set(wins) & set(items)) < 3:
        raise DataError(
            f"Spearman's correlation needs wins of at least 3 of the models; {', '.join(items)} have images, and"
            f" there are wins of {', '.join(wins) or 'none'}"
        )
    flat = [item for group in items.values() for item in group]
    pictures = [image for item in flat for image in item.images]
    digest = report.digest_images(pictures, str(generations)) if run.world.main or run.world.count > 1 else ""
    for judge in run.judges(judges):
        scores = run.score(flat, judge, digest)
        means = {model: np.array([np.mean(scores[item.id]) for item in group]) for model, group in items.items()}
        run.results["scorers"][judge.name] = evaluate(means, human, run.seed, run.repeats)
    settings = {"prompts": str(prompts), "prompts_sha256": file_digest(prompts), "images_sha256": digest}
    facts = {
        "prompts": len(next(iter(items.values()))),
        "images": len(pictures),
        "human_wins": {model: human[model] for model in items if model in human},
        "published": {"means": {g.folder: g.mean for g in published.GENERATORS}, "spearman": published.SPEARMAN},
    }
    return run.finish(facts, settings, Page(markdown, bars))


def bars(results: dict[str, Any]) -> tuple[str, dict[str, dict[str, report.Bar]], str, float | None]:
    """Each model's mean score with its interval, best first."""
    groups = {
        name: {model: (row["mean"], row["low"], row["high"]) for model, row in _ranked(found)}
        for name, found in results["scorers"].items()
    }
    return "Mean score per text-to-image model", groups, "mean score", None


def _ranked(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(model, its row) of one scorer, best first."""
    return sorted(found["models"].items(), key=lambda entry: entry[1]["rank"])


def evaluate(
    means: dict[str, np.ndarray], human: dict[str, float], seed: int = 0, repeats: int = 1000
) -> dict[str, Any]:
    """From each model's mean score per prompt: means, ranks, Spearman's ρ to human wins, 95 % intervals over prompts.

    All models share the prompts of a resample, since they answered the same ones.
    """
    names = list(means)
    table = np.stack([means[name] for name in names])  # [models, prompts]
    average = table.mean(axis=1)
    samples = metrics.bootstrap(
        table.shape[1], lambda draw: table[:, draw].mean(axis=1), repeats, seed
    )  # [repeats, models]
    low, high = metrics.interval(samples)
    place = metrics.ranks(average)
    rows = {
        name: {
            "mean": float(average[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "rank": float(place[i]),
            "prompts": table.shape[1],
        }
        for i, name in enumerate(names)
    }
    judged = [index for index, name in enumerate(names) if name in human]
    found: dict[str, Any] = {"models": rows, "spearman": None}
    if len(judged) >= 3:
        wins = [human[names[index]] for index in judged]
        spread = np.array([metrics.spearman(sample[judged], wins) for sample in samples])
        bounds = metrics.interval(spread) if np.isfinite(spread).any() else (float("nan"), float("nan"))
        found["spearman"] = {
            "value": metrics.spearman(average[judged], wins),
            "low": float(bounds[0]),
            "high": float(bounds[1]),
            "models": len(judged),
        }
    return found


def markdown(results: dict[str, Any]) -> str:
    """The report for people: ours beside the paper's row."""
    names = {generator.folder: generator for generator in published.GENERATORS}
    text = (
        f"# Text-to-image models by mean score (Table 1)\n\n{results['prompts']} prompts, {results['images']} images."
        " Intervals: 95 %, bootstrap over prompts.\n"
    )
    for scorer, found in results["scorers"].items():
        rows = []
        for model, row in _ranked(found):
            paper = f"{names[model].mean:.4f}" if model in names and scorer == "ImageReward-v1.0" else "—"
            label = names[model].name if model in names else model
            rows.append(
                [
                    label,
                    f"{row['mean']:.4f}",
                    f"{row['low']:.4f} to {row['high']:.4f}",
                    f"{row['rank']:g}",
                    paper,
                    f"{results['human_wins'].get(model, '—')}",
                ]
            )
        text += f"\n## {scorer}\n\n" + report.markdown_table(
            ["model", "mean", "95 % interval", "rank", "paper's mean", "human wins"], rows
        )
        rho = found["spearman"]
        if rho:
            paper_rho = published.SPEARMAN.get(scorer)
            text += (
                f"\nSpearman's ρ to human wins over {rho['models']} models: {rho['value']:.2f} ({rho['low']:.2f} to"
                f" {rho['high']:.2f})"
            )
            text += f"; paper: {paper_rho:.2f}.\n" if paper_rho is not None else ".\n"
    text += "\nThe authors state that values may differ by up to 0.1 between environments.\n"
    return text
