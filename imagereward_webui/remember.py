"""What was scored and saved goes into the library, in the background, and what a score means comes out of it.

The job's thread hands over what it knows, which takes microseconds; a thread of the library's own hashes the saved
file and writes. Whatever is wrong with the library costs nothing but the memory, and is told once. Nothing is kept
before the user was told what and where, nor where several people share the host.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from . import guard
from .core import logger, plain_prompt, registry
from .core import module as core_module
from .results import Meaning

if TYPE_CHECKING:
    from .judges import Judges
    from .results import Entry

OPTION = "remember"
ANNOUNCED = "remembering was announced"  # a note in the library: the user was told
FRESH = 600.0  # seconds for which percentiles are not read anew, unless much was written
GROWTH = 0.05  # of the pictures they were read from: so much is much
LEAST = 20


@dataclass(frozen=True)
class Saved:
    """A file that the host wrote: its (bytes, mtime_ns) then, and the infotext that the host gave it."""

    path: str
    stamp: tuple[int, int]
    infotext: str | None = None


def saved_file(params: Any) -> Saved | None:
    """What the host's `on_image_saved` callback names; None where no such file is."""
    try:
        found = os.stat(params.filename)
    except (OSError, TypeError, ValueError):
        return None
    text = (getattr(params, "pnginfo", None) or {}).get("parameters")
    return Saved(str(params.filename), (found.st_size, found.st_mtime_ns), text or None)


def record_of(saved: Saved, judges: Judges, stored: Mapping[str, str], values: Mapping[str, float], **more: Any) -> Any:
    """The library's record of a saved picture from each scorer's own value. `stored` names scorers as they are named
    beside scores; more: `words` that were scored against, `embeddings` by scorer, and fields of the record.
    """
    records = core_module("library.records")
    words, embeddings = more.pop("words"), more.pop("embeddings")
    scores, features = [], []
    for name, value in values.items():
        info = judges.infos[name]
        digest = registry.weights_digest(stored[name], info)
        scores.append(records.Score(stored[name], value, digest, words if info.uses_prompt else None))
        if name in embeddings:
            features.append(records.Features(stored[name], {records.EMBEDDING: embeddings[name]}, digest))
    return records.Record(
        saved.path, tuple(scores), tuple(features), time=time.time(), stamp=saved.stamp, stored=False, **more
    )


class Waiting(Protocol):
    """An image with what waits to be remembered of it."""

    record: Any


@dataclass
class Standing:
    """A scorer's scores as they were read from the library, when, and how many records had been written by then."""

    percentiles: Any
    k: float | None
    when: float
    written: int

    @property
    def much(self) -> int:
        """So many new pictures make it out of date."""
        return max(LEAST, int(GROWTH * len(self.percentiles.all)))


