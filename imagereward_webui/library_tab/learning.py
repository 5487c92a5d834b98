"""A taste learnt from the tab: the scorer is loaded apart from the one that scores jobs, so that these are not
disturbed, and only if a picture lacks its features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import host
from ..core import module as core_module
from ..core import registry, tastes
from ..judges import stored_name
from ..lifecycle import load_scorer
from .pictures import library_place
from .work import Progress


def learn(taste: str, scorer: str, progress: Progress) -> str:
    """Fit the taste on a scorer of the host; returns what to say of it."""
    folder: Path = host.models_dir()
    source = str(folder / scorer) if (folder / scorer).is_file() else scorer
    base = tastes.Base(stored_name(scorer, folder), source)

    def load() -> Any:
        return load_scorer(scorer, host.device(), host.option("precision"), folder)

    learning = core_module("taste.learning")
    with core_module("library").open_library(library_place(), create=False) as library:
        learnt = learning.learn(
            library, base, load, taste, uses_prompt=registry.describe(source).uses_prompt, progress=progress
        )
    left = f"; {len(learnt.left_out)} duels left out" if learnt.left_out else ""
    return f"{taste}: {learnt.about.state}{left}"
