"""One holder for the scorer in memory: loaded at the first use, moved aside or dropped after, always under one lock.

The module stays in memory when the host reloads its UI, and with it the loaded model.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .core import RM, ImageRewardError, errors, logger, registry, tastes
from .core import module as core_module
from .options import POLICY_AUTO, POLICY_CPU, POLICY_KEEP, POLICY_UNLOAD

SUFFIXES = (".safetensors", ".pt")
SMALL_GPU_GB = 12
ROOM = 1_500_000_000  # bytes: a full-size scorer in fp16 and its activations


class Cancelled(ImageRewardError):
    """The user interrupted a download or a load."""


def available(folder: Path) -> list[str]:
    """Names of all scorers: the registry's, then the other model files in the models folder.

    A .pt and the .safetensors that were made from it are one model.
    """
    known = {_stem(Path(source.local_name)) for info in registry.MODELS for source in info.sources}
    files: dict[str, str] = {}
    with contextlib.suppress(OSError):  # no folder yet: nothing to list
        for path in sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() != ".pt", len(path.name))):
            if path.suffix.lower() in SUFFIXES and _stem(path) not in known:
                files.setdefault(_stem(path), path.name)
    return [*RM.available_models(), *RM.available_scores(), *sorted(files.values())]


def _stem(path: Path) -> str:
    return path.stem.removesuffix(".fp16")


def load_scorer(
    name: str, device: str, precision: str, folder: Path, progress: Callable[..., None] | None = None
) -> Any:
    """Load by registry name or by the name of a file in `folder`; no other path is accepted.

    `progress(bytes done, bytes in total or None, file name)` follows a download and may raise to stop it.
    """
    names = available(folder)
    if name not in names:
        raise errors.ModelNotFoundError(
            f"there is no scorer {name!r}; there are: {', '.join(names)}. Reward models (.safetensors, .pt) go into"
            f" {folder}."
        )
    models, scores = RM.available_models(), RM.available_scores()
    if name not in models + scores:
        return RM.load(folder / name, device=device, precision=precision)
    have_files(name, folder, progress)
    load = RM.load if name in models else RM.load_score
    return load(name, device=device, precision=precision, models_dir=folder)


def have_files(name: str, folder: Path, progress: Callable[..., None] | None = None) -> None:
    """Download what the scorer of that name lacks, or the one that a taste was learnt on; nothing to do for files of
    the user's own.
    """
    if (taste := tastes.find(name)) is not None and (told := tastes.about(taste)) is not None:
        have_files(told.base.source, folder, progress)
    if name not in registry.names():
        return
    for source in registry.get(name).sources:
        report = functools.partial(_report, progress, source.filename) if progress else None
        core_module("weights").locate(source, models_dir=folder, progress=report)


def _report(progress: Callable[..., None], filename: str, done: int, total: int | None) -> None:
    progress(done, total, filename)


class ScorerHolder:
    """Holds at most one scorer. `host` answers for device, folder and progress; `load` is `load_scorer`'s signature."""

    def __init__(self, host: Any, load: Callable[..., Any] = load_scorer):
        self._host, self._load = host, load
        self._lock = threading.RLock()
        self._scorer: Any = None
        self._name = self._device = ""
        self._made_for: tuple[Any, ...] = ()
        self._fell_back = False  # on the CPU for want of GPU memory, not by anybody's choice
        self._notes: list[str] = []

    # --- use -------------------------------------------------------------------------------------------------------

    def score(self, name: str, prompt: str | Sequence[str], images: Sequence[Any]) -> list[float]:
        """Scores of images for one prompt, or pair by pair for a list of prompts. Out of GPU memory: once more on the
        CPU.
        """
        prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
        with self._lock:
            try:
                return self._get(name).score_pairs(prompts, list(images))
            except RuntimeError as error:
                if not _out_of_memory(error) or self._device == "cpu":
                    raise
            logger.warning("out of GPU memory while scoring; trying once more on the CPU")
            self._notes.append("the GPU was out of memory, so this was scored on the CPU")
            self.unload()
            scorer = self._get(name, device="cpu")
            self._fell_back = True
            return scorer.score_pairs(prompts, list(images))

    def prepare(self, name: str) -> None:
        """Have the scorer's files on this machine. To be called where no lock is held: this may download for an hour.

        Interrupt ends it; a press before it began, whose mark the host keeps until its next job, does not count.
        """
        if self._load is not load_scorer:  # brings its weights by itself
            return
        before = self._host.interrupted()

        def progress(done: int, total: int | None = None, what: str = "") -> None:
            self._progress(done, total, what, heed=not before)

        try:
            have_files(name, self._host.models_dir(), progress)
        finally:
            self._host.show_progress(None)

    def load(self, name: str) -> None:
        """Load now instead of at the first use."""
        with self._lock:
            self._get(name)

    def _get(self, name: str, device: str | None = None) -> Any:
        made_for = self._sources(name)
        if self._scorer is not None and self._made_for == made_for:
            wanted = device or self._device
            if str(self._scorer.device) != wanted:
                self._host.make_room(_bytes(self._scorer), wanted)
                self._move(wanted)
            return self._scorer
        if self._scorer is not None:
            self.unload()
        device = device or self._host.device()
        self._host.show_progress(f"ImageReward: loading {name}")
        try:
            with self._host.no_checkpoint_loading():
                self._host.make_room(ROOM, device)
                # the job may hold torch's grad or inference mode; weights made in those could not be moved later
                with _plain_torch():
                    self._scorer = self._load(
                        name, device, self._host.option("precision"), self._host.models_dir(), self._progress
                    )
        finally:
            self._host.show_progress(None)
        self._name, self._device, self._made_for = name, device, made_for
        return self._scorer

    def _sources(self, name: str) -> tuple[Any, ...]:
        """All that a scorer depends on: a changed setting, or another file under the same name, asks for another
        scorer.
        """
        folder = self._host.models_dir()
        try:
            status = (tastes.find(name) or folder / name).stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:  # a model of the registry, neither a taste nor a file in this folder by that name
            stamp = None
        return name, self._host.device(), self._host.option("precision"), folder, stamp

    def _progress(self, done: int, total: int | None = None, what: str = "", heed: bool = True) -> None:
        """For downloads: shows how far it is, and stops it when the user presses Interrupt (`heed`)."""
        if heed and self._host.interrupted():
            raise Cancelled("stopped by the user; a later try goes on where this one stopped")
        how_far = f"{done >> 20} of {total >> 20} MB ({100 * done // total} %)" if total else f"{done >> 20} MB"
        self._host.show_progress(f"ImageReward: downloading {what or 'model'}: {how_far}")

    def take_notes(self) -> list[str]:
        """What the user should be told since the last call."""
        with self._lock:
            notes, self._notes = self._notes, []
            return notes

    # --- memory ----------------------------------------------------------------------------------------------------

    def after_job(self, unload: bool = False) -> None:
        """Apply the memory policy."""
        with self._lock:
            if self._scorer is None:
                return
            # after a fallback to the CPU the next job tries the GPU again
            policy = POLICY_UNLOAD if unload or self._fell_back else self._host.option("policy")
            if policy == POLICY_AUTO:
                size = self._host.vram_gb(self._device)
                policy = POLICY_CPU if size is not None and size < SMALL_GPU_GB else POLICY_KEEP
            if policy == POLICY_UNLOAD:
                self.unload()
            elif policy == POLICY_CPU and str(self._scorer.device) != "cpu":
                self._move("cpu")
                self._host.collect_garbage()

    def unload(self) -> float:
        """Drop the scorer; returns the megabytes its weights took. Nothing loaded: 0, and no error."""
        with self._lock:
            freed = _bytes(self._scorer) / 1e6 if self._scorer is not None else 0.0
            self._scorer, self._name, self._fell_back = None, "", False
            if freed:
                self._host.collect_garbage()
            return freed

    def status(self) -> dict[str, Any]:
        """What is loaded, where, and how large. Takes no lock: a client that asks during a download gets an answer."""
        scorer, name = self._scorer, self._name
        if scorer is None:
            return {"loaded": None, "device": None, "megabytes": 0.0}
        return {"loaded": name, "device": str(scorer.device), "megabytes": round(_bytes(scorer) / 1e6, 1)}

    def _move(self, device: str) -> None:
        with _plain_torch():
            self._scorer.to(device)


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


def _bytes(scorer: Any) -> int:
    net = getattr(scorer, "net", None)
    if net is None:
        return 0
    return sum(t.numel() * t.element_size() for group in (net.parameters(), net.buffers()) for t in group)


def _out_of_memory(error: RuntimeError) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()


def _default_holder() -> ScorerHolder:
    from . import host

    return ScorerHolder(host)


holder = _default_holder()
