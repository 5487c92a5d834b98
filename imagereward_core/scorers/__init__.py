"""Scorers: one file each, all with the interface of `base.Scorer`."""

from __future__ import annotations

import os
from typing import Any

from .. import weights
from ..registry import get
from .base import Scorer

__all__ = ["Scorer", "load_scorer"]


def load_scorer(name: str | os.PathLike[str], **options: Any) -> Scorer:
    """Load any scorer: a registry name, or the path of a reward model. Options are those of `imagereward_core.load`."""
    kind = "imagereward" if weights.is_path(name) else get(str(name)).kind
    if kind == "imagereward":
        from .imagereward import load_imagereward as loader
    elif kind == "blip":
        from .blip import load_blip as loader
    elif kind == "clip":
        from .clip import load_clip as loader
    else:
        from .aesthetic import load_aesthetic as loader
    return loader(name, **options)
