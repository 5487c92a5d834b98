"""One reader per layout of preference data. Each adds `Item`s to a `Reading`, and what is wrong with the rest as
`Problem`s, so that one bad line does not hide the next.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagereward_core import prompt_files
from imagereward_core.errors import DataError
from imagereward_core.image_files import SUFFIXES as IMAGE_SUFFIXES
from imagereward_core.image_files import is_image_name

from .items import Item, Pair, pairs_of

PROMPTS = ("prompt", "caption", "text")  # fields of a prompt, in the order they are looked for
HPDV2_IMAGES = ("image_path", "file_path")
CHOICES = (("better", "worse"), ("chosen", "rejected"), ("path1", "path2"))  # HPDv3: path1 is the preferred


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


def prompt_in(row: dict[str, Any]) -> Any:
    """The record's prompt, under whichever of its names there is one; None if there is none."""
    return next((row[field] for field in PROMPTS if row.get(field)), row.get(PROMPTS[0]))


def rankings(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """ImageReward's own JSON: {id, prompt, generations, ranking}; `pairs` may stand in for `ranking`."""
    for number, row in enumerate(rows):
        where = f"item {row.get('id', f'number {number}')}"
        prompt, names, ranking, pairs = prompt_in(row), *(row.get(key) for key in ("generations", "ranking", "pairs"))
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
        elif not isinstance(ranking, list) or not all(map(_is_number, ranking)):
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
        except (TypeError, ValueError, OverflowError):
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
    """A record's image: where its path leads from the root, else beside the records."""
    name = str(row["image_path"])
    near = folder / Path(name).name
    return str(near.resolve()) if os.path.isfile(near) and not os.path.isfile(root / name) else name


def pairs(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """{prompt, better, worse}, also called chosen and rejected (as for DPO) or path1 and path2 (HPD v3, Ma et al.
    2025): all pairs of one prompt become one item, so that each image is encoded once.
    """
    triples: list[tuple[str, str, str]] = []
    for number, row in enumerate(rows, start=1):
        better, worse = next((names for names in CHOICES if row.get(names[0]) is not None), CHOICES[0])
        values = [prompt_in(row), row.get(better), row.get(worse)]
        if not all(isinstance(value, str) and value for value in values):
            reading.problem(f"pair {number}", f"prompt, {better} and {worse} are needed, found {values}")
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
    unjudged = 0
    for number, row in enumerate(rows, start=1):
        where = f"pair {number}"
        prompt = prompt_in(row)
        if row.get("has_label") is False:
            unjudged += 1
            continue
        names = [row.get(f"image_{side}") or row.get(f"image_{side}_uid") for side in (0, 1)]
        try:
            label = float(row["label_0"])
        except (KeyError, TypeError, ValueError, OverflowError):
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
    if unjudged:
        reading.problem("has_label", f"{unjudged} pairs were judged by nobody and are left out", fatal=False)
    _group(triples, root, reading)


def hpdv2(rows: Iterable[dict[str, Any]], root: Path, reading: Reading) -> None:
    """HPD v2 (Wu et al. 2023): one record per prompt with a list of images, and beside it `rank` (1 = the best; its
    test.json) or `human_preference` (1 = preferred to those with 0; its train.json).
    """
    triples: list[tuple[str, str, str]] = []
    for number, row in enumerate(rows, start=1):
        where = f"record {number}"
        prompt = prompt_in(row)
        names = next((row[field] for field in HPDV2_IMAGES if row.get(field)), None)
        key = "rank" if row.get("rank") is not None else "human_preference"
        values = row.get(key)
        if not isinstance(prompt, str) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            reading.problem(where, f"prompt and a list of images as image_path are needed, found {sorted(row)}")
        elif not isinstance(values, list) or not all(map(_is_number, values)):
            reading.problem(where, f"rank or human_preference must be a list of numbers, found {values!r:.80}")
        elif len(values) != len(names):
            reading.problem(where, f"{key} has {len(values)} entries for {len(names)} images")
        elif key == "rank":
            _add(reading, f"hpdv2-{number}", prompt, names, root, pairs_of(values), tuple(values))
        else:
            better, worse = ([name for name, value in zip(names, values) if value == wanted] for wanted in (1, 0))
            if len(better) + len(worse) < len(names):
                reading.problem(where, f"human_preference must be 0 or 1 for each image, found {values}")
                continue
            reading.ties += math.comb(len(better), 2) + math.comb(len(worse), 2)
            triples += [(prompt, winner, loser) for winner in better for loser in worse if winner != loser]
    _group(triples, root, reading)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
        try:
            prompt = _text(prompt_file).strip() if prompt_file.is_file() else folder.name
            table = prompt_files.parsed(str(ranking_file), _text(ranking_file)) if ranking_file.is_file() else None
        except DataError as error:
            reading.problem(f"folder {folder.name}", str(error))
            continue
        if table is not None:
            try:
                names, ranking = list(table), [float(rank) for rank in table.values()]
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                reading.problem(f"folder {folder.name}", f"ranking.json must map image files to ranks: {error}")
                continue
        else:
            names = sorted(entry.name for entry in folder.iterdir() if is_image_name(entry))
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


def _text(path: Path) -> str:
    return prompt_files.decoded(str(path), prompt_files.read_file(path))


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
    unusable = [text for text in (prompt, *names) if not _storable(text)]
    if unusable:
        reading.problem(f"item {key}", f"this text cannot be a prompt or the name of a file: {unusable[0]!r:.80}")
        return
    if ranking is not None and not all(_finite(rank) for rank in ranking):
        reading.problem(f"item {key}", f"every rank must be a finite number, found {list(ranking)}")
        return
    if ranking is not None:
        reading.ties += len(ranking) * (len(ranking) - 1) // 2 - len(judged)
    if not judged:
        reading.problem(f"item {key}", "all images tie: it says nothing about preference and is left out", fatal=False)
        return
    files = tuple(os.path.abspath(_find(root, name)) for name in names)
    reading.items.append(Item(key, prompt, files, judged, ranking, tuple(names)))


def _storable(text: str) -> bool:
    """Whether a file can hold this text and be called so: no NUL, no half characters."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and not prompt_files.SURROGATE.search(text)


def _finite(rank: float) -> bool:
    try:
        return math.isfinite(rank)
    except OverflowError:  # a whole number beyond all floats
        return False


def _find(root: Path, name: str) -> Path:
    """The file a name stands for: as it is, or (uids come without one) with the first image suffix that exists."""
    path = root / name
    if path.suffix.lower() not in IMAGE_SUFFIXES and not os.path.exists(path):
        for suffix in sorted(IMAGE_SUFFIXES):
            if os.path.exists(f"{path}{suffix}"):
                return Path(f"{path}{suffix}")
    return path
