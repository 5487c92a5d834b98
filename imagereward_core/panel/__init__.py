"""One view over several scorers: each one's own value, their common value, and how much they disagree.

The panel's value of an image is the mean of its standardised scores, (score - mean) / SD, with constants that hold for
every image: the registry's, or those of the user's own scores. Where a scorer has neither, every scorer counts by its
ranks within the prompt instead; such a value compares images of one prompt and of one job only, so no limit can be set
on it (`PanelResult.absolute`). The disagreement is the standard deviation of the standardised scores.

| file | what it holds |
|---|---|
| constants | what scores are standardised by: where it comes from, and how it is written down |
| combine | scores that are there → the panel's |
| scoring, memory | prompts and images → the panel's: which scorers are loaded together |
"""

from __future__ import annotations

from .combine import PanelResult, PanelScore, combine, ranks
from .constants import (
    Constants,
    constants_of,
    from_library,
    from_mapping,
    from_text,
    of_infos,
    read,
    registry_constants,
    to_text,
)
from .memory import POLICIES, by_backbone, fits, free_memory, wanted_bytes
from .scoring import Panel, score_together

__all__ = [
    "POLICIES",
    "Constants",
    "Panel",
    "PanelResult",
    "PanelScore",
    "by_backbone",
    "combine",
    "constants_of",
    "fits",
    "free_memory",
    "from_library",
    "from_mapping",
    "from_text",
    "of_infos",
    "ranks",
    "read",
    "registry_constants",
    "score_together",
    "to_text",
    "wanted_bytes",
]
