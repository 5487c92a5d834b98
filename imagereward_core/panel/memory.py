"""Which scorers of a panel are in memory together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..errors import ImageRewardError

POLICIES = ("auto", "together", "one by one")
SPARE = 1.5  # memory wanted for each byte of weights: activations, and the file while it is read


def by_backbone(names: Sequence[str]) -> list[list[str]]:
    """The names in groups that share a backbone's file, each group as early as its first."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        try:
            sources = registry.get(name).sources
        except ImageRewardError:
            sources = ()
        groups.setdefault(sources[-1] if sources else name, []).append(name)
    return list(groups.values())


def fits(
    names: Sequence[str], options: Mapping[str, Any], free_bytes: Callable[[Any], int | None] | None = None
) -> bool:
    """Whether these scorers' weights, and what scoring needs beside them, have room on the device of `options`."""
    free = (free_bytes or free_memory)(options.get("device"))
    return not names or free is None or wanted_bytes(names, options) * SPARE <= free


def wanted_bytes(names: Sequence[str], options: Mapping[str, Any]) -> int:
    """The weights of these scorers in memory, a shared file once; half of it in half precision. A file of one's own (a
    path, or a name in the folder `models_dir`) counts its size; what is neither counts nothing.
    """
    sources: set[registry.Source] = set()
    own = 0
    for name in names:
        try:
            sources.update(registry.get(name).sources)
        except ImageRewardError:
            path = Path(options.get("models_dir") or "") / name
            own += path.stat().st_size if path.is_file() else 0
    total = own + sum(source.size or source.about for source in sources)
    on_cuda = str(options.get("device") or "").startswith("cuda")
    half = options.get("precision") in ("fp16", "bf16") or (options.get("precision", "auto") == "auto" and on_cuda)
    return total // 2 if half else total


def free_memory(device: Any = None) -> int | None:
    """Free bytes on the device (by default the one a scorer would take); None where nobody says."""
    import torch

    from ..scorers.base import pick_device

    place = pick_device(device)
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    try:
        import psutil
    except ImportError:
        return _from_proc()
    return int(psutil.virtual_memory().available)


def _from_proc() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
