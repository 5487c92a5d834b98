"""Weights: found on this machine, else downloaded and verified; read, checked and converted once.

Looked for in this order: `download_root`, the host's models folder, IMAGEREWARD_HOME, ~/.cache/ImageReward (where the
reference implementation keeps them), the Hugging Face cache. A download goes to the first of these folders that is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import DownloadError, ModelNotFoundError
from ..log import logger
from ..progress import Bar, Progress
from ..registry import ModelInfo, Source
from . import hub
from .checkpoint import INSPECTED, PICKLED, SUFFIXES, checked, inspect, non_finite, read_state
from .convert import convert as convert_file
from .convert import converted_path, keep_converted, usable

__all__ = [
    "checked",
    "default_root",
    "fetch",
    "is_path",
    "keep_converted",
    "locate",
    "missing",
    "non_finite",
    "read_state",
    "resolve",
]


def default_root() -> Path:
    """IMAGEREWARD_HOME, else ~/.cache/ImageReward."""
    return Path(os.environ.get("IMAGEREWARD_HOME") or "~/.cache/ImageReward").expanduser()


def folders(download_root: Any = None, models_dir: Any = None) -> list[Path]:
    """Where weights are looked for, in order; the first is where they are downloaded to."""
    wanted = [Path(folder).expanduser() for folder in (download_root, models_dir) if folder]
    return list(dict.fromkeys([*wanted, default_root(), Path("~/.cache/ImageReward").expanduser()]))


def is_path(name: str | os.PathLike[str]) -> bool:
    """Whether `name` is meant as a file and not as a name of the registry."""
    text = os.fspath(name)
    if not isinstance(name, str) or os.path.isfile(text):
        return True
    return text.lower().endswith(SUFFIXES) or "/" in text or os.sep in text


def resolve(path: str | os.PathLike[str], *, half: bool = False) -> Path:
    """The file to read for an explicit path: its conversion if there is a current one, else itself. Raises
    ModelNotFoundError.
    """
    path = Path(path).expanduser()
    found = _in_place(path, half, foreign=False)
    if found is None:
        if path.is_dir():
            return path  # reading it says that it is a folder
        raise ModelNotFoundError(
            f"{path} does not exist; give the path of a .pt or .safetensors file, or one of the names"
            " `imagereward_core.available_models()` lists"
        )
    return found


def locate(
    source: Source,
    *,
    download_root: Any = None,
    models_dir: Any = None,
    download: bool = True,
    progress: Progress | None = None,
    half: bool = False,
) -> Path:
    """The file of `source`; downloaded if it is nowhere, unless `download` is False. No network when it is there.

    half: prefer a half-precision conversion where one was made. progress(bytes done, bytes in total or None) may raise
    to cancel; by default a bar on the terminal. Raises ModelNotFoundError (nowhere, and no download allowed) or
    DownloadError.
    """
    places = folders(download_root, models_dir)
    for folder in places:
        found = _in_place(folder / source.local_name, half)
        if found is not None:
            return found
    kept = hub.cached(source)
    if kept is not None:
        return _in_place(kept, half) or kept
    if not download:
        raise _missing(source, places, "it is not to be downloaded now")
    return _download(source, places, progress)


def fetch(
    info: ModelInfo,
    *,
    download_root: Any = None,
    models_dir: Any = None,
    progress: Progress | None = None,
    convert: str | None = None,
) -> list[Path]:
    """Have every file of a model on this machine, and return where. What is there and sound is kept; damaged files are
    replaced.

    progress(bytes done, bytes in total) counts all files together. convert: "fp32" or "fp16" also makes the safetensors
    copy of pickled weights and returns it in their place. Raises as `locate` does, and WeightsError where a conversion
    fails.
    """
    places = folders(download_root, models_dir)
    sizes = [source.size or source.about for source in info.sources]
    paths = []
    for index, source in enumerate(info.sources):
        report = _part_of(progress, sizes, index) if progress else None
        path = _sound(_original(source, places)) or _download(source, places, report)
        sizes[index] = path.stat().st_size
        if progress:
            progress(sum(sizes[: index + 1]), sum(sizes))
        paths.append(
            convert_file(path, convert) if convert and Path(source.local_name).suffix.lower() in PICKLED else path
        )
    return paths


def _original(source: Source, places: list[Path]) -> Path | None:
    """The file as it was published, or a safetensors file in its place; None if it is nowhere."""
    for folder in places:
        path = folder / source.local_name
        if path.is_file():
            return path
        found = _in_place(path, half=False)
        if found is not None:
            return found
    return hub.cached(source)


def missing(info: ModelInfo, *, download_root: Any = None, models_dir: Any = None) -> list[Source]:
    """The files of a model that are nowhere on this machine. No network."""
    wanted = []
    for source in info.sources:
        try:
            locate(source, download_root=download_root, models_dir=models_dir, download=False)
        except ModelNotFoundError:
            wanted.append(source)
    return wanted


def by_hand(source: Source, folder: Path) -> str:
    """What to do where the download cannot be done by us."""
    return f"To do it by hand, download {hub.address(source)} and put it as {source.local_name} into {folder}"


def _in_place(path: Path, half: bool, foreign: bool = True) -> Path | None:
    """`path`, or the conversion beside it that suits; None if neither is there. `foreign`: also safetensors not made
    from `path`.
    """
    if path.suffix.lower() not in PICKLED:
        return path if path.is_file() else None
    preferred, other = (
        converted_path(path, precision) for precision in (("fp16", "fp32") if half else ("fp32", "fp16"))
    )
    wanted = [preferred, other] if half else [preferred]
    for candidate in wanted:
        if usable(candidate, path, foreign):
            return candidate
    if path.is_file():
        return path
    if foreign and usable(other, path):
        logger.info("only %s is there: weights of half precision", other)
        return other
    return None


def _sound(path: Path | None) -> Path | None:
    if path is None:
        return None
    problem = _problem(path, path.suffix.lower())
    if problem:
        logger.warning("%s %s; fetching it again", path, problem)
    return None if problem else path


def _missing(source: Source, places: list[Path], why: str) -> ModelNotFoundError:
    looked = ", ".join(str(folder) for folder in places)
    return ModelNotFoundError(
        f"no sound {source.local_name} is on this machine, and {why}. Looked in {looked} and the Hugging Face cache."
        f" {by_hand(source, places[0])}"
    )


def _problem(path: Path, suffix: str) -> str:
    """What is wrong with a file whose name promises `suffix`, as far as its form tells."""
    return inspect(path, suffix)[1] if suffix in INSPECTED else ""


def _download(source: Source, places: list[Path], progress: Progress | None) -> Path:
    if hub.offline():
        raise _missing(source, places, "offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)")
    from . import download  # here, not above: finding weights that are there needs no network library

    target = places[0] / source.local_name
    try:
        with Bar(source.local_name) as bar:
            report = progress or bar
            remote = download.remote(source, report)
            logger.info("downloading %s to %s", remote.url, target)
            return download.download(remote, target, progress=report, check=lambda path: _problem(path, target.suffix))
    except DownloadError as error:
        raise DownloadError(f"{error}. {by_hand(source, places[0])}") from error


def _part_of(progress: Progress, sizes: list[int], index: int) -> Progress:
    """The progress of one file as part of all."""

    def report(done: int, total: int | None) -> None:
        sizes[index] = total or max(sizes[index], done)
        progress(sum(sizes[:index]) + done, sum(sizes))

    return report
