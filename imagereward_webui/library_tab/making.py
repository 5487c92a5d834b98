"""Planned pictures, made by the host and scored: the same prompts and seeds with each level of a comparison.

The host makes them one at a time, in its queue with everybody's jobs, and without scripts: no extension changes what is
compared. All of one checkpoint come first, so that it is loaded once. A pair of which one half is missing, because it
was interrupted, does not count; asked again, the plan makes what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import host
from ..core import ConfigError, ImageRewardError
from ..core import module as core_module
from ..judges import stored_name
from ..lifecycle import available
from . import host as library_host
from .pictures import library_place
from .scoring import score
from .work import Progress


class Maker:
    """Makes the pictures of a plan. `scorer`: as it is named in the library."""

    def __init__(self, missing: Sequence[Mapping[str, Any]], scorer: str):
        """Raises ConfigError for what this WebUI has not: before anything is made, all that is needed is looked for."""
        self.scorer = scorer
        self.name = _loadable(scorer)
        self.wanted = sorted(
            (_settings(generation) for generation in missing), key=lambda settings: settings.get("checkpoint") or ""
        )

    def run(self, progress: Progress) -> str:
        """Make and score; says what became of it."""
        paths: list[str] = []
        stopped = False
        for settings in self.wanted:
            made = library_host.generate(settings)
            if made is None:
                stopped = True
                break
            paths.append(made)
            progress(len(paths), len(self.wanted))
        if paths:
            self._score(paths, progress)
        words = f"{len(paths)} of {len(self.wanted)} pictures made and scored"
        return f"interrupted: {words}; press again to make the rest" if stopped else words

    def _score(self, paths: Sequence[str], progress: Progress) -> None:
        """Read the new files into the library and score them."""
        records, writer = core_module("library.records"), core_module("library.writer")
        with core_module("library").open_library(library_place()) as library:
            numbers = [writer.remember_now(library, records.Record(path)) for path in paths]
        score(numbers, self.name, progress)


def _loadable(scorer: str) -> str:
    """What this host calls the scorer of that name in the library. Raises ConfigError."""
    folder = host.models_dir()
    for name in available(folder):
        try:
            if stored_name(name, folder) == scorer:
                return name
        except (ImageRewardError, OSError):
            continue  # a file that cannot be read is not the one
    raise ConfigError(f"the new pictures could not be scored: this WebUI has no scorer {scorer!r}")


def _settings(generation: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's line as `generate` takes it. Raises ConfigError for a checkpoint or sampler that is not here."""
    settings = dict(generation)
    named, digest = settings.pop("checkpoint", None), settings.pop("checkpoint_hash", None)
    if named or digest:
        title = library_host.checkpoint_title(named or "", digest or "")
        if not title:
            raise ConfigError(f"this WebUI has no checkpoint {named or digest}")
        settings["checkpoint"] = title
    if settings.get("sampler") and not library_host.has_sampler(settings["sampler"]):
        raise ConfigError(f"this WebUI has no sampler {settings['sampler']!r}")
    for side in ("width", "height"):
        settings[side] = max(64, settings[side] // 8 * 8)  # hosts make multiples of 8
    return settings
