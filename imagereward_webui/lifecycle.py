"""One holder for the scorers in memory: loaded at the first use, moved aside or dropped after, always under one lock.

A job has one scorer, or a panel's. Those of a panel stay in memory together if they fit; else one after another is put
on the device, and the others wait in the computer's memory, or are let go where that is too small as well.

The module stays in memory when the host reloads its UI, and with it the loaded model.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core import RM, ImageRewardError, errors, logger, naming, registry, tastes
from .core import module as core_module
from .options import PANEL_AUTO, PANEL_TOGETHER, POLICY_AUTO, POLICY_CPU, POLICY_KEEP, POLICY_UNLOAD

SUFFIXES = naming.MODEL_SUFFIXES
SMALL_GPU_GB = 12
Embeddings = dict[str, dict[int, Any]]  # by scorer, then by number of the image: [D]
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
    name: str,
    device: str,
    precision: str,
    folder: Path,
    progress: Callable[..., None] | None = None,
    pool: Any = None,
) -> Any:
    """Load by registry name or by the name of a file in `folder`; no other path is accepted. `pool` holds the backbones
    that scorers share.

    `progress(bytes done, bytes in total or None, file name)` follows a download and may raise to stop it.
    """
    names = available(folder)
    if name not in names:
        raise errors.ModelNotFoundError(
            f"there is no scorer {name!r}; there are: {', '.join(names)}. Reward models ({', '.join(SUFFIXES)}) go into"
            f" {folder}."
        )
    models, scores = RM.available_models(), RM.available_scores()
    places = {"device": device, "precision": precision}
    if name not in models + scores:  # with a JSON beside it, any scorer's weights
        return core_module("scorers").load_scorer(folder / name, pool=pool, **places)
    have_files(name, folder, progress)
    if pool is not None:
        return core_module("scorers").load_scorer(name, models_dir=folder, pool=pool, **places)
    load = RM.load if name in models else RM.load_score
    return load(name, models_dir=folder, **places)


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


@dataclass
class Held:
    """A scorer in memory: the device it scores on (it may wait elsewhere), and all that it was made for."""

    scorer: Any
    device: str
    made_for: tuple[Any, ...]


class ScorerHolder:
    """Holds the scorers of one job. `host` answers for device, folder and progress; `load` is `load_scorer`'s
    signature, without `pool` where a scorer is alone.
    """

    def __init__(self, host: Any, load: Callable[..., Any] = load_scorer):
        self._host, self._load = host, load
        self._lock = threading.RLock()
        self._held: dict[str, Held] = {}
        self._shared: Any = None  # the backbones of a panel's scorers
        self._fell_back = False  # on the CPU for want of GPU memory, not by anybody's choice
        self._notes: list[str] = []

    # --- use -------------------------------------------------------------------------------------------------------

    def score(self, name: str, prompt: str | Sequence[str], images: Sequence[Any]) -> list[float]:
        """Scores of images for one prompt, or pair by pair for a list of prompts."""
        return self.score_by([name], prompt, images)[name]

    def score_by(
        self,
        names: Sequence[str],
        prompt: str | Sequence[str],
        images: Sequence[Any],
        embeddings: Embeddings | None = None,
    ) -> dict[str, list[float]]:
        """The same by each of these scorers. Out of GPU memory: once more on the CPU. What the networks made of the
        images on the way goes into `embeddings`, as far as they have such a thing.
        """
        prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
        with self._lock:
            self._drop(name for name in list(self._held) if name not in names)
            try:
                return self._scored(names, prompts, list(images), embeddings)
            except RuntimeError as error:
                if not _out_of_memory(error) or all(held.device == "cpu" for held in self._held.values()):
                    raise
            logger.warning("out of GPU memory while scoring; trying once more on the CPU")
            self._notes.append("the GPU was out of memory, so this was scored on the CPU")
            self.unload()
            self._fell_back = True
            return self._scored(names, prompts, list(images), embeddings, device="cpu")

    def _scored(
        self,
        names: Sequence[str],
        prompts: list[str],
        images: list[Any],
        embeddings: Embeddings | None,
        device: str | None = None,
    ) -> dict[str, list[float]]:
        batches = self._batches(names, device)
        values: dict[str, list[float]] = {}
        for batch in batches:
            if len(batches) > 1:
                self._set_aside(name for name in list(self._held) if name not in batch)
            scorers = {name: self._get(name, device, shared=len(names) > 1) for name in batch}
            with _keeping(scorers, embeddings):
                if len(names) == 1:
                    values[names[0]] = scorers[names[0]].score_pairs(prompts, images)
                else:
                    values.update(core_module("panel").score_together(scorers, prompts, images))
        return {name: values[name] for name in names}

    def _batches(self, names: Sequence[str], device: str | None) -> list[list[str]]:
        """The scorers in groups that are on the device together."""
        panel, batches = core_module("panel"), core_module("panel").by_backbone(names)
        policy = self._host.option("panel_memory")
        if len(batches) == 1 or policy == PANEL_TOGETHER:
            return [list(names)]
        if policy == PANEL_AUTO:
            place = device or self._host.device()
            missing = [name for name in names if name not in self._held or str(self._held[name].scorer.device) != place]
            options = {
                "device": place,
                "precision": self._host.option("precision"),
                "models_dir": self._host.models_dir(),
            }
            if panel.fits(missing, options):
                return [list(names)]
            self._notes.append(
                "the panel's scorers do not fit into memory together: each image has them one after another"
            )
        return batches

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
            self._drop(other for other in list(self._held) if other != name)
            self._get(name)

    def _get(self, name: str, device: str | None = None, shared: bool = False) -> Any:
        made_for = self._sources(name)
        held = self._held.get(name)
        if held is not None and held.made_for == made_for:
            wanted = device or held.device
            if str(held.scorer.device) != wanted:
                self._host.make_room(_bytes([held]), wanted)
                _move(held, wanted)
            return held.scorer
        if held is not None:
            self._drop([name])
        device = device or self._host.device()
        self._host.show_progress(f"ImageReward: loading {name}")
        try:
            with self._host.no_checkpoint_loading():
                self._host.make_room(ROOM, device)
                # the job may hold torch's grad or inference mode; weights made in those could not be moved later
                with _plain_torch():
                    scorer = self._load(
                        name,
                        device,
                        self._host.option("precision"),
                        self._host.models_dir(),
                        self._progress,
                        **({"pool": self._pool()} if shared else {}),
                    )
        finally:
            self._host.show_progress(None)
        self._held[name] = Held(scorer, device, made_for)
        return scorer

    def _pool(self) -> Any:
        if self._shared is None:
            self._shared = core_module("scorers.loading").Pool()
        return self._shared

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
            if not self._held:
                return
            # after a fallback to the CPU the next job tries the GPU again
            policy = POLICY_UNLOAD if unload or self._fell_back else self._host.option("policy")
            if policy == POLICY_AUTO:
                size = self._host.vram_gb(next(iter(self._held.values())).device)
                policy = POLICY_CPU if size is not None and size < SMALL_GPU_GB else POLICY_KEEP
            if policy == POLICY_UNLOAD:
                self.unload()
            elif policy == POLICY_CPU and any(str(held.scorer.device) != "cpu" for held in self._held.values()):
                for held in self._held.values():
                    _move(held, "cpu")
                self._host.collect_garbage()

    def unload(self) -> float:
        """Drop all scorers; returns the megabytes their weights took. Nothing loaded: 0, and no error."""
        with self._lock:
            freed = _bytes(self._held.values()) / 1e6
            self._drop(list(self._held))
            self._fell_back = False
            return freed

    def _drop(self, names: Iterable[str]) -> None:
        """Let go of these scorers, and of the backbones that no other needs."""
        dropped = [self._held.pop(name) for name in names]
        if not dropped:
            return
        used = {id(held.scorer.net) for held in self._held.values()}
        if self._shared is not None:
            self._shared.nets = {key: net for key, net in self._shared.nets.items() if id(net) in used}
        taken = _bytes(dropped)
        dropped.clear()
        if taken:
            self._host.collect_garbage()

    def _set_aside(self, names: Iterable[str]) -> None:
        """Make room on the device: these scorers wait in the computer's memory, or go where it is too small."""
        free = core_module("panel").free_memory("cpu")
        for name in names:
            held = self._held[name]
            if str(held.scorer.device) == "cpu" and held.device != "cpu":
                continue  # waits already
            if held.device == "cpu" or (free is not None and 2 * _bytes([held]) > free):
                self._drop([name])
            else:
                _move(held, "cpu")

    def status(self) -> dict[str, Any]:
        """What is loaded, where, and how large. Takes no lock: a client that asks during a download gets an answer."""
        held = dict(self._held)
        if not held:
            return {"loaded": None, "device": None, "megabytes": 0.0}
        return {
            "loaded": ", ".join(held),
            "device": str(next(iter(held.values())).scorer.device),
            "megabytes": round(_bytes(held.values()) / 1e6, 1),
        }


