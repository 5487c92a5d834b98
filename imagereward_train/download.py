"""ImageRewardDB from the Hugging Face hub: 8,878 prompts with 137 k comparisons in all, or a part of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from imagereward_core import atomic
from imagereward_core.errors import DataError, DownloadError
from imagereward_core.registry import Source
from imagereward_core.weights import hub, waiting

from .cache import Progress
from .dataset import item_to_dict
from .formats import read_items

REPO = "THUDM/ImageRewardDB"
SUBSETS = {"1k": 1000, "2k": 2000, "4k": 4000, "8k": None}  # training prompts; None = all there are
FILES = {"train": "train.json", "validation": "valid.json", "test": "test.json"}


def download_imagerewarddb(
    out: str | os.PathLike[str],
    subset: str = "8k",
    splits: Sequence[str] = tuple(FILES),
    progress: Progress | None = None,
) -> Path:
    """Fetch the splits into `out` and write train.json, valid.json and test.json there, so that `train --data out`
    takes it.

    Training folders are taken in their order until they hold the prompts of `subset`. Can be stopped and run again:
    what was unpacked is kept. Raises DownloadError, DataError.
    """
    unknown = set(splits) - set(FILES)
    if unknown or subset not in SUBSETS:
        raise DataError(
            f"splits are {', '.join(FILES)} and subsets {', '.join(SUBSETS)}; found {', '.join(splits)} and {subset}"
        )
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    archives = _archives()
    for split in splits:
        if not archives.get(split):
            raise DownloadError(f"{REPO} on the hub holds no zip under images/{split}: its layout has changed")
        items = _split(target, split, archives[split], SUBSETS[subset] if split == "train" else None, progress)
        atomic.write_json(target / FILES[split], items, indent=1)
    return target


def _archives() -> dict[str, list[str]]:
    """{split: zips in the order of their numbers} of the data set."""
    from huggingface_hub import HfApi

    if hub.offline():
        raise DownloadError(
            f"{REPO} is to be downloaded, and offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)"
        )
    endpoint = os.environ.get("HF_ENDPOINT") or None
    what = f"the list of files of {REPO}"
    with hub.asking(what):
        names = waiting.answer(
            lambda: HfApi(endpoint=endpoint).list_repo_files(REPO, repo_type="dataset"), None, what, limit=hub.LIMIT
        )
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = re.fullmatch(r"images/(train|validation|test)/(?:.*/)?\1_(\d+)\.zip", name)
        if match:
            found.setdefault(match.group(1), []).append((int(match.group(2)), name))
    return {split: [name for _, name in sorted(entries)] for split, entries in found.items()}


def _split(
    target: Path, split: str, archives: Sequence[str], prompts: int | None, progress: Progress | None
) -> list[dict]:
    """The items of a split in this project's JSON form, at most `prompts` of them."""
    from .public import unpack

    items: list[dict] = []
    begun = time.monotonic()
    for done, name in enumerate(archives, start=1):
        folder = unpack(Source(name, repo=f"datasets/{REPO}"), target, f"images/{split}/{Path(name).stem}")
        tables = sorted(folder.rglob("*.json"))
        if not tables:
            raise DataError(f"{name} holds no JSON with the rankings: the data set's layout has changed")
        for table in tables:
            reading = read_items(table, target, "records")
            fatal = [str(problem) for problem in reading.problems if problem.fatal]
            if fatal:
                raise DataError(f"{table}: {'; '.join(fatal[:5])}")
            items += [item_to_dict(item) for item in reading.items]
        enough = prompts is not None and len(items) >= prompts
        if progress:
            progress(
                f"{split} folders",
                done,
                done if enough else len(archives),
                (time.monotonic() - begun) / done * (len(archives) - done),
            )
        if enough:
            break
    return items[:prompts]
