"""What a run would need if it were another one: at other sizes and batches, and with its base quantised."""

from __future__ import annotations

from typing import Any

from imagereward_core.runs.presets import PRESETS

from .memory import GIB, Subject
from .settings import BASES

CARDS = tuple(int(name.split()[0]) for name in PRESETS)  # GB; what a desktop shows on itself is not taken off
BATCHES = (1, 2, 4, 8)
SIDES = (0.75, 1.0, 1.5)  # of the run's own resolution


def table(given: Subject) -> list[dict[str, Any]]:
    """Memory by resolution and samples at once: {"resolution", "batch", "gb", "fits", "chosen"}, the run's own among
    them. One and two samples are computed; each further one needs as much more as the second.
    """
    own = given.config.resolution
    sides = sorted({own, *(max(8, round(own * share / 64) * 64) for share in SIDES if own >= 256)})
    batches, cells = sorted({*BATCHES, given.config.train_batch_size}), []
    for side in sides:
        one, two = (given.estimate(resolution=side, train_batch_size=size).total for size in (1, 2))
        for size in batches:
            total = one + (size - 1) * (two - one)
            chosen = side == own and size == given.config.train_batch_size
            fits = None if given.free is None else total <= given.free
            cells.append({"resolution": side, "batch": size, "gb": total / GIB, "fits": fits, "chosen": chosen})
    return cells


def smallest(total: int) -> int | None:
    """The smallest of CARDS that so many bytes fit; None for none."""
    return next((card for card in CARDS if total <= card * GIB), None)


def bases(given: Subject) -> list[dict[str, Any]]:
    """Memory by what the base is kept in: {"base", "gb", "card", "chosen"}, card being the smallest that it fits; empty
    where the base itself is trained.
    """
    if given.config.tune != "lora":
        return []
    totals = {base: given.estimate(base_precision=base).total for base in BASES}
    return [
        {"base": base, "gb": total / GIB, "card": smallest(total), "chosen": base == given.config.base_precision}
        for base, total in totals.items()
    ]
