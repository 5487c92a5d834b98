"""What several training seeds say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imagereward_core.library.distributions import t_isf


def over_seeds(values: Sequence[float], others: Sequence[float] = ()) -> dict[str, Any]:
    """Mean of `values`, one of each training seed, less the mean of `others` if there are any, with its 95 % interval
    over seeds (Student's t; with others Welch's).
    """
    parts = [np.array(part) for part in (values, others) if len(part)]
    errors = [part.var(ddof=1) / len(part) for part in parts]
    freedom = sum(errors) ** 2 / sum(error**2 / (len(part) - 1) for error, part in zip(errors, parts, strict=True))
    half = float(t_isf(0.025, freedom)[0]) * sum(errors) ** 0.5
    change = float(parts[0].mean() - (parts[1].mean() if len(parts) > 1 else 0.0))
    return {"seeds": [len(part) for part in parts], "change": change, "change 95 %": [change - half, change + half]}
