"""The rows of a manifest: which image, which prompt, under which id. One reader for each form, none holds the file.

| form | what a row is |
|---|---|
| `.jsonl`, `.csv`, `.tsv`, `.json` | an object or table row; `metadata.jsonl` of an image folder is one |
| `.parquet` | a row; the image may be a path or an encoded file (bytes, or Hugging Face's `{bytes, path}`) |
| `.tar` | a WebDataset shard: files that share a name are one sample; `.txt`, or a field of `.json`, is the prompt |
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import prompt_files
from ..errors import DataError
from ..image_files import is_image_name
from ..parquet import records

IDS = ("id", "key", "uid", "__key__")
IMAGES = ("image", "file", "file_name", "image_path", "path", "__url__")
TAR_MEMBER = 256 << 20  # bytes of one file in a shard
TOGETHER = 256  # rows read from a Parquet file at once


@dataclass(frozen=True)
class Row:
    """One image to score. `image`: a path, or an encoded file's bytes. `prompt` None: the one the image was made from.
    `error`: why this row cannot be scored, in which case it still gets its line among the results.
    """

    id: str
    image: Any
    prompt: str | None = None
    error: str = ""

    @property
    def file(self) -> str:
        """The image's path, "" of one that came as bytes."""
        return os.fspath(self.image) if isinstance(self.image, (str, os.PathLike)) else ""


def read_rows(manifest: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows of a manifest in their order. Relative paths start at the manifest's folder.

    An id that is not given is the image's path as it is written, else the row's number. Raises DataError for a manifest
    that cannot be read; what is wrong with one row is told in it.
    """
    path = Path(manifest)
    if not path.is_file():
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'no file'}: name a manifest ({', '.join(FORMS)})")
    reader = FORMS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is no manifest that can be read: its name should end in {', '.join(FORMS)}")
    for number, record in enumerate(reader(path), start=1):
        yield record if isinstance(record, Row) else row_of(record, number, path.parent)


def row_of(record: Any, number: int, root: Path) -> Row:
    """The row that a record stands for."""
    if not isinstance(record, Mapping):
        return Row(str(number), None, error=f"a row must be an object with an image, found {type(record).__name__}")
    fields = {str(name).strip().lower(): value for name, value in record.items()}
    image = next((fields[name] for name in IMAGES if _given(fields.get(name))), None)
    prompt = next((fields[name] for name in prompt_files.COLUMNS if fields.get(name) is not None), None)
    told = next((str(fields[name]) for name in IDS if _given(fields.get(name))), "")
    if isinstance(image, Mapping):  # Hugging Face's Image feature
        image = image.get("bytes") or image.get("path")
    name = told or (image if isinstance(image, str) else str(number))
    if image is None:
        return Row(name, None, error=f"no image: one of the fields {', '.join(IMAGES)} is wanted, found {list(record)}")
    if not isinstance(image, (str, bytes)):
        return Row(name, None, error=f"the image must be a path or an encoded file, found {type(image).__name__}")
    if prompt is not None and not isinstance(prompt, str):
        return Row(name, image, error=f"the prompt must be text, found {type(prompt).__name__}")
    return Row(name, placed(image, root), prompt)


def placed(image: str | bytes, root: Path) -> str | bytes:
    """A path as it is opened: relative ones start at the manifest's folder."""
    if isinstance(image, bytes) or os.path.isabs(image):
        return image
    return os.path.join(root, image)


def _given(value: Any) -> bool:
    return value is not None and value != ""


def _lines(path: Path) -> Iterator[Any]:
    """A line at a time: a manifest of a hundred million rows does not fit into memory."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield prompt_files.parsed(f"{path}, line {number}", line)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error


def _table(path: Path) -> Iterator[Any]:
    known = (*IDS, *IMAGES, *prompt_files.COLUMNS)
    for entry in prompt_files.entries(os.fspath(path), prompt_files.read_file(path), known):
        yield entry.value


def _parquet(path: Path) -> Iterator[Any]:
    return records(path, TOGETHER)


def _shard(path: Path) -> Iterator[Row]:
    sample: dict[str, bytes] = {}
    key = ""
    try:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, ending = member.name.removeprefix("./").partition(".")
                if stem != key and sample:
                    yield _sample(key, sample)
                    sample = {}
                key = stem
                if member.size > TAR_MEMBER:
                    sample[ending.lower()] = b""
                    continue
                content = tar.extractfile(member)
                sample[ending.lower()] = content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as a tar of samples: {error}") from error
    if sample:
        yield _sample(key, sample)


def _sample(key: str, parts: Mapping[str, bytes]) -> Row:
    image = next((data for ending, data in parts.items() if is_image_name(f"x.{ending}") and data), None)
    if image is None:
        return Row(key, None, error=f"no image in this sample, found {', '.join(sorted(parts))}")
    if "txt" in parts:
        return Row(key, image, parts["txt"].decode("utf-8", "replace").strip())
    try:
        told = json.load(io.BytesIO(parts["json"])) if "json" in parts else {}
    except (ValueError, RecursionError) as error:
        return Row(key, image, error=f"its .json cannot be read: {error}")
    prompt = next((told[name] for name in prompt_files.COLUMNS if isinstance(told.get(name), str)), None)
    return Row(key, image, prompt)


FORMS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".jsonl": _lines,
    ".csv": _table,
    ".tsv": _table,
    ".json": _table,
    ".parquet": _parquet,
    ".tar": _shard,
}