class Memory:
    """This process' way to the library. `host` answers for settings; any thread may use it."""

    def __init__(self, host: Any, clock: Callable[[], float] = time.monotonic):
        self._host, self._clock = host, clock
        self._lock = threading.Lock()
        self._recorder: Any = None
        self._standings: dict[str, Standing] = {}
        self._asked: dict[str, tuple[float, int]] = {}
        self._notes: list[str] = []
        self.announced = False  # the user was told what is kept and where; until then nothing is

    @staticmethod
    def of_one_person() -> bool:
        """Whether the library may be used: it would show each account of a host the others' pictures."""
        return not guard.several_accounts()

    def wanted(self) -> bool:
        """Whether pictures are to be remembered."""
        return bool(self._host.option(OPTION)) and self.of_one_person()

    def recorder(self) -> Any:
        """The library's writer for the place where it is now."""
        place = core_module("library").library_place()
        with self._lock:
            if self._recorder is None or self._recorder.place != place:
                if self._recorder is not None:
                    self._recorder.close(0)
                self._forgotten()
                self._recorder = core_module("library").Recorder(place, say=self._say)
            return self._recorder

    def _say(self, text: str) -> None:
        logger.warning("library: %s", text)
        with self._lock:
            self._notes.append(f"library: {text}")

    def take_notes(self) -> list[str]:
        """What the user should be told since the last call."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def notice(self) -> str:
        """What is kept and where."""
        return (
            "from now on, scored pictures that are saved are remembered on this machine alone: path, digest of the"
            " pixels, size, time, prompts, seed, sampler, steps, CFG, checkpoint, LoRAs, scores and what the scorer"
            f" saw in them, in {self.recorder().place}. Settings > ImageReward > Remember scored pictures switches it"
            " off; the tab ImageReward library deletes what there is"
        )

    # --- in ----------------------------------------------------------------------------------------------------------

    def put(self, record: Any) -> None:
        """Hand a record over. The user must have been told."""
        self.recorder().remember(record)

    def hand_over(self, entries: Iterable[Waiting], where: Callable[[str], str | None] = str) -> None:
        """What waits with these images goes to the library; `where` says for a file where it is now, None if it was
        removed.
        """
        for entry in entries:
            record, entry.record = entry.record, None
            place = where(record.path) if record is not None else None
            if place is not None:
                self.put(replace(record, path=place))

    def settle(self, entries: Sequence[Waiting], where: Callable[[str], str | None] = str) -> list[str]:
        """The same at the end of a job, before which the user may not have been told; returns what to tell now."""
        first = not self.announced and any(entry.record is not None for entry in entries)
        notice = self.notice() if first else ""
        self.hand_over(entries, where)
        if first:
            self.announced = True
            self.recorder().look(_note_that_it_was_told)  # after the records: the first of them makes the file
        return [note for note in (notice, *self.take_notes()) if note]

    # --- out ---------------------------------------------------------------------------------------------------------

    def prepare(self, names: Iterable[str]) -> None:
        """Have the background read what is needed to place scores of these scorers, as they are named beside scores."""
        recorder = self.recorder()
        stale = [name for name in names if self._is_stale(name, recorder.written)]
        if not stale and self.announced:
            return
        now, written = self._clock(), recorder.written
        self._asked.update(dict.fromkeys(stale, (now, written)))

        def read(library: Any) -> None:
            self.announced = self.announced or bool(library.query("SELECT 1 FROM notes WHERE name = ?", (ANNOUNCED,)))
            for name in stale:
                percentiles = core_module("library.meaning").of_scorer(library, name)
                if percentiles is not None:
                    k = core_module("library.meaning").known_k(name, library)
                    self._standings[name] = Standing(percentiles, k, now, written)

        recorder.look(read)

    def _is_stale(self, name: str, written: int) -> bool:
        asked, standing = self._asked.get(name), self._standings.get(name)
        if asked is None or self._clock() - asked[0] > FRESH:
            return True
        return written - asked[1] >= (standing.much if standing else LEAST)

    def place(self, name: str, score: float, checkpoint: tuple[str | None, str | None]) -> Any:
        """The percentile of a score among the user's own pictures, or None. `checkpoint`: (name, hash)."""
        standing = self._standings.get(name)
        return None if standing is None else standing.percentiles.of(score, *checkpoint)

    def k(self, name: str) -> float | None:
        """How a difference of this scorer's scores becomes a probability; None where nobody has fitted it."""
        standing = self._standings.get(name)
        return core_module("library.meaning").known_k(name) if standing is None else standing.k

    def mean(
        self,
        entries: Sequence[Entry],
        judges: Judges,
        stored: Mapping[str, str],
        checkpoint: tuple[str | None, str | None],
    ) -> None:
        """Say of each of these images what its scores mean."""
        for entry in entries:
            values = own_values(entry, judges)
            found = {name: self.place(stored[name], value, checkpoint) for name, value in values.items()}
            entry.means(Meaning({name: place for name, place in found.items() if place is not None}))
        if judges.is_panel:
            return
        k = self.k(stored[judges.names[0]])
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.score is not None:
                groups.setdefault(plain_prompt(entry.prompt), []).append(entry)
        for group in groups.values():
            for entry in group if len(group) > 1 else ():
                other = max(one.score for one in group if one is not entry and one.score is not None)
                win = core_module("library.meaning").win_probability((entry.score or 0.0) - other, k)
                entry.means(replace(entry.meaning, win=win, compared=True))

    # --- away --------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the library with everything that waits. Raises LibraryError."""
        recorder = self.recorder()
        try:
            recorder.forget()
        finally:
            with self._lock:
                self._forgotten()

    def _forgotten(self) -> None:
        self._standings, self._asked, self.announced = {}, {}, False

    def close(self) -> None:
        """Write what waits and give the file back: this package is about to be loaded anew."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None


def own_values(entry: Entry, judges: Judges) -> dict[str, float]:
    """Each scorer's own value of an image; of a panel's without the common one."""
    if judges.is_panel:
        return dict(entry.by_scorer)
    return {} if entry.score is None else {judges.names[0]: entry.score}


def _note_that_it_was_told(library: Any) -> None:
    with library.transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO notes (name) VALUES (?)", (ANNOUNCED,))


def _memory() -> Memory:
    from . import host

    return Memory(host)


memory = _memory()
