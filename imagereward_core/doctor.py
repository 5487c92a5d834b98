"""What this installation has and lacks. Each finding that is a problem comes with its fix."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import registry
from .errors import ImageRewardError, ModelNotFoundError
from .image_files import FORMATS
from .registry import ModelInfo, Source
from .version import VERSION

# What scoring needs: package → lowest version. The same as in pyproject.toml; a test compares them.
REQUIRED = {
    "torch": "2.1",
    "numpy": "1.26",
    "Pillow": "9.5",
    "safetensors": "0.4.2",
    "tokenizers": "0.13.3",
    "huggingface_hub": "0.23.2",
    "filelock": "3.12",
    "requests": "2.28",
    "tqdm": "4.65",
}
OPTIONAL = {"transformers": ("4.30", "the CLIP and Aesthetic scorers")}
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"  # bert-base-uncased


@dataclass(frozen=True)
class Finding:
    """One line of the report. `status`: "ok", "note" (something optional is missing) or "problem". `fix` says what to
    do.
    """

    name: str
    status: str
    detail: str
    fix: str = ""


def examine(
    model: str, device: str | None = None, download_root: str | None = None, online: bool = False
) -> Iterator[Finding]:
    """All checks, cheap ones first. `model`, a registry name, is the one whose absence is a problem; `online` compares
    weights with the checksum their source announces now.
    """
    yield Finding("imagereward", "ok", f"{VERSION} in {Path(__file__).parent}")
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}, {sys.executable}")
    packages = [*required_packages(), *optional_packages()]
    yield from packages
    if any(finding.status == "problem" for finding in packages):
        return  # the other checks need these
    yield image_formats()
    yield vocabulary()
    found = compute_device(device)
    yield found
    yield self_test("cpu")
    if found.status == "ok" and found.name == "device" and not found.detail.startswith("cpu"):
        yield self_test(found.detail.split()[0])
    for info in registry.MODELS:
        for source in info.sources:
            finding = weights_file(info, source, info.name == model, download_root, online)
            yield _with_cost(finding, info) if source is info.sources[0] else finding


def required_packages() -> Iterator[Finding]:
    for name, lowest in REQUIRED.items():
        found = _installed(name)
        if found is None or _version(found) < _version(lowest):
            yield Finding(
                name,
                "problem",
                f"{found or 'not installed'}, {lowest} or newer is needed",
                f'{sys.executable} -m pip install "{name}>={lowest}"',
            )
        else:
            yield Finding(name, "ok", found)


def optional_packages() -> Iterator[Finding]:
    for name, (lowest, purpose) in OPTIONAL.items():
        found = _installed(name)
        if found is None or _version(found) < _version(lowest):
            detail = f"{found or 'not installed'}; {purpose} need {lowest} or newer"
            yield Finding(name, "note", detail, f'{sys.executable} -m pip install "{name}>={lowest}"')
        else:
            yield Finding(name, "ok", found)


def image_formats() -> Finding:
    """Which image formats Pillow can decode here."""
    from PIL import Image

    Image.init()
    missing = [name for name in FORMATS if name not in Image.OPEN]
    if missing:
        return Finding(
            "image formats",
            "note",
            f"this Pillow cannot read {', '.join(missing)}",
            f'{sys.executable} -m pip install "Pillow>=11.3"',
        )
    return Finding("image formats", "ok", f"{', '.join(FORMATS)} can be read")


def vocabulary() -> Finding:
    """The tokeniser's word list, byte for byte: another one gives other token ids and silently wrong scores."""
    try:
        data = importlib.resources.files(__package__).joinpath("data/bert-base-uncased-vocab.txt").read_bytes()
    except OSError as error:
        return Finding("vocabulary", "problem", f"missing: {error}", "install this package again")
    found = hashlib.sha256(
        data.replace(b"\r\n", b"\n")
    ).hexdigest()  # a checkout on Windows may have changed the line ends
    if found != VOCABULARY_SHA256:
        return Finding(
            "vocabulary",
            "problem",
            f"sha256 {found[:10]}…, expected {VOCABULARY_SHA256[:10]}…",
            "install this package again",
        )
    return Finding("vocabulary", "ok", f"sha256 {found[:10]}…")


