"""A run's numbers and pictures in TensorBoard or Weights & Biases, beside the run folder, which holds them anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from .errors import MissingDependency
from .log import logger


class Tracker(Protocol):
    """Where numbers and pictures go."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, path: Path) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run folder's `tensorboard/`. resume_at: the update a resumed run goes on from; what an earlier
    process wrote after it is dropped.
    """

    def __init__(self, folder: Path, resume_at: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency(f"report_to tensorboard needs the library tensorboard: {error}") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at + 1 if resume_at else None)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.array(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the wandb library, which sends it wherever the user has told wandb to."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise MissingDependency(f"report_to wandb needs the library wandb: {error}") from error
        self._wandb: Any = wandb
        self._run: Any = wandb.init(project="refl", name=folder.name, dir=str(folder), config=dict(settings))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_tracker(kind: str, folder: Path, settings: Mapping[str, Any], resume_at: int) -> Tracker | None:
    """The tracker of that name ("" for none). MissingDependency if its library is not there."""
    if kind == "tensorboard":
        return TensorBoard(folder, resume_at)
    return WeightsAndBiases(folder, settings) if kind == "wandb" else None


class Careful:
    """A tracker that costs no run: what it fails of is a warning, once, and nothing more is sent."""

    def __init__(self, tracker: Tracker | None = None):
        self.tracker = tracker

    def event(self, kind: str, step: int, data: Mapping[str, Any]) -> None:
        """The finite numbers of an event, those of its judges among them, as `KIND/NAME`."""
        flat = {**data, **{f"judge {name}": value for name, value in (data.get("judges") or {}).items()}}
        values = {f"{kind}/{name}": float(value) for name, value in flat.items() if name != "step" and _number(value)}
        self._try("numbers", step, values)

    def picture(self, step: int, name: str, path: Path) -> None:
        """A contact sheet."""
        self._try("picture", step, name, path)

    def close(self) -> None:
        """Nothing more comes."""
        self._try("close")
        self.tracker = None

    def _try(self, what: str, *values: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, what)(*values)
        except Exception as error:  # noqa: BLE001 - another program's code, on a network or a full disk
            logger.warning("nothing more is reported to %s: %s", type(self.tracker).__name__, error)
            self.tracker = None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