def _move(held: Held, device: str) -> None:
    with _plain_torch():
        held.scorer.to(device)


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


@contextlib.contextmanager
def _keeping(scorers: dict[str, Any], embeddings: Embeddings | None) -> Iterator[None]:
    """Keep what these scorers make of images within; those that are no `Scorer` of ours may keep nothing."""
    with contextlib.ExitStack() as stack:
        kept = {}
        for name, scorer in scorers.items() if embeddings is not None else ():
            if (keeping := getattr(scorer, "keeping_embeddings", None)) is not None:
                kept[name] = stack.enter_context(keeping())
        yield
        if embeddings is not None:
            embeddings.update({name: {row: one.numpy() for row, one in found.items()} for name, found in kept.items()})


def _bytes(held: Iterable[Held]) -> int:
    """What the weights take; a shared backbone counts once."""
    nets = {id(one.scorer.net): one.scorer.net for one in held if getattr(one.scorer, "net", None) is not None}
    tensors = (t for net in nets.values() for group in (net.parameters(), net.buffers()) for t in group)
    return sum(t.numel() * t.element_size() for t in tensors)


def _out_of_memory(error: RuntimeError) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()


def _default_holder() -> ScorerHolder:
    from . import host

    return ScorerHolder(host)


holder = _default_holder()
