"""Scripts that call process_images themselves: each call is a job, and their own result is what the user sees.

Most of them put the images of their calls together in places of their own (grids, tiles, loops), so nothing may be
filtered there; what became of all jobs is told once, on the script's result. *Prompts from file* only strings the calls
together: there each prompt's images are filtered like any job's, or all of them at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import host, report, results
from .core import logger
from .infotext import DROPDOWN_TITLE
from .remember import memory
from .report import Outcome
from .results import Entry

SESSION = "_imagereward_session"
INDEPENDENT = ("prompts_from_file.py",)  # scripts that need no image in a fixed place; titles differ between hosts
WATCHED = "imagereward_original"
OnJob = Callable[[Any, Any, "list[Entry]", Any], None]
Tell = Callable[[], str]


class Session:
    """One run of such a script. Jobs add what became of them; `conclude` tells it on the script's result.

    `on_job(p, request, entries, processed)` is called when a job's images are scored, `tell()` gives a last sentence.
    """

    def __init__(self, title: str, independent: bool, on_job: OnJob | None = None, tell: Tell | None = None):
        self.title, self.independent, self.on_job, self.tell = title, independent, on_job, tell
        self.outcomes: list[Outcome] = []
        self.masks = 0
        self.refused = ""
        self.files: Any = None
        self.memory: dict[Any, Any] = {}  # pictures that a later cell of a plot may use again
        self.last: list[Entry] = []  # the last job's images

    def add(self, outcome: Outcome, files: Any, masks: int) -> None:
        """A job is done: `files` keeps the files of what it hides, `masks` follow each of its images. Images are held
        only where they may yet be filtered.
        """
        self.outcomes.append(outcome)
        self.files, self.masks = files, masks
        self.last = [replace(entry) for entry in outcome.entries]
        shown = set(outcome.kept) if self.independent else set()
        for k, entry in enumerate(outcome.entries):
            if k not in shown:
                entry.image = None

    def conclude(self, processed: Any) -> Any:
        """The script's result, with what it should say. A script may return anything; what is no result stays so."""
        self.memory, self.last = {}, []
        if not hasattr(processed, "images") or not hasattr(processed, "comments"):
            return processed
        if not self.outcomes:
            if self.refused:
                report.refuse(processed, self.refused)
            return processed
        outcome = report.merged(self.outcomes)
        if self.independent:
            self._put_together(processed, outcome)
        if self.tell is not None and (text := self.tell()):
            outcome.notes.append(text)
        outcome.publish(processed)
        return processed

    def _put_together(self, processed: Any, outcome: Outcome) -> None:
        """Filter over all prompts if that is asked for; either way the lists beside the images are made to follow them,
        which the script itself does only in part.
        """
        shown = [outcome.entries[k] for k in outcome.kept]
        if not shown:
            return
        processed.index_of_first_image = _first(processed.images, shown[0].image)
        if outcome.later:
            outcome.kept, _, notes = report.sift(
                processed,
                outcome.request,
                shown,
                files=self.files,
                masks=self.masks,
                decimals=int(host.option("decimals")),
            )
            outcome.notes += [*notes, *memory.settle(outcome.entries, self.files.place)]
            outcome.where = self.files.whereabouts(report.hidden_of(shown, outcome.kept))
            return
        try:
            results.rearrange(processed, shown, range(len(shown)), self.masks)
        except results.Misaligned as reason:
            logger.debug("%s: %s", self.title, reason)


def _first(images: list[Any], image: Any) -> int:
    """Where the first picture stands: hosts put a combined picture of all before it."""
    return next((i for i, other in enumerate(images) if other is image), 0)


def of(p: Any) -> Session | None:
    """The session that a job belongs to: scripts hand copies of their own `p` to process_images."""
    return getattr(p, SESSION, None)


def watch_scripts() -> None:
    """Have every selectable script but ours open a session when it runs (a callback of `on_before_ui`: the host has
    loaded all scripts, and has made none yet). Its classes are new ones after each Reload UI.
    """
    scripts = host.module("scripts")
    for data in scripts.scripts_data:
        script_class = data.script_class
        if not issubclass(script_class, scripts.Script) or _is_ours(script_class):
            continue
        if script_class.run is not scripts.Script.run:
            watch(script_class)


def _is_ours(script_class: type) -> bool:
    return script_class.__module__.partition(".")[0] == __name__.partition(".")[0]


def watch(script_class: Any, on_job: OnJob | None = None, tell: Tell | None = None) -> None:
    """Have a script open a session when it runs; the arguments are the session's."""
    original = getattr(script_class.run, WATCHED, script_class.run)

    @functools.wraps(original)
    def run(self: Any, p: Any, *args: Any, **kwargs: Any) -> Any:
        session = Session(self.title(), script_class.__module__ in INDEPENDENT, on_job, tell)
        setattr(p, SESSION, session)
        try:
            return session.conclude(original(self, p, *args, **kwargs))
        finally:
            setattr(p, SESSION, None)

    setattr(run, WATCHED, original)
    script_class.run = run


def rival_scripts() -> list[str]:
    """Files of other scripts that bear our dropdown script's title (THUDM's own is one): the API finds scripts by
    title, and would reach theirs.
    """
    scripts = host.module("scripts")
    found = []
    for data in scripts.scripts_data:
        if not issubclass(data.script_class, scripts.Script) or _is_ours(data.script_class):
            continue
        try:
            title = data.script_class().title()
        except Exception:  # noqa: BLE001 - another program's code; the host reports what is wrong with it
            continue
        if str(title).lower() == DROPDOWN_TITLE.lower():
            found.append(str(data.path))
    return found
