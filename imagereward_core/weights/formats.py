"""What form a weights file has, by its content and not by its name, from a few reads whatever its size.

Nothing here trusts the file: headers are limited in size and in entries, so that neither memory nor time is at its
mercy.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WeightsError
from .kinds import Kind, identify

T = TypeVar("T")
PICKLED = (".pt", ".pth", ".ckpt", ".bin")  # what torch.save writes goes by these names
SUFFIXES = (*PICKLED, ".safetensors")
INSPECTED = (*SUFFIXES, ".json", ".zip")  # names that promise what `inspect` can tell
LEFT_BEHIND = ("module", "_orig_mod")  # parts of a name that DataParallel and torch.compile add, wherever they wrapped
HEADER = 32 << 20  # bytes; the largest published header (a LoRA with its training captions) has a few MB
MARKS = 1_000_000  # braces, brackets and colons of a header: about 140,000 tensors, 50 times the largest model's
JSON_SIZE = 64 << 20  # bytes of a .json file that is parsed


def file_format(path: str | os.PathLike[str]) -> str:
    """ "safetensors", "zip" (torch.save), "pickle" (torch.save before 1.6), "json" or "archive", by the content and not
    by the name.

    Costs a few reads whatever the size. Raises WeightsError saying what the file is instead, or how much of it is
    missing.
    """
    kind, problem = inspect(path)
    if problem:
        raise WeightsError(
            f"{os.fspath(path)} {problem}. Download it again; `imagereward fetch` replaces a scorer's damaged file once"
            " the new one is verified."
        )
    return kind


def inspect(path: str | os.PathLike[str], suffix: str | None = None) -> tuple[str, str]:
    """(format, "") of a sound file, ("", what is wrong) of another. `suffix` stands in for the name's own."""
    suffix = (Path(path).suffix if suffix is None else suffix).lower()
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return "", "is a folder; a weights file is wanted"
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for its writer
            return "", "is no regular file (a pipe, socket or device)"
        with open(path, "rb") as file:
            head = file.read(1024)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return "", f"cannot be read ({getattr(error, 'strerror', None) or error})"
    size = found.st_size
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "", "is empty (0 bytes)"
    if head.startswith(b"version https://git-lfs"):
        return (
            "",
            "is a git-LFS pointer, a note of where the weights are; run `git lfs pull` or download the file itself",
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return (
            "",
            (
                "is a web page saved under this name, as a login page, a proxy or the file's page instead of its"
                " download button give"
            ),
        )
    if suffix == ".json":
        return _inspect_json(path)
    if head.startswith(b"GGUF"):
        return "", "is quantised (GGUF); the version in fp16 or fp32 is wanted"
    if head.startswith(b"PK\x03\x04"):
        return _inspect_zip(path, size, suffix)
    if suffix == ".safetensors" or head[8:9] == b"{":
        return _inspect_safetensors(path, size)
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "pickle", ""
    return "", f"is neither a PyTorch nor a safetensors file ({size} bytes, beginning with {head[:16]!r})"


def _inspect_json(path: str | os.PathLike[str]) -> tuple[str, str]:
    try:
        size = os.path.getsize(path)
        if size > JSON_SIZE:
            return "", f"has {size} bytes; a JSON file of more than {JSON_SIZE} is not read"
        json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        return "", f"is not valid JSON ({error})"
    except OSError as error:
        return "", f"cannot be read ({error.strerror or error})"
    return "json", ""


def _inspect_zip(path: str | os.PathLike[str], size: int, suffix: str) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "", f"is truncated or damaged: {size} bytes are there, and its table of contents is not among them"
    if any(name.endswith("/constants.pkl") for name in names):
        return "", "is a TorchScript program (as OpenAI's CLIP files are), not a state dict"
    if suffix == ".zip":
        return "archive", ""
    if not any(name.endswith("data.pkl") for name in names):
        return "", f"is a zip archive of other things ({', '.join(names[:3])}), not a PyTorch file"
    return "zip", ""


def _inspect_safetensors(path: str | os.PathLike[str], size: int) -> tuple[str, str]:
    try:
        header, start = read_header(path)
        end = max((_extent(name, entry) for name, entry in header.items()), default=0)
    except (OSError, ValueError, struct.error) as error:
        return "", f"is damaged: it has no safetensors header ({size} bytes; {error})"
    if size != start + end:
        return "", f"is truncated or damaged: {size} bytes are there, its header announces {start + end}"
    return "safetensors", ""


def _extent(name: str, entry: Any) -> int:
    """Where a tensor's bytes end, as its header entry says. Raises ValueError for an entry that is none."""
    try:
        (start, end), shape = entry["data_offsets"], entry["shape"]
        sound = all(isinstance(number, int) and number >= 0 for number in (start, end, *shape)) and start <= end
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"the entry of {name[:80]!r} is malformed")
    return end


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """(header of a safetensors file without its metadata, offset of the data).

    Raises ValueError or struct.error for what is none, and for a header beyond the limits `HEADER` and `MARKS`.
    """
    header, start = _parse_header(path)
    header.pop("__metadata__", None)
    return header, start


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings a safetensors file says about itself, from its header alone. Raises as `read_header` does."""
    found = _parse_header(path)[0].get("__metadata__")
    strings = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in strings if isinstance(value, str)}


def _parse_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 2 <= length <= HEADER:
            raise ValueError(f"a header of {length} bytes is out of range")
        text = file.read(length)
    marks = sum(text.count(mark) for mark in (b"{", b"[", b":"))
    if marks > MARKS:
        raise ValueError(f"a header of {marks} entries is beyond the limit of {MARKS}")
    try:
        header = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError(f"its JSON is a {type(header).__name__}, not an object")
    return header, 8 + length


def kind_of_file(path: str | os.PathLike[str]) -> Kind | None:
    """The kind of a safetensors file from its header alone: a few milliseconds whatever its size.

    None for what is unknown, and for pickled files, whose names cannot be read without reading all. Raises WeightsError
    for a damaged file.
    """
    if file_format(path) != "safetensors":
        return None
    header, _ = read_header(path)
    return identify(plain_names({key: tuple(entry["shape"]) for key, entry in header.items()}))


def plain_names(state: Mapping[str, T]) -> dict[str, T]:
    """The same entries without the parts that DataParallel and torch.compile leave in the names of what they wrapped.

    They stand wherever the wrapped module did ("model.diffusion_model._orig_mod.out.0.weight"). A name that is there
    without them too keeps them.
    """
    result: dict[str, T] = {}
    for key, value in state.items():
        plain = ".".join(part for part in key.split(".") if part not in LEFT_BEHIND)
        result[key if plain != key and (plain in state or plain in result) else plain] = value
    return result
