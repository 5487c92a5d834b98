"""The small world: tiny trained models that show score, curate and teach in minutes, offline.

``load_pipeline`` gives tiny-sd as a diffusers pipeline, ``generate`` draws with it; ``python -m smallworld`` does the
rest.
"""

from __future__ import annotations

from typing import Any

__all__ = ["generate", "load_pipeline"]


def __getattr__(name: str) -> Any:
    # Importing the package costs nothing: torch and diffusers come with the first use.
    if name in __all__:
        from . import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
