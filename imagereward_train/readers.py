"""One reader per layout of preference data. Each adds `Item`s to a `Reading`, and what is wrong with the rest as
`Problem`s, so that one bad line does not hide the next.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagereward_core.image_files import SUFFIXES as IMAGE_SUFFIXES

from .items import Item, Pair, pairs_of


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data set. `fatal` is False for what is merely left out, such as an item whose images all
    tie.
    """

    where: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Reading:
    """What a reader found: the usable items, the problems, and how many judged pairs were ties."""

    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    ties: int = 0

    def problem(self, where: str, message: str, fatal: bool = True) -> None:
        self.problems.append(Problem(where, message, fatal))


def rankings(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """ImageReward's own JSON: {id, prompt, generations, ranking}; `pairs` may stand in for `ranking`."""
    for number, row in enumerate(rows):
        where = f"item {row.get('id', f'number {number}')}"
        prompt, names, ranking, pairs = (row.get(key) for key in ("prompt", "generations", "ranking", "pairs"))
        if not isinstance(prompt, str):
            reading.problem(where, f"prompt must be a string, found {type(prompt).__name__}")
        elif not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            reading.problem(where, "generations must be a list of image files")
        elif ranking is None and pairs is not None:
            bad = not isinstance(pairs, list) or [p for p in pairs if not _is_pair(p, len(names))]
            if bad:
                reading.problem(where, f"pairs must be [better, worse] indices below {len(names)}")
            else:
                _add(reading, str(row.get("id", number)), prompt, names, root, tuple((p[0], p[1]) for p in pairs), None)
        elif not isinstance(ranking, list) or not all(
            isinstance(rank, (int, float)) and not isinstance(rank, bool) for rank in ranking
        ):
            reading.problem(where, "ranking must be a list of numbers, 1 = best")
        elif len(ranking) != len(names):
            reading.problem(where, f"ranking has {len(ranking)} entries for {len(names)} generations")
        else:
            _add(reading, str(row.get("id", number)), prompt, names, root, pairs_of(ranking), tuple(ranking))


def _is_pair(pair: Any, count: int) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(i) is int and 0 <= i < count for i in pair)
        and pair[0] != pair[1]
    )


