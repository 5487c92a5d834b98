"""From files to items that can be trained on: read, validate, split, cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagereward_core.atomic import write_json
from imagereward_core.errors import DataError
from imagereward_core.log import logger

from .cache import PixelCache, Progress
from .config import TrainConfig
from .formats import read_items
from .items import Item
from .readers import Problem, Reading
from .split import split_items, without_overlap

SHOWN = 20  # problems named in an error message
PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class DataSets:
    """Training, validation and test items whose images are all in `pixels`."""

    train: list[Item]
    valid: list[Item]
    test: list[Item]
    pixels: PixelCache


def load_datasets(config: TrainConfig, progress: Progress | None = None) -> DataSets:
    """What a run trains, validates and tests on. Raises DataError naming everything that is wrong with the data."""
    if not config.data:
        raise DataError("no training data: set data to a file or folder of rankings or pairs")
    readings = {part: read_items(source, config.images, config.format) for part, source in _sources(config).items()}
    pixels = PixelCache(_cache_folder(config), config.model.vision.image_size)
    parts: dict[str, list[Item]] = {part: [] for part in PARTS}
    for part, reading in readings.items():
        parts[part], _ = checked_items(reading, pixels, config.skip_bad, progress, config.workers)
    if not parts["valid"]:
        parts = _split_off_validation(parts, config)
    train = without_overlap(parts["train"], parts["valid"] + parts["test"])
    if len(train) < len(parts["train"]):
        logger.warning(
            "%d training items share a prompt or image with validation or test and are left out",
            len(parts["train"]) - len(train),
        )
    if not train:
        raise DataError("no training item is left: all share their prompts or images with validation or test")
    return DataSets(train, parts["valid"], parts["test"], pixels)


def is_built(folder: Path) -> bool:
    """Whether this is a folder that `build_dataset` made."""
    return (folder / "train.json").is_file()


def _sources(config: TrainConfig) -> dict[str, str]:
    """{part: the file or folder it is read from}, without the parts that have none. What is set comes before what lies
    in a built folder.
    """
    folder = Path(config.data)
    there = {part: folder / f"{part}.json" for part in PARTS} if is_built(folder) else {}
    built = {part: str(path) for part, path in there.items() if path.is_file()}
    given = {"valid": config.valid, "test": config.test}
    found = {"train": config.data, **built, **{part: source for part, source in given.items() if source}}
    return {part: found[part] for part in PARTS if part in found}


def _cache_folder(config: TrainConfig) -> str | Path:
    """A built folder holds its own cache, unless another is set."""
    folder = Path(config.data)
    return folder / "cache" if is_built(folder) and not config.cache else config.cache_dir


def _split_off_validation(parts: dict[str, list[Item]], config: TrainConfig) -> dict[str, list[Item]]:
    """The parts with validation (and, where there is none, test) items taken from the training items."""
    test_fraction = 0.0 if parts["test"] else config.test_fraction
    train, valid, test = split_items(parts["train"], config.valid_fraction, test_fraction, config.seed)
    if not valid:
        raise DataError("nothing to validate on: give valid, or a valid_fraction above 0")
    return {"train": train, "valid": valid, "test": parts["test"] or test}


def checked_items(
    reading: Reading, pixels: PixelCache, skip_bad: bool, progress: Progress | None = None, workers: int = 2
) -> tuple[list[Item], list[Problem]]:
    """The items of a reading with all images cached, and what was left out. Without `skip_bad` any fatal problem raises
    DataError listing it.
    """
    items, problems = validate_items(reading, pixels, progress, workers)
    fatal = [problem for problem in problems if problem.fatal]
    for problem in problems:
        logger.log(30 if skip_bad or not problem.fatal else 20, "%s", problem)
    if fatal and not skip_bad:
        shown = "\n".join(f"  {problem}" for problem in fatal[:SHOWN])
        more = f"\n  … and {len(fatal) - SHOWN} more" if len(fatal) > SHOWN else ""
        raise DataError(
            f"{len(fatal)} problems in the data; mend them, or set skip_bad to leave them out:\n{shown}{more}"
        )
    if not items:
        raise DataError("no usable item is left in the data")
    return items, problems


def validate_items(
    reading: Reading, pixels: PixelCache, progress: Progress | None = None, workers: int = 2
) -> tuple[list[Item], list[Problem]]:
    """(usable items, all problems): reads every image into the cache; missing and damaged files are named and
    dropped.
    """
    bad = pixels.build([image for item in reading.items for image in item.images], progress, workers)
    problems = list(reading.problems)
    items = []
    for item in reading.items:
        problems += [Problem(f"item {item.id}", bad[image]) for image in dict.fromkeys(item.images) if image in bad]
        kept = keep_images(item, [image not in bad for image in item.images])
        if kept.pairs:
            items.append(kept)
        else:
            problems.append(Problem(f"item {item.id}", "no pair is left without the images that cannot be read"))
    return items, problems


def keep_images(item: Item, keep: Sequence[bool]) -> Item:
    """The item without some of its images and the pairs they were in."""
    if all(keep):
        return item
    place = {old: new for new, old in enumerate(index for index, good in enumerate(keep) if good)}

    def pick(values: Sequence[Any]) -> tuple:
        return tuple(value for value, good in zip(values, keep) if good)

    return dataclasses.replace(
        item,
        images=pick(item.images),
        names=pick(item.names),
        ranking=None if item.ranking is None else pick(item.ranking),
        pairs=tuple((place[a], place[b]) for a, b in item.pairs if a in place and b in place),
    )


def build_dataset(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    images: str | os.PathLike[str] = "",
    *,
    format: str = "auto",
    valid_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 1234,
    size: int = 224,
    skip_bad: bool = False,
    workers: int = 2,
    features: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`imagereward dataset build`: validate, split by prompt and cache, into a folder that `train --data` takes.

    Writes train.json, valid.json, test.json (ImageReward's format, absolute image paths), cache/ and manifest.json, and
    returns the manifest. Can be stopped and run again. Raises DataError listing all problems unless `skip_bad`.
    features: a reward model's file, or "blip" for BLIP-large: its features are cached as well, for runs with fix_base.
    """
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    reading = read_items(data, images, format)
    pixels = PixelCache(target / "cache", size)
    items, problems = checked_items(reading, pixels, skip_bad, progress, workers)
    parts = dict(zip(PARTS, split_items(items, valid_fraction, test_fraction, seed)))
    for name, part in parts.items():
        path = target / f"{name}.json"
        if part:
            write_json(path, [item_to_dict(item) for item in part], indent=1)
        else:
            path.unlink(missing_ok=True)
    feature_store = _cache_features(features, items, pixels, progress) if features else None
    manifest = {
        "source": os.path.abspath(data),
        "seed": seed,
        "image_size": size,
        "pixels": pixels.store.folder.name,
        "features": feature_store,
        "ties": reading.ties,
        "left_out": [str(problem) for problem in problems],
        "parts": {name: counts(part) for name, part in parts.items()},
    }
    write_json(target / "manifest.json", manifest, indent=1)
    return manifest


