"""Files of hidden images: kept, moved to a subfolder, or removed, once the job's result is settled.

Everything is saved by the host first and settled at the end of the job, so that a crash or an interrupt halfway never
costs an image. Only a file that this job saw being written for that very image is ever touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .core import logger, replace
from .fields import LOW_DISCARD, LOW_KEEP
from .results import Entry


def unused_path(path: Path) -> Path:
    """`path`, or the first of `name-1.png`, `name-2.png`, … that does not exist."""
    candidate, n = path, 0
    while candidate.exists():
        n += 1
        candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
    return candidate


def safe_folder(name: str) -> str:
    """A plain folder name: the option is free text, and must not lead out of the output folder."""
    cleaned = re.sub(r"[^\w\- ]", "", str(name)).strip()
    return cleaned or "low-score"


class FileKeeper:
    """Does with the files of hidden images what the request says."""

    def __init__(self, policy: str, subfolder: str, sidecars: bool = False):
        """`sidecars`: the host writes a .txt beside each image, which goes where the image goes."""
        self.policy, self.subfolder, self.sidecars = policy, safe_folder(subfolder), sidecars
        self._settled: dict[str, str | None] = {}  # where files went, by where they were; None: removed

    @property
    def acts(self) -> bool:
        """Whether anything is ever moved or removed."""
        return self.policy != LOW_KEEP

    def place(self, path: str) -> str | None:
        """Where the file is that was written at `path`; None if it was removed."""
        return self._settled.get(str(Path(path)), path)

    def whereabouts(self, hidden: Iterable[Entry]) -> str:
        """Where the files of hidden images are now, in a sentence; "" where the host saved none."""
        entries = list(hidden)
        paths = [entry.path for entry in entries if entry.path]
        here = sum(path not in self._settled and Path(path).is_file() for path in paths)
        settled = [self._settled[path] for path in set(paths) if path in self._settled]
        removed = settled.count(None)
        moved = len(settled) - removed
        told = []
        for count, all_of_them, some in (
            (here, "The images are in the output folder.", "In the output folder"),
            (moved, f"The images were moved to {self.subfolder}/.", f"Moved to {self.subfolder}/"),
            (removed, "The images were not kept on disk.", "Not kept on disk"),
        ):
            if count:
                told.append(all_of_them if count == len(entries) else f"{some}: {count} of {len(entries)} images.")
        return " ".join(told)

    def settle(self, hidden: Iterable[Entry], interrupted: bool = False) -> list[str]:
        """Move or remove the files of these entries; returns notes for the user (one per problem).

        Of a job that was `interrupted` in mid-image every file stays: what it would have shown in the end is unknown.
        """
        notes: list[str] = []
        saved = [Path(entry.path) for entry in hidden if entry.path]
        if not self.acts or not saved:
            return notes
        if interrupted:
            return ["interrupted in mid-image, so no file was moved or removed"]
        for image in saved:
            for path in (image, image.with_suffix(".txt")) if self.sidecars else (image,):
                try:
                    if path.is_file():
                        self._settle_one(path)
                except OSError as error:
                    logger.warning("%s stays where it is: %s", path, error)
                    notes.append(f"{path.name} stays where it is: {error.strerror or error}")
        return notes

    def _settle_one(self, path: Path) -> None:
        if self.policy == LOW_DISCARD:
            path.unlink()
            self._settled[str(path)] = None
            return
        folder = path.parent / self.subfolder
        folder.mkdir(exist_ok=True)
        target = unused_path(folder / path.name)
        replace(path, target)
        self._settled[str(path)] = str(target)
