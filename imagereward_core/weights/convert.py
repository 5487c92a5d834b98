"""A pickled checkpoint, written once as safetensors beside it: safe to open, and mapped into memory instead of read.

A conversion records what it was made from: name, size, time and SHA-256. Whether it is current is a question of being
the same, never of age: an older checkpoint copied over a newer one is another checkpoint.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from .. import atomic
from ..errors import ConfigError, WeightsError
from ..hashing import file_digest
from ..locks import lock_for
from ..log import logger
from .checkpoint import PICKLED, finite, inspect, read_state
from .formats import read_metadata

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# JSON {"file", "size", "mtime_ns", "sha256"}; tells our conversions from files of other people
ORIGIN_KEY = "imagereward.converted_from"
SUFFIX = {"fp32": ".safetensors", "fp16": ".fp16.safetensors"}
KEEP_FP32 = "mlp."  # the reward head stays fp32 in every precision
HEADER = 16_000_000  # bytes; ours have a hundredth of it
SPARE = 64 * 1024 * 1024  # bytes that stay free on the disk
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def converted_path(path: str | os.PathLike[str], precision: str = "fp32") -> Path:
    """Where the conversion of `path` lies: `ImageReward.pt` → `ImageReward.safetensors` or
    `ImageReward.fp16.safetensors`.
    """
    return Path(path).with_suffix(SUFFIX[precision])


def origin(converted: Path) -> dict[str, object] | None:
    """What a conversion of ours was made from; None for any other file. Read from the header alone, also of a damaged
    file.
    """
    try:
        found = json.loads(read_metadata(converted)[ORIGIN_KEY])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return None
    return found if isinstance(found, dict) else None


def usable(converted: Path, original: Path, foreign: bool = True) -> bool:
    """Whether `converted` is a sound file and, if it was made from `original`, made from what that is now.

    Same name, size and time are the same file. With another time the SHA-256 decides: folders that were copied differ
    in time alone. foreign: whether a file that is no conversion of ours counts, as somebody's own safetensors beside
    the checkpoint.
    """
    if not converted.is_file():
        return False
    source = origin(converted)
    if source is None and not foreign:
        return False
    problem = inspect(converted)[1]
    if problem:
        logger.warning("not using %s: it %s", converted, problem)
        return False
    if source is None or not original.is_file():
        return True
    try:
        return _made_from(source, original)
    except OSError as error:
        logger.warning("not using %s: %s cannot be read (%s)", converted, original, error)
        return False


def _made_from(source: dict[str, object], original: Path) -> bool:
    now = _stamp(original)
    if not source.get("sha256"):
        return False  # of an earlier release, which went by age: made anew once, at the next load
    if (source.get("file"), source.get("size")) != (now["file"], now["size"]):
        return False
    return source.get("mtime_ns") == now["mtime_ns"] or source["sha256"] == _digest(original)


def _digest(path: Path) -> str:
    """SHA-256 of a checkpoint, computed once per process and state of the file: it may be gigabytes."""
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=16)
def _digest_of(path: str, *_state: int) -> str:
    return file_digest(path)


def convert(path: str | os.PathLike[str], precision: str = "fp32") -> Path:
    """Write `path` as safetensors beside it and return the new file; one that is there and current is kept.

    precision: "fp32", or "fp16" (half the size; the reward head stays fp32). Raises WeightsError if the file is
    damaged, holds NaN, does not fit fp16, or its folder has no room; the files that are there stay as they are.
    """
    if precision not in SUFFIX:
        raise ConfigError(f"convert must be {' or '.join(SUFFIX)}; found {precision!r}")
    path = Path(path)
    target = converted_path(path, precision)
    if target == path or path.name.endswith(SUFFIX["fp16"]):
        return path  # what is there of a checkpoint that was deleted
    if usable(target, path):
        return target
    if target.exists() and origin(target) is None:
        raise WeightsError(
            f"{target} is there, damaged, and not made by this program, so it is not overwritten; move it away and try"
            " again"
        )
    state, metadata = read_state(path)
    try:
        with lock_for(target):
            if not usable(target, path):  # another process may have been first
                write_conversion(path, target, state, metadata, precision)
    except OSError as error:
        raise WeightsError(f"{path} could not be converted to {target}: {error.strerror or error}") from error
    return target


def keep_converted(path: str | os.PathLike[str], state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """After a pickled checkpoint was loaded and found to fit: keep it as safetensors for the next time, where that can
    be done. A half-precision copy of ours that is no longer current is made anew, too.

    A folder that is read-only or full, or another process doing the same, is no problem: the checkpoint itself works.
    Raises WeightsError only if the checkpoint turns out damaged while it is read.
    """
    path = Path(path)
    if path.suffix.lower() not in PICKLED or inspect(path)[0] == "safetensors":
        return
    for precision in SUFFIX:
        target = converted_path(path, precision)
        ours = origin(target) is not None
        if (target.exists() and not ours) or (precision != "fp32" and not ours):
            continue
        try:
            with lock_for(target, timeout=0):
                if not usable(target, path):
                    logger.info("converting %s once to %s; later loads are faster", path, target.name)
                    write_conversion(path, target, state, metadata, precision)
        except (OSError, Timeout, NotImplementedError) as error:
            logger.info("%s stays as it is, without a safetensors copy: %s", path, error)
        except WeightsError as error:
            if precision == "fp32":
                raise
            logger.warning("%s is left as it is and not used: %s", target, error)  # the checkpoint itself works


def write_conversion(
    path: Path, target: Path, state: dict[str, Tensor], metadata: dict[str, str], precision: str
) -> None:
    """Check `state` as it is written; `target` appears complete and finite or not at all. Call under its lock."""
    before = _stamp(path)
    broken = damaged_records(path)
    if broken:
        raise WeightsError(
            f"{path} is damaged: {len(broken)} of its records fail their checksum ({', '.join(broken[:3])}). Download"
            " it again."
        )
    source = {**before, "sha256": _digest(path)}
    try:
        with atomic.replacing(target, durable=True) as temporary:
            write_safetensors(temporary, state, {**metadata, "format": "pt", ORIGIN_KEY: json.dumps(source)}, precision)
            if _stamp(path) != before:
                raise WeightsError("it was changed while it was read; try again")
    except WeightsError as error:
        raise WeightsError(f"{path} is not converted: {error}") from error


def write_safetensors(path: Path, state: dict[str, Tensor], metadata: dict[str, str], precision: str) -> None:
    """Write tensor by tensor, so that memory stays flat; tensors that share memory are written each on its own.

    Floating-point tensors are cast to `precision`. Layout: github.com/huggingface/safetensors, "Format".
    """
    import torch

    names = sorted(
        state, key=lambda key: (-_dtype(key, state[key], precision).itemsize, key)
    )  # aligned, widest type first
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name in names:
        dtype, start = _dtype(name, state[name], precision), end
        end += state[name].numel() * dtype.itemsize
        code = CODES.get(str(dtype).removeprefix("torch."))
        if code is None:
            raise WeightsError(f"{name} has dtype {dtype}, which is not converted")
        header[name] = {"dtype": code, "shape": list(state[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    free = shutil.disk_usage(path.parent).free
    if free < end + len(text) + SPARE:
        raise OSError(f"it takes {end / 1e9:.2f} GB and {free / 1e9:.2f} GB are free in {path.parent}")
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = state[name].detach().to(_dtype(name, state[name], precision)).contiguous()
            if not finite(tensor):
                overflows = finite(state[name])
                what = "values beyond the 65504 of fp16; convert to fp32" if overflows else "NaN or infinity"
                raise WeightsError(f"{name} holds {what}")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def damaged_records(path: Path) -> list[str]:
    """Names of the records of a torch.save file whose CRC-32 is wrong. Reads the whole file."""
    if not zipfile.is_zipfile(path):
        return []
    broken = []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            try:
                with archive.open(name) as record:
                    while record.read(1 << 22):
                        pass
            except zipfile.BadZipFile:
                broken.append(name)
    return broken if len(broken) < len(names) else []  # all wrong: saved with the checksums switched off


def _stamp(path: Path) -> dict[str, object]:
    status = path.stat()
    return {"file": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _dtype(name: str, tensor: Tensor, precision: str) -> torch.dtype:
    import torch

    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float16 if precision == "fp16" and not name.startswith(KEEP_FP32) else torch.float32