def _cache_features(source: str, items: Sequence[Item], pixels: PixelCache, progress: Progress | None) -> str:
    """Features of all items under the frozen backbone of `source`; the name of their folder in the cache."""
    from imagereward_core.scorers.base import pick_device

    from .cache import FeatureCache
    from .initial import initial_model

    net = initial_model(TrainConfig(preload_path="" if source == "blip" else source))
    if net.config.vision.image_size != pixels.size:
        raise DataError(
            f"{source} takes images of {net.config.vision.image_size} pixels, and size is {pixels.size}: set them equal"
        )
    cache = FeatureCache(pixels.store.folder.parent, net, pixels)
    cache.build(items, pick_device(), progress)
    return cache.store.folder.name


def counts(items: Sequence[Item]) -> Mapping[str, int]:
    """Items, distinct images and pairs."""
    images = {image for item in items for image in item.images}
    return {"items": len(items), "images": len(images), "pairs": sum(len(item.pairs) for item in items)}


def item_to_dict(item: Item) -> dict[str, Any]:
    """The JSON form that `read_items` reads back."""
    judged = (
        {"ranking": list(item.ranking)} if item.ranking is not None else {"pairs": [list(pair) for pair in item.pairs]}
    )
    return {"id": item.id, "prompt": item.prompt, "generations": list(item.images), **judged}
