"""The one reader of checkpoints: the tensors in a file that is not trusted, and whether they fit a network."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from ..log import logger
from .formats import INSPECTED, PICKLED, SUFFIXES, file_format, inspect, kind_of_file, plain_names, read_header
from .kinds import recognise

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "INSPECTED",
    "PICKLED",
    "SUFFIXES",
    "Differences",
    "checked",
    "differences",
    "file_format",
    "finite",
    "first",
    "inspect",
    "kind_of_file",
    "non_finite",
    "plain_names",
    "read_header",
    "read_state",
    "recognise",
]
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
EXPANSION, SLACK = 10, 100 << 20  # a compressed checkpoint may be so many times its file's size, and so much more


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata) of a .safetensors or torch.save file, memory-mapped: no tensor is read before it
    is used.

    The content decides, not the name. Accepts a plain state dict, one under "model" or "state_dict", and names with
    `module.` or `_orig_mod.` in them. The strings beside the state dict of a .pt are its metadata. Raises WeightsError
    for anything else.
    """
    path = os.fspath(path)
    kind = file_format(path)
    if kind == "safetensors":
        state, metadata = _read_safetensors(path)
    elif kind in ("json", "archive"):
        raise WeightsError(f"{path} holds {kind} data; a weights file is wanted")
    else:
        state, metadata = _unwrap(_read_pickled(path, mmap=kind == "zip" and _is_stored(path)), path)
    if not state:
        raise WeightsError(f"{path} holds no tensors")
    return plain_names(state), metadata


def _read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error


def _is_stored(path: str) -> bool:
    """Whether a torch.save file's records lie in it as they are. Compressed ones must not be mapped as numbers: torch
    takes the compressed bytes for weights. Raises WeightsError if they would fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    expanded, size = sum(record.file_size for record in records), os.path.getsize(path)
    if expanded > EXPANSION * size + SLACK:
        raise WeightsError(f"{path} has {size} bytes and claims to expand to {expanded}, so it is not opened")
    return all(record.compress_type == zipfile.ZIP_STORED for record in records)


def _read_pickled(path: str, mmap: bool) -> Any:
    """torch.load that never runs code of the file."""
    import torch

    options = {"map_location": "cpu", "weights_only": True}
    try:
        if path.lower().endswith(".safetensors"):  # torch.load goes by the name here, unless it sees none
            with open(path, "rb") as file:
                found = _torch_load()(file, **options)
        else:
            found = _torch_load()(path, **options, **({"mmap": True} if mmap else {}))
    except Exception as error:  # what a damaged pickle raises is anybody's guess
        reason = str(error.__context__ or error)  # torch wraps its own reason in long advice
        short = reason.strip().partition("\n")[0].partition(". ")[0][:300] or type(error).__name__
        if re.search(
            r"Unsupported (global|class)|reduce for unrecognized function|instantiate unrecognized",
            reason,
            re.IGNORECASE,
        ):
            raise WeightsError(
                f"{path} holds Python objects besides tensors; reading these could run code, so it is not opened:"
                f" {short}"
            ) from error
        other = "; or it holds Python objects besides tensors, so it is not opened" if "operand" in short else ""
        raise WeightsError(f"{path} is damaged ({os.path.getsize(path)} bytes): {short}{other}") from error
    if isinstance(found, torch.Tensor) or not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}, not a state dict")
    return found


def _torch_load() -> Any:
    """PyTorch's own loader. Some hosts put another in place of `torch.load` that returns None for what it does not
    like.
    """
    import torch

    load = torch.serialization.load
    if load.__module__ != "torch.serialization":
        load = getattr(sys.modules.get("modules.safe"), "unsafe_torch_load", load)
    return load


def _unwrap(found: dict[Any, Any], path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    import torch

    metadata: dict[str, str] = {}
    for _ in range(3):
        metadata.update((key, value) for key, value in found.items() if isinstance(key, str) and isinstance(value, str))
        inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), dict)), None)
        if inner is None:
            break
        found = inner
    state = {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise WeightsError(f"{path} holds no tensors; found {', '.join(map(str, list(found)[:5])) or 'nothing'}")
    return state, metadata


@dataclass(frozen=True)
class Differences:
    """How tensors differ from those a network wants: names missing, names it has no use for, shapes."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]  # each "name [found] where [wanted] is wanted"

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        """ "2 missing (a, b); 1 of another shape (c [1] where [2] is wanted)"."""
        named = (
            (self.missing, "missing"),
            (self.unexpected, "unexpected"),
            (self.reshaped, "of another shape"),
        )
        return "; ".join(f"{len(names)} {what} ({first(names)})" for names, what in named if names)


def first(names: Sequence[str], count: int = 3) -> str:
    """The first names of a list, for a message."""
    return f"{', '.join(names[:count])}{', …' if len(names) > count else ''}"


def differences(
    state: Mapping[str, Tensor], wanted_state: Mapping[str, Tensor], allowed_missing: Collection[str] = ()
) -> Differences:
    """`state` beside the state dict a network wants, whose tensors may be on the meta device."""
    wanted = {key: tuple(tensor.shape) for key, tensor in wanted_state.items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return Differences(
        tuple(sorted(wanted.keys() - found.keys() - set(allowed_missing))),
        tuple(sorted(found.keys() - wanted.keys())),
        tuple(
            f"{key} {list(found[key])} where {list(wanted[key])} is wanted"
            for key in sorted(wanted.keys() & found.keys())
            if wanted[key] != found[key]
        ),
    )


def checked(
    state: dict[str, Tensor], net: nn.Module, allowed_missing: Sequence[str], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The part of `state` that `net` wants. WeightsError saying what differs, and what the file is, if any of it is
    missing or of another shape.

    Tensors that the network has no use for are one warning: the reference loads non-strictly, and published files
    vary.
    """
    wanted = net.state_dict()
    found = differences(state, wanted, allowed_missing)
    if not (found.missing or found.reshaped):
        if found.unexpected:
            logger.warning(
                "%s holds %d tensors that the network has no use for (%s); they are left out",
                os.fspath(path),
                len(found.unexpected),
                first(found.unexpected),
            )
        return {key: tensor for key, tensor in state.items() if key not in set(found.unexpected)}
    kind = recognise(state)
    what = (
        f"This is {kind}{' of other sizes' if found.reshaped and not found.unexpected else ''}."
        if kind
        else "It is no kind of file known here."
    )
    raise WeightsError(
        f"{os.fspath(path)} does not fit the network. {what} Of the {len(wanted)} tensors wanted and"
        f" {len(state)} found: {found}."
    )


def non_finite(state: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity. Reads every weight."""
    return [key for key, tensor in state.items() if not finite(tensor)]


def finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. The sum tells cheaply; only if it is not finite itself, each value is looked
    at.
    """
    import torch

    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
