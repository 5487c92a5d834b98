"""Scorers: one file each, all with the interface of `base.Scorer`."""

from __future__ import annotations

import importlib
import os
from typing import Any

from .. import weights
from ..registry import get
from .base import Scorer

__all__ = ["Scorer", "load_scorer"]


def load_scorer(name: str | os.PathLike[str], **options: Any) -> Scorer:
    """Load any scorer: a registry name, or the path of a reward model. Options are those of `imagereward_core.load`."""
    kind = "imagereward" if weights.is_path(name) else get(str(name)).kind
    module = importlib.import_module(f".{kind}", __package__)  # the registry's kinds are this package's files
    return getattr(module, f"load_{kind}")(name, **options)
