"""One job: everything between the host's before_process and postprocess, for one call of process_images.

All state hangs on the host's `p` (scripts are shared by every request and by nested calls). The job asks its `host`
for anything that depends on the host, and its `holder` for scores; both are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from . import results
from .core import logger, plain_prompt
from .files import FileKeeper
from .infotext import (
    ALL_KEYS,
    PERCENTILE_KEY,
    RESULT_KEY,
    format_score,
    percentile_score,
    score_key,
    score_writer,
    settings,
    without_keys,
)
from .request import ScoreRequest
from .results import Entry, Misaligned

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
        on_result: Callable[[Any, ScoreRequest, list[Entry]], Any] | None = None,
    ):
        """`keep_all`: why this job must not be filtered, or ""; `script`: the dropdown script's title if it started
        this; `on_result`: called with all entries when the job is done.
        """
        self.request, self.host, self.holder, self.on_result = request, host, holder, on_result
        self.entries: dict[tuple[int, int], Entry] = {}
        self.notes: list[str] = []
        self.script = script
        self.closed = self.broken = self.stopped = self.joined = False
        OPEN.add(self)
        self.files = FileKeeper(request.low_images, host.option("low_subfolder"), host.writes_text_files())
        self.rearranges = request.rearranges and not keep_all
        if keep_all and request.rearranges:
            self.notes.append(f"not filtered or sorted: {keep_all}")
        self._restore: dict[str, Any] = {}
        if self.rearranges:
            # the host builds its grid before it hands the result over, from everything; ours is built afterwards
            self._set(p, "do_not_save_grid", True)
        if self.repeats:
            self._set(p, "n_iter", request.max_batches)

    @property
    def repeats(self) -> bool:
        return self.request.repeats and self.rearranges

    def _set(self, p: Any, name: str, value: Any) -> None:
        self._restore.setdefault(name, getattr(p, name))
        setattr(p, name, value)

    # --- infotext --------------------------------------------------------------------------------------------------

    def announce(self, p: Any) -> None:
        """Put the score's writers and the settings where the host builds infotexts from."""
        request, option = self.request, self.host.option
        decimals = int(option("decimals"))
        params = p.extra_generation_params
        params.update(settings(request))
        if self.script:
            params["Script"] = self.script
        key = score_key(request.scorer, option("key"))
        params[key] = score_writer(lambda p: self._text(p, lambda score: format_score(score, decimals)))
        # so that `imagereward score` knows whose score this is, and does not compute it again
        params[f"{key} model"] = score_writer(lambda p: self._text(p, lambda score: request.scorer))
        if option("write_aesthetic_score") and request.scorer not in ("CLIP", "BLIP"):
            scale = (lambda score: f"{score:.1f}") if request.scorer == "Aesthetic" else percentile_score
            params[PERCENTILE_KEY] = score_writer(lambda p: self._text(p, scale))

    def _text(self, p: Any, form: Any) -> str | None:
        entry = None if self.closed or self.joined else self.entries.get((p.iteration, p.batch_index))
        return None if entry is None or entry.score is None else form(entry.score)

    # --- scoring ---------------------------------------------------------------------------------------------------

    def enough(self) -> bool:
        """Whether a job that repeats should end: enough images passed, or the user pressed Skip (Interrupt ends it
        anyway).
        """
        if not self.repeats:
            return False
        if self.stopped:
            return True
        return (
            sum(e.score is not None and self.request.passes(e.score) for e in self.entries.values())
            >= self.request.wanted
        )

    def score(self, p: Any, image: Any) -> None:
        """Score one finished image. Whatever goes wrong, the image stays, unscored, and the user is told once."""
        i = p.batch_index
        entry = Entry(p.iteration, i, p.prompts[i], p.negative_prompts[i], p.seeds[i], p.subseeds[i], image)
        self.entries[p.iteration, i] = entry
        self.stopped = self.stopped or self.host.interrupted()  # the host forgets a Skip before the next batch
        if self.broken:
            return
        try:
            entry.score = self.holder.score(self.request.scorer, plain_prompt(entry.prompt), [image])[0]
        except Exception as error:  # noqa: BLE001 - anything: the host swallows it, and the user would never learn why
            self.broken = True
            logger.warning("image not scored: %s", error, exc_info=not _expected(error))
            self.notes.append(f"not scored: {error}")
        self.notes += [note for note in self.holder.take_notes() if note not in self.notes]

    def current(self, p: Any, image: Any) -> Entry | None:
        """The entry whose file the host is saving now, or None for grids, masks and intermediate images."""
        entry = self.entries.get((getattr(p, "iteration", -1), getattr(p, "batch_index", -1)))
        return entry if entry is not None and entry.image is image and not self.closed else None

    def join(self, images: Iterable[Any]) -> None:
        """The host joins `images` to a grid: if they are this job's, all it asks for from now on is the grid's text.

        reForge asks for that as if it were an image's, and hides it in the pixels before a callback could mend it.
        """
        ours = {id(entry.image) for entry in self.entries.values()}
        self.joined = self.joined or any(id(image) in ours for image in images)

    # --- the result ------------------------------------------------------------------------------------------------

    def finish(self, p: Any, processed: Any) -> None:
        """Filter, sort, rebuild the grid, deal with the files of hidden images, report; then undo what was set on
        `p`.
        """
        try:
            self._finish(p, processed)
        finally:
            self.closed = True
            OPEN.discard(self)
            self.entries.clear()  # the writers left in the infotext dict must not keep the images alive
            for name, value in self._restore.items():
                setattr(p, name, value)
            self.holder.after_job(unload=self.request.unload)

    def _finish(self, p: Any, processed: Any) -> None:
        entries = [self.entries[key] for key in sorted(self.entries)]
        kept = list(range(len(entries)))
        shown = [entry.image for entry in entries]
        if self.rearranges and entries:
            order = self.request.keep([entry.score for entry in entries])
            try:
                shown = results.rearrange(processed, entries, order, self.host.masks_per_image(p))
                kept = order
            except Misaligned as reason:
                self.notes.append(f"not filtered or sorted: {reason}")
            hidden = [entry for k, entry in enumerate(entries) if k not in set(kept)]
            self.notes += self.files.settle(hidden)
        if self.rearranges and shown and not self._restore["do_not_save_grid"]:
            self._rebuild_grid(p, processed, shown)
        elif processed.index_of_first_image == 1:
            self._clean_grid_text(processed)
        if self.on_result:
            self.on_result(p, self.request, entries)
        self._report(processed, entries, kept)

    def _rebuild_grid(self, p: Any, processed: Any, shown: list[Any]) -> None:
        """The grid of what is shown. Where the host can't write it (Forge's stealth mode "RGB" fails on every grid),
        the result goes on without one and says so.
        """
        try:
            grid, text = self.host.build_grid(p, shown)
        except Exception as error:  # noqa: BLE001 - the host's own code and callbacks run here; images and report must not be lost
            logger.warning("no grid: %s", error)
            self.notes.append(f"no grid: {error}")
            return
        if grid is not None:
            results.insert_grid(processed, grid, text)

    def _clean_grid_text(self, processed: Any) -> None:
        """On reForge, the last score still stands in the grid's text if another script replaced every image after it
        was scored.
        """
        key = score_key(self.request.scorer, self.host.option("key"))
        text = without_keys(processed.infotexts[0], (key, f"{key} model", PERCENTILE_KEY))
        if text != processed.infotexts[0]:
            processed.infotexts = [text, *processed.infotexts[1:]]
            processed.info = text
            if processed.images and "parameters" in getattr(processed.images[0], "info", {}):
                processed.images[0].info["parameters"] = text

    def _why_empty(self, entries: list[Entry]) -> str:
        """What to tell a user who looks at an empty gallery: why, what to do, and where the images are."""
        best = max(entry.score for entry in entries if entry.score is not None)
        text = (
            f"Nothing to show: the best of {len(entries)} has {best:.2f}, and the limit is {self.request.limit:g}."
            " Lower the limit, or switch the filter off."
        )
        return f"{text} {where}" if (where := self.files.whereabouts(entries)) else text

    def _report(self, processed: Any, entries: list[Entry], kept: list[int]) -> None:
        filtered = self.rearranges and self.request.filters
        line = results.summary(entries, len(kept), filtered)
        if self.repeats:
            line += " · " + results.yield_summary(entries, kept)
        empty = self._why_empty(entries) if filtered and entries and not kept else ""
        for text in filter(None, (line, empty, *self.notes)):
            processed.comments += f"ImageReward: {text}\n"
        # a copy: the original belongs to the job, and the next grid cell would carry this in its infotext
        processed.extra_generation_params = {
            **processed.extra_generation_params,
            RESULT_KEY: {
                "scorer": self.request.scorer,
                "scores": results.gallery_scores(processed, entries),
                "scored": sum(entry.score is not None for entry in entries),
                "kept": len(kept),
                "hidden": len(entries) - len(kept),
                "summary": line,
                "empty": empty,
                "notes": list(self.notes),
            },
        }


def refuse(processed: Any, reason: str) -> None:
    """Tell API clients, who see no comments, why nothing was scored."""
    result = {"scores": [], "scored": 0, "notes": [reason]}
    processed.extra_generation_params = {**processed.extra_generation_params, RESULT_KEY: result}


def clear(p: Any, own_key: str) -> None:
    """Remove our pairs: `p` and its dict are used again by batches and grid cells, and must not carry an old score."""
    for key in (
        *ALL_KEYS,
        own_key,
        score_key("", own_key),
        "CLIP score",
        "BLIP score",
        "Aesthetic score",
        PERCENTILE_KEY,
    ):
        if callable(p.extra_generation_params.get(key)) or key in ALL_KEYS:
            p.extra_generation_params.pop(key, None)


def _expected(error: Exception) -> bool:
    from .core import errors

    return isinstance(error, errors.ImageRewardError)