def compute_device(wanted: str | None) -> Finding:
    """The device scores are computed on, tried with one small product."""
    import torch

    from .scorers.base import pick_device

    try:
        device = pick_device(wanted)
        torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # torch raises each of them for a missing device
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = (
            "choose another with --device, or install a torch build for this device"
            " (https://pytorch.org/get-started/locally)"
        )
        return Finding("device", "problem", f"{wanted or 'the default device'} cannot be used: {reason}", fix)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Finding(
            "device",
            "ok",
            f"{device} {torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
        )
    return Finding(
        "device", "ok", f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    )


def self_test(device: str) -> Finding:
    """The golden test of `selftest` on that device; wider tolerance where matrix products are not exact fp32."""
    from . import selftest

    tolerance = selftest.TOLERANCE if device == "cpu" else 100 * selftest.TOLERANCE
    name = f"self-test on {device}"
    try:
        difference = selftest.largest_difference(selftest.scores(device))
    except (ImageRewardError, RuntimeError) as error:
        return Finding(
            name, "problem", f"failed: {type(error).__name__}: {error}", "install this package and torch again"
        )
    detail = f"largest difference to the recorded scores {difference:.1e}, allowed {tolerance:.0e}"
    if difference <= tolerance:
        return Finding(name, "ok", detail)
    return Finding(
        name,
        "problem",
        detail,
        "scores of this machine cannot be trusted: install the tested versions (requirements/tested.txt) and report"
        " this",
    )


def _with_cost(finding: Finding, info: ModelInfo) -> Finding:
    """The finding with what the scorer takes once it is loaded."""
    if info.cost is None:
        return finding
    takes = f"in memory {info.cost.megabytes} MB as fp32; {info.cost.seconds:g} s of one CPU core an image"
    return replace(finding, detail=f"{finding.detail}; {takes}")


def weights_file(info: ModelInfo, source: Source, needed: bool, download_root: str | None, online: bool) -> Finding:
    """Whether one file of a model is here, sound, and what it should be."""
    from . import weights
    from .hashing import file_digest
    from .weights.checkpoint import inspect
    from .weights.convert import origin

    name = f"weights of {info.name}"
    fetch = f"imagereward fetch {info.name}" + (f" --download-root {download_root}" if download_root else "")
    try:
        path = weights.locate(source, download_root=download_root, download=False)
    except ModelNotFoundError:
        size = f" ({source.about / 1e9:.2f} GB)" if source.about > 10**7 else ""
        return Finding(
            name, "problem" if needed else "note", f"{source.local_name} is not on this machine", fetch + size
        )
    except ImageRewardError as error:
        return Finding(name, "problem", str(error), fetch)
    problem = inspect(path)[1]
    if problem:
        return Finding(name, "problem", f"{path} {problem}", fetch)
    digest = file_digest(path)
    detail = f"{path}, {os.path.getsize(path) / 1e9:.2f} GB, sha256 {digest[:10]}…"
    if path.suffix != Path(source.filename).suffix:
        digest = str((origin(path) or {}).get("sha256") or "")
        if not digest:
            return Finding(name, "ok", f"{detail} (converted, so there is no published checksum)")
        detail = f"{path}, {os.path.getsize(path) / 1e9:.2f} GB, converted from sha256 {digest[:10]}…"
    expected, why = _expected_digest(source, online)
    if expected and expected != digest:
        return Finding(
            name, "problem", f"{detail}, but its source announces {expected[:10]}…", f"remove {path}, then: {fetch}"
        )
    return Finding(name, "ok", f"{detail} {'as announced' if expected else f'({why})'}")


def _expected_digest(source: Source, online: bool) -> tuple[str, str]:
    """(sha256, "") where it is known, else ("", why it is not)."""
    from .weights import hub

    if source.sha256:
        return source.sha256, ""
    if not online:
        return "", "--online compares it with its source"
    if not source.repo:
        return "", "its source announces no sha256"
    try:
        digest = hub.ask(source).digest
    except ImageRewardError as error:
        return "", str(error)
    return (digest[1], "") if digest and digest[0] == "sha256" else ("", "its source announces no sha256")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version(text: str) -> tuple[int, ...]:
    """The numeric start of a version: "2.13.0+cpu" → (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
