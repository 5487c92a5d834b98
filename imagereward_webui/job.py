"""One job: everything between the host's before_process and postprocess, for one call of process_images.

All state hangs on the host's `p` (scripts are shared by every request and by nested calls). The job asks its `host`
for anything that depends on the host, and its `holder` for scores; both are passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from . import report, results
from .core import ImageRewardError, logger, plain_prompt, with_settings
from .fields import FILTER_NONE, FILTER_SCORE, OVER_ALL
from .files import FileKeeper
from .infotext import ALL_KEYS, settings, usable_key
from .judges import Judges, judges_of, stored_name
from .remember import own_values, record_of, saved_file
from .report import Outcome
from .request import ScoreRequest
from .results import Entry
from .score_text import ScoreText, is_writer

# jobs under way, for the one callback of the host that names images but no `p`
OPEN: WeakSet[Job] = WeakSet()


def images_joined(params: Any) -> None:
    """The host's callback before it joins images to a grid."""
    for job in list(OPEN):
        job.join(params.imgs)


class Job:
    """Scores the images of one process_images call and rearranges its result."""

    def __init__(
        self,
        p: Any,
        request: ScoreRequest,
        host: Any,
        holder: Any,
        *,
        keep_all: str = "",
        script: str = "",
        session: Any = None,
        memory: Any = None,
    ):
        """`keep_all`: why this job must not be filtered, or ""; `script`: the dropdown script's title if it started
        this; `session`: the run of another script that this job is a part of; `memory`: the way to the library, None
        where this host has none.
        """
        self.host, self.holder, self.memory = host, holder, memory
        self.script, self.session = script, session
        self.entries: dict[tuple[int, int], Entry] = {}
        self.notes: list[str] = []
        self.judges = self._judges(request)
        if request.filter_by == FILTER_SCORE and not self.judges.absolute:
            self.notes.append(self.judges.no_limit)
            request = replace(request, filter_by=FILTER_NONE)
        self.request = request
        self.closed = self.broken = self.stopped = False
        self.frame: int | None = None  # the one image of a video that is scored
        self.decimals = int(host.option("decimals"))
        self.files = FileKeeper(request.low_images, host.option("low_subfolder"), host.writes_text_files())
        self.filtered = request.rearranges and not keep_all
        self.rearranges = self.filtered and not (session is not None and request.over == OVER_ALL)
        if keep_all and request.rearranges:
            self.notes.append(f"not filtered or sorted: {keep_all}")
        self.text = self._score_text()
        self.stored = {name: stored_name(name, host.models_dir()) for name in self.judges.names}
        self.remembers = memory is not None and memory.wanted()
        if memory is not None:
            memory.prepare(self.stored.values())
        self._restore: dict[str, Any] = {}
        if self.rearranges:
            # the host builds its grid before it hands the result over, from everything; ours is built afterwards
            self._set(p, "do_not_save_grid", True)
        if self.repeats:
            self._set(p, "n_iter", request.max_batches)
        OPEN.add(self)

    @property
    def repeats(self) -> bool:
        """Whether the job goes on until enough images pass."""
        return self.request.repeats and self.filtered

    def _set(self, p: Any, name: str, value: Any) -> None:
        self._restore.setdefault(name, getattr(p, name))
        setattr(p, name, value)

    def _put_back(self, p: Any) -> None:
        for name, value in self._restore.items():
            setattr(p, name, value)

    # --- infotext --------------------------------------------------------------------------------------------------

    def _judges(self, request: ScoreRequest) -> Judges:
        own_key, problem = usable_key(self.host.option("key"), self.host.infotext_names())
        if problem:
            self.notes.append(f'the setting "Name of the score in the infotext" is not used: {problem}')
        folder = self.host.models_dir()
        return judges_of(request.scorers, bool(request.panel), folder, own_key, request.constants)

    def _score_text(self) -> ScoreText:
        return ScoreText(
            self.entries,
            judges=self.judges,
            model=lambda name: stored_name(name, self.host.models_dir()),
            decimals=self.decimals,
            browser=bool(self.host.option("write_aesthetic_score")),
        )

    def announce(self, p: Any) -> None:
        """Put the score's writers and the settings where the host builds infotexts from."""
        params = p.extra_generation_params
        params.update(settings(self.request, self.filtered))
        if self.script:
            params["Script"] = self.script
        params.update(self.text.pairs())

    def keep_frames(self, p: Any, frame: int | None) -> None:
        """The job turned out to be a video: its images are frames. One of them is scored, or none; none is hidden or
        moved, and nothing is ordered.
        """
        self.frame = -1 if frame is None else frame
        if self.filtered:
            self.notes.append("not filtered or sorted: the frames of a video belong together")
        if "n_iter" in self._restore:
            p.n_iter = self._restore["n_iter"]
        self.filtered = self.rearranges = False  # and no grid: the host makes none of frames either

    # --- scoring ---------------------------------------------------------------------------------------------------

    def enough(self) -> bool:
        """Whether a job that repeats should end: enough images passed, or the user pressed Skip (Interrupt ends it
        anyway), or scoring failed and the batches of a job that does not repeat are made.
        """
        if not self.repeats:
            return False
        if self.broken:  # no image can pass any more
            return len({iteration for iteration, _ in self.entries}) >= self._restore["n_iter"]
        passed = [
            e for e in self.entries.values() if e.score is not None and self.request.passes(e.score, self.decimals)
        ]
        return self.stopped or len(passed) >= self.request.wanted

    def score(self, p: Any, image: Any) -> None:
        """Score one finished image. Whatever goes wrong, the image stays, unscored, and the user is told once."""
        i = p.batch_index
        if self.frame is not None and i != self.frame:
            return
        entry = Entry(p.iteration, i, p.prompts[i], p.negative_prompts[i], p.seeds[i], p.subseeds[i], image)
        entry.unfinished = self.host.cut_short()
        self.stopped = self.stopped or self.host.interrupted()  # the host forgets a Skip before the next batch
        self.score_entry(entry)

    def score_entry(self, entry: Entry) -> None:
        """The same for an image whose particulars are known."""
        self.entries[entry.iteration, entry.batch_index] = entry
        if self.broken or entry.unfinished:
            return
        try:
            words = plain_prompt(entry.prompt)
            seen: dict[str, dict[int, Any]] | None = {} if self.remembers else None
            found = self.holder.score_by(self.judges.names, words, [entry.image], seen)
            entry.take(self.judges.at_once(words, found))
            entry.embeddings = {name: rows[0] for name, rows in (seen or {}).items() if rows}
        except Exception as error:  # noqa: BLE001 - anything: the host swallows it, and the user would never learn why
            self.broken = True
            logger.warning("image not scored: %s", error, exc_info=not isinstance(error, ImageRewardError))
            self.notes.append(f"not scored: {error}")
        self.notes += [note for note in self.holder.take_notes() if note not in self.notes]

    def current(self, p: Any, image: Any) -> Entry | None:
        """The entry whose file the host is saving now, or None for grids, masks and intermediate images."""
        entry = self.entries.get((getattr(p, "iteration", -1), getattr(p, "batch_index", -1)))
        return entry if entry is not None and entry.image is image and not self.closed else None

    def image_saved(self, p: Any, entry: Entry, params: Any) -> None:
        """The host has written this image's file. It is handed to the library at once where it stays as it is and the
        user was told; else when the job is over.
        """
        entry.path = params.filename
        if self.remembers:
            entry.saved = saved_file(params)
            self.remember(p, entry)
            if self.memory.announced and not self.files.acts:
                self.memory.hand_over([entry])

    def remember(self, p: Any, entry: Entry) -> None:
        """Note what is to be remembered of an image, if it was scored and saved."""
        values = own_values(entry, self.judges)
        if not self.remembers or entry.saved is None or not values:
            return
        entry.record = record_of(
            entry.saved,
            self.judges,
            self.stored,
            values,
            words=plain_prompt(entry.prompt),
            embeddings=entry.embeddings,
            infotext=entry.saved.infotext,
            made=self.host.making(p, entry.prompt, entry.negative_prompt, entry.seed),
        )

    def join(self, images: Iterable[Any]) -> None:
        """The host joins `images` to a grid: if they are this job's, all it asks for from now on is the grid's text.

        reForge asks for that as if it were an image's, and hides it in the pixels before a callback could mend it.
        """
        ours = {id(entry.image) for entry in self.entries.values()}
        self.text.silent = self.text.silent or any(id(image) in ours for image in images)

    # --- the result ------------------------------------------------------------------------------------------------

    def finish(self, p: Any, processed: Any) -> None:
        """Filter, sort, rebuild the grid, deal with the files of hidden images, report; then undo what was set on
        `p`.
        """
        try:
            outcome = self._finish(p, processed)
            if self.remembers and not (outcome.later and self.files.acts):
                outcome.notes += self.memory.settle(outcome.entries, self.files.place)
            if self.session is None:
                outcome.publish(processed)
            else:
                self.session.add(outcome, self.files, self.host.masks_per_image(p))
        finally:
            self.closed = self.text.silent = True
            OPEN.discard(self)
            self.entries.clear()  # the writers left in the infotext dict must not keep the images alive
            self._put_back(p)
            self.holder.after_job(unload=self.request.unload)

    def rank(self) -> None:
        """Where ranks count: the images are complete, and take theirs."""
        entries = [self.entries[key] for key in sorted(self.entries) if self.entries[key].by_scorer]
        if self.judges.absolute or not entries:
            return
        own = {name: [entry.by_scorer[name] for entry in entries] for name in self.judges.names}
        for entry, judged in zip(entries, self.judges.judged([plain_prompt(entry.prompt) for entry in entries], own)):
            entry.take(judged)

    def _finish(self, p: Any, processed: Any) -> Outcome:
        self.rank()
        entries = [self.entries[key] for key in sorted(self.entries)]
        if self.memory is not None:
            self.memory.mean(entries, self.judges, self.stored, self.host.checkpoint(p))
        kept, shown = list(range(len(entries))), [entry.image for entry in entries]
        if self.rearranges and entries:
            masks = self.host.masks_per_image(p)
            kept, shown, notes = report.sift(
                processed, self.request, entries, files=self.files, masks=masks, decimals=self.decimals
            )
            self.notes += notes
        if self.rearranges and shown and not self._restore["do_not_save_grid"]:
            self._rebuild_grid(p, processed, shown)
        elif processed.index_of_first_image == 1:
            self._clean_grid_text(processed)
        if self.session is not None and self.session.on_job is not None:
            self.session.on_job(p, self.request, entries, processed)
        return Outcome(
            self.request,
            self.judges,
            entries,
            kept,
            filtered=self.filtered and self.request.filters,
            searched=self.repeats,
            where=self.files.whereabouts(report.hidden_of(entries, kept)) if self.rearranges else "",
            notes=self.notes,
            later=self.filtered and not self.rearranges,
        )

    def _rebuild_grid(self, p: Any, processed: Any, shown: list[Any]) -> None:
        """The grid of what is shown. Where the host can't write it (Forge's stealth mode "RGB" fails on every grid),
        the result goes on without one and says so.
        """
        try:
            grid, text = self.host.build_grid(p, shown)
        except Exception as error:  # noqa: BLE001 - the host's code and callbacks: images and report must not be lost
            logger.warning("no grid: %s", error)
            self.notes.append(f"no grid: {error}")
            return
        if grid is not None:
            results.insert_grid(processed, grid, text)

    def _clean_grid_text(self, processed: Any) -> None:
        """On reForge, the last score still stands in the grid's text if another script replaced every image after it
        was scored.
        """
        text = with_settings(processed.infotexts[0], dict.fromkeys(self.text.pairs()))
        if text != processed.infotexts[0]:
            processed.infotexts = [text, *processed.infotexts[1:]]
            processed.info = text
            if processed.images and "parameters" in getattr(processed.images[0], "info", {}):
                processed.images[0].info["parameters"] = text


def clear(p: Any) -> None:
    """Remove our pairs: `p` and its dict are used again by batches and grid cells, and must not carry an old score."""
    params = p.extra_generation_params
    for key in [key for key, value in params.items() if key in ALL_KEYS or is_writer(value)]:
        del params[key]
