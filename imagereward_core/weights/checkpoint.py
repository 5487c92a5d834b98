"""Reading a checkpoint without trusting it: what the file is, the tensors in it, and whether they fit a network."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

PICKLED = (".pt", ".pth", ".ckpt", ".bin")  # what torch.save writes goes by these names
SUFFIXES = (*PICKLED, ".safetensors")
INSPECTED = (*SUFFIXES, ".json", ".zip")  # names that promise what `inspect` can tell
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")  # left behind by DataParallel and torch.compile

# (pattern over the keys, what such a file is), the telling ones first
KINDS = (
    (r"lora_(unet|te\d?)_|\.lora_(A|B|down|up)\.|\.lora\.(down|up)\.", "a LoRA"),
    (r"conditioner\.embedders\.", "a Stable Diffusion XL checkpoint"),
    (r"model\.diffusion_model\.", "a Stable Diffusion checkpoint"),
    (r"control_model\.|controlnet_", "a ControlNet"),
    (r"(down|up)_blocks\.\d+\.(resnets|attentions)\.", "a diffusers UNet"),
    (r"(encoder|decoder)\.(down|up)(_blocks)?\.", "a VAE"),
    (r"string_to_param|emb_params$", "a textual inversion embedding"),
    (r"(text_model|vision_model)\.(encoder|embeddings)\.", "a CLIP model of transformers"),
    (r"visual\.(conv1|transformer)\.|token_embedding\.weight$", "a CLIP model of OpenAI or open_clip"),
    (r"blip\.(visual|text)_encoder\.", "an ImageReward checkpoint"),
    (r"(visual|text)_encoder\.", "a BLIP checkpoint"),
    (r"layers\.\d+\.(weight|bias)$", "an aesthetic or reward head alone"),
)


def file_format(path: str | os.PathLike[str]) -> str:
    """ "safetensors", "zip" (torch.save), "pickle" (torch.save before 1.6), "json" or "archive", by the content and not
    by the name.

    Costs a few reads whatever the size. Raises WeightsError saying what the file is instead, or how much of it is
    missing.
    """
    kind, problem = inspect(path)
    if problem:
        raise WeightsError(
            f"{os.fspath(path)} {problem}. Download it again; `imagereward fetch` replaces a damaged file once the new"
            " one is verified."
        )
    return kind


def inspect(path: str | os.PathLike[str], suffix: str | None = None) -> tuple[str, str]:
    """(format, "") of a sound file, ("", what is wrong) of another. `suffix` stands in for the name's own."""
    suffix = Path(path).suffix if suffix is None else suffix
    if os.path.isdir(path):
        return "", "is a folder; a weights file is wanted"
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        return "", f"cannot be read ({error.strerror or error})"
    size = os.path.getsize(path)
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
    if head.startswith(b"PK\x03\x04"):
        return _inspect_zip(path, size, suffix)
    if suffix == ".safetensors" or head[8:9] == b"{":
        return _inspect_safetensors(path, size)
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "pickle", ""
    return "", f"is neither a PyTorch nor a safetensors file ({size} bytes, beginning with {head[:16]!r})"


def _inspect_json(path: str | os.PathLike[str]) -> tuple[str, str]:
    try:
        json.loads(Path(path).read_bytes())
    except ValueError as error:
        return "", f"is not valid JSON ({error})"
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
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error) as error:
        return "", f"has no safetensors header ({size} bytes; {error})"
    if size != start + end:
        return "", f"is truncated or damaged: {size} bytes are there, its header announces {start + end}"
    return "safetensors", ""


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """(header of a safetensors file without its metadata, offset of the data). Raises ValueError or struct.error."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 2 <= length <= 100_000_000:
            raise ValueError(f"a header of {length} bytes is out of range")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata) of a .safetensors or torch.save file, memory-mapped: no tensor is read before it
    is used.

    Accepts a plain state dict, one under "model" or "state_dict", and names prefixed by "module.". The strings
    beside the state dict of a .pt are its metadata. Raises WeightsError for anything else.
    """
    path = os.fspath(path)
    kind = file_format(path)
    if kind == "safetensors":
        state, metadata = _read_safetensors(path)
    elif kind in ("json", "archive"):
        raise WeightsError(f"{path} holds {kind} data; a weights file is wanted")
    else:
        state, metadata = _unwrap(_read_pickled(path, mmap=kind == "zip"), path)
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: tensor for key, tensor in state.items()}
    if not state:
        raise WeightsError(f"{path} holds no tensors")
    return state, metadata


def _read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error


def _read_pickled(path: str, mmap: bool) -> Any:
    """torch.load that never runs code of the file."""
    import torch

    options = {"map_location": "cpu", "weights_only": True}
    try:
        if path.endswith(".safetensors"):  # torch.load goes by the name here, unless it sees none
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
                f"{path} holds Python objects besides tensors; reading these could run code, so it is not loaded:"
                f" {short}"
            ) from error
        raise WeightsError(f"{path} is damaged ({os.path.getsize(path)} bytes): {short}") from error
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


def recognise(keys: Collection[str]) -> str:
    """What a file with these tensor names is, or "" when it is nothing we know."""
    for pattern, kind in KINDS:
        if any(re.search(pattern, key) for key in keys):
            return kind
    return ""


def checked(
    state: dict[str, Tensor], net: nn.Module, allowed_missing: Sequence[str], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """`state` if its keys and shapes are those of `net`; WeightsError saying what differs, and what the file is,
    otherwise.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    missing = sorted(wanted.keys() - found.keys() - set(allowed_missing))
    unexpected = sorted(found.keys() - wanted.keys())
    reshaped = [
        f"{key} {list(found[key])} where {list(wanted[key])} is wanted"
        for key in sorted(wanted.keys() & found.keys())
        if wanted[key] != found[key]
    ]
    if not (missing or unexpected or reshaped):
        return dict(state)
    kind = recognise(found)
    parts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    what = (
        f"This is {kind}{' of other sizes' if reshaped and not unexpected else ''}."
        if kind
        else "It is no kind of file known here."
    )
    raise WeightsError(
        f"{os.fspath(path)} does not fit the network. {what} Of the {len(wanted)} tensors wanted and {len(found)}"
        f" found: {'; '.join(parts)}."
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
