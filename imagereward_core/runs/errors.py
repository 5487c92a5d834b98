"""What can be wrong with a run's folder. `hint` says what to do and is shown beside the message."""

from __future__ import annotations

from ..errors import ImageRewardError


class RunError(ImageRewardError, RuntimeError):
    """A run that does not exist, or cannot do what was asked."""

    hint = ""


class RunDamaged(RunError):
    """A file of a run that is torn, or holds something else than it should."""

    hint = "Start a new run: what this one was told is not known for sure."


class RunBusy(RunError):
    """Another process is already training in this run folder."""

    hint = "Stop that run first, or start this one in another folder."


class RunUnwritable(RunError, OSError):
    """A folder in which nothing can be written, or a disk that is full."""

    hint = "Free space on the disk or choose another folder."
