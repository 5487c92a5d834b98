"""What a run tells: status, events, pictures, notes for the end, and what it failed of."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagereward_core.runs import EventKind, Name, State

from .errors import ReFLError, SaveError
from .evaluate import save_sheet
from .log import logger
from .runfiles import RunFolder
from .trackers import Careful

MEMORY_HINT = (
    "Lower resolution or train_batch_size, use --taesd, or free the WebUI's memory first; the last saved state can be"
    " resumed."
)
DEFECT_HINT = "This is a defect: please report it with log.txt."
DISK = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Journal:
    """Writes into the run folder; without one (in all processes but the first) it is silent. `step` is the update that
    was completed last.
    """

    def __init__(self, folder: RunFolder | None = None):
        self.folder = folder
        self.step = 0
        self.notes: list[str] = []
        self.standing = ""
        self.tracker = Careful()

    def event(self, kind: EventKind, **data: Any) -> None:
        """Append an event."""
        if self.folder:
            self.folder.event(kind, **{"step": self.step, **data})
            if kind in (EventKind.STEP, EventKind.EVALUATION):
                self.tracker.event(kind.value, int(data.get("step", self.step)), data)

    def say(self, state: State, **changes: Any) -> None:
        """Change the status; a change of state is an event, too."""
        if state is State.TRAINING and changes.get("message") == "":
            changes["message"] = self.standing
        if self.folder:
            if self.folder.state is not state:
                self.event(EventKind.STATE, state=state.value)
            self.folder.status(state=state.value, step=self.step, **changes)

    def progress(self, done: int, total: int) -> None:
        """How far the work of the present state is."""
        if self.folder:
            self.folder.progress(done, total)

    def note(self, text: str) -> None:
        """Something to be read when the run has ended; nothing if the text is empty."""
        if text and text not in self.notes:
            self.notes.append(text)
            logger.warning("%s", text)

    def tell(self, text: str) -> None:
        """Good news to be read when the run has ended."""
        if text not in self.notes:
            self.notes.append(text)
            logger.info("%s", text)

    def stand_by(self, text: str) -> None:
        """A note that is also the message of the status as long as there is nothing else to say."""
        self.standing = text
        self.note(text)

    def pictures(self, images: Tensor, seeds: int, name: str, **told: Any) -> None:
        """Save a contact sheet; pictures are not worth a run, so that a full disk costs them alone. told: what its
        event says besides.
        """
        if self.folder is None:
            return
        path = self.folder.path / Name.SAMPLES / f"{name}.png"
        try:
            save_sheet(images, seeds, path)
            self.event(EventKind.SAMPLES, path=f"{Name.SAMPLES}/{path.name}", **told)
            self.tracker.picture(self.step, "held-out prompts", path)
        except SaveError as error:
            logger.warning("%s", error)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Within, what ends the run is written down before it is raised: as a ReFLError if the user can act on it."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            refused = ReFLError(f"the GPU ran out of memory: {error}")
            self._failed(refused, MEMORY_HINT)
            raise refused from error
        except ReFLError as error:
            self._failed(error, error.hint)
            raise
        except OSError as error:
            if error.errno not in DISK:
                self._failed(error, DEFECT_HINT)
                raise
            place = f" ({Path(str(error.filename)).name})" if error.filename else ""
            refused = SaveError(f"a file of the run cannot be written{place}: {error.strerror or error}")
            self._failed(refused, refused.hint)
            raise refused from error
        except Exception as error:  # reported to the controlling process, then raised as it is
            self._failed(error, DEFECT_HINT)
            raise

    def _failed(self, error: BaseException, hint: str) -> None:
        logger.error("%s%s", error, f" - {hint}" if hint else "", exc_info=error if hint == DEFECT_HINT else None)
        error.told = True  # type: ignore[attr-defined]  # the command line need not repeat it
        self.event(EventKind.ERROR, error=type(error).__name__, message=str(error), hint=hint)
        self.say(State.FAILED, message=str(error), hint=hint)