def records(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """ImageRewardDB as it lies on the hub: one record per image with prompt_id, prompt, image_path and rank."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        if not {"prompt_id", "prompt", "image_path", "rank"} <= set(row):
            reading.problem(
                f"record {number}", f"prompt_id, prompt, image_path and rank are needed, found {sorted(row)}"
            )
        else:
            groups.setdefault(str(row["prompt_id"]), []).append(row)
    for key, group in groups.items():
        try:
            ranking = tuple(float(row["rank"]) for row in group)
        except (TypeError, ValueError):
            reading.problem(f"item {key}", f"rank must be a number, found {[row['rank'] for row in group]}")
            continue
        _add(
            reading,
            key,
            str(group[0]["prompt"]),
            [str(row["image_path"]) for row in group],
            root,
            pairs_of(ranking),
            ranking,
        )


def beside(root: Path, folder: Path, row: dict[str, Any]) -> str:
    name = str(row["image_path"])
    near = folder / Path(name).name
    return str(near.resolve()) if near.is_file() and not (root / name).is_file() else name


def pairs(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """{prompt, better, worse}: all pairs of one prompt become one item, so that each image is encoded once."""
    triples: list[tuple[str, str, str]] = []
    for number, row in enumerate(rows, start=1):
        values = [row.get(key) for key in ("prompt", "better", "worse")]
        if not all(isinstance(value, str) and value for value in values):
            reading.problem(f"pair {number}", f"prompt, better and worse are needed, found {values}")
        elif values[1] == values[2]:
            reading.problem(f"pair {number}", f"{values[1]} is compared with itself")
        else:
            triples.append((str(values[0]), str(values[1]), str(values[2])))
    _group(triples, root, reading)


def pickapic(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """Pick-a-Pic (Kirstain et al. 2023): caption, two images (a path, or a uid that names a file) and label_0 in {0,
    0.5, 1}.
    """
    triples: list[tuple[str, str, str]] = []
    for number, row in enumerate(rows, start=1):
        where = f"pair {number}"
        prompt = row.get("caption") or row.get("prompt")
        names = [row.get(f"image_{side}") or row.get(f"image_{side}_uid") for side in (0, 1)]
        try:
            label = float(row["label_0"])
        except (KeyError, TypeError, ValueError):
            label = -1.0
        if not isinstance(prompt, str) or not all(isinstance(name, str) and name for name in names):
            reading.problem(where, f"caption, image_0 and image_1 are needed, found {sorted(row)}")
        elif label not in (0.0, 0.5, 1.0):
            reading.problem(where, f"label_0 must be 0, 0.5 or 1, found {row.get('label_0')!r}")
        elif label == 0.5:
            reading.ties += 1
        else:
            better, worse = names if label == 1.0 else names[::-1]
            triples.append((prompt, str(better), str(worse)))
    _group(triples, root, reading)


def _group(triples: list[tuple[str, str, str]], root: Path, reading: Reading) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for prompt, better, worse in triples:
        groups.setdefault(prompt, []).append((better, worse))
    for number, (prompt, judged) in enumerate(groups.items()):
        names = list(dict.fromkeys(name for pair in judged for name in pair))
        index = {name: place for place, name in enumerate(names)}
        _add(reading, f"prompt-{number}", prompt, names, root, tuple((index[a], index[b]) for a, b in judged), None)


def folders(path: Path, reading: Reading) -> None:
    """One folder per prompt: prompt.txt (or the folder's name), and images called <rank>_anything.png, or
    ranking.json.
    """
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        prompt_file, ranking_file = folder / "prompt.txt", folder / "ranking.json"
        prompt = prompt_file.read_text(encoding="utf-8").strip() if prompt_file.is_file() else folder.name
        if ranking_file.is_file():
            try:
                table = json.loads(ranking_file.read_text(encoding="utf-8"))
                names, ranking = list(table), [float(rank) for rank in table.values()]
            except (ValueError, TypeError, AttributeError) as error:
                reading.problem(f"folder {folder.name}", f"ranking.json must map image files to ranks: {error}")
                continue
        else:
            names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
            found = [re.match(r"(\d+)(?=[_.\-])", name) for name in names]
            if not names or not all(found):
                bad = [name for name, match in zip(names, found) if not match]
                reading.problem(
                    f"folder {folder.name}",
                    "images must be called <rank>_anything, 1 = best, or be listed in ranking.json; found"
                    f" {bad or 'no image'}",
                )
                continue
            ranking = [float(match.group(1)) for match in found if match]
        _add(reading, folder.name, prompt, names, folder, pairs_of(ranking), tuple(ranking))


def _add(
    reading: Reading,
    key: str,
    prompt: str,
    names: list[str],
    root: Path,
    judged: tuple[Pair, ...],
    ranking: tuple[float, ...] | None,
) -> None:
    if not prompt.strip():
        reading.problem(f"item {key}", "the prompt is empty: the model judges pictures by how well they fit one")
        return
    if ranking is not None and not all(math.isfinite(rank) for rank in ranking):
        reading.problem(f"item {key}", f"every rank must be a finite number, found {list(ranking)}")
        return
    if ranking is not None:
        reading.ties += len(ranking) * (len(ranking) - 1) // 2 - len(judged)
    if not judged:
        reading.problem(f"item {key}", "all images tie: it says nothing about preference and is left out", fatal=False)
        return
    files = tuple(os.path.abspath(_find(root, name)) for name in names)
    reading.items.append(Item(key, prompt, files, judged, ranking, tuple(names)))


def _find(root: Path, name: str) -> Path:
    """The file a name stands for: as it is, or (uids come without one) with the first image suffix that exists."""
    path = root / name
    if path.suffix.lower() not in IMAGE_SUFFIXES and not path.exists():
        for suffix in IMAGE_SUFFIXES:
            if Path(f"{path}{suffix}").exists():
                return Path(f"{path}{suffix}")
    return path
