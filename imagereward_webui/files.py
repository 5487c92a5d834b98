"""Files of hidden images: kept, moved to a subfolder, or removed, once the job's result is settled.

Everything is saved by the host first and settled at the end of the job, so that a crash or an interrupt halfway never
costs an image. Only a file that this job saw being written for that very image is ever touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from .core import logger
from .fields import LOW_DISCARD, LOW_KEEP, LOW_MOVE
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

    @property
    def acts(self) -> bool:
        """Whether anything is ever moved or removed."""
        return self.policy != LOW_KEEP

    def whereabouts(self, hidden: Iterable[Entry]) -> str:
        """Where the files of hidden images are now, in a sentence; "" where the host saved none."""
        saved = any(entry.path for entry in hidden)
        if not saved or self.policy == LOW_DISCARD:
            return "The images were not kept on disk." if saved else ""
        return (
            f"The images were moved to {self.subfolder}/."
            if self.policy == LOW_MOVE
            else "The images are in the output folder."
        )

    def settle(self, hidden: Iterable[Entry]) -> list[str]:
        """Move or remove the files of these entries; returns notes for the user (one per problem)."""
        notes: list[str] = []
        if not self.acts:
            return notes
        for entry in hidden:
            if not entry.path:
                continue
            saved = Path(entry.path)
            for path in (saved, saved.with_suffix(".txt")) if self.sidecars else (saved,):
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
            return
        folder = path.parent / self.subfolder
        folder.mkdir(exist_ok=True)
        os.replace(path, unused_path(folder / path.name))
