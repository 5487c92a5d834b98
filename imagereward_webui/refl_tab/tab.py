"""The tab "ReFL": gradio components, so that it looks and behaves like the host in gradio 3 and 4, light and dark.

What changes by itself is fetched by a heartbeat in the page. gradio calls functions by their number, so a page that was
left open over a Reload UI would press other buttons: it may click only while the page that it was part of is the one
being served, which `boot` tells.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import Any

import gradio as gr
from fastapi import HTTPException

from .. import host
from ..core import ImageRewardError
from ..guard import Alone
from . import api, form_page, picks, rewards, view
from . import host as refl_host
from .api import PREFIX, TOKEN
from .codecs import FROM_PICKS, learns_picks
from .form import BY_NAME, usual_guidance
from .form_page import Form
from .run_page import QUIET, RunView, looked

TITLE, ELEM_ID, ID = "ReFL", "imagereward_refl", "imagereward_refl_"
Update = Any

_estimating = contextmanager(Alone("an estimate").__call__)


def tabs() -> list[tuple[Any, str, str]]:
    """The host's `on_ui_tabs` callback."""
    api.boot = secrets.token_urlsafe(9)
    with gr.Blocks(analytics_enabled=False) as tab:
        with gr.Row(elem_id=ID + "panel"):
            with gr.Column(min_width=320, elem_id=ID + "left"):
                libraries = gr.HTML(view.libraries(api.installer.status()), elem_id=ID + "libraries")
                missing = bool(api.installer.status()["missing"])
                install = gr.Button("Install training libraries", visible=missing, elem_id=ID + "install")
                form = Form()
            with gr.Column(min_width=320, elem_id=ID + "right"):
                runs = RunView()
        runs.boot.value = boot_html(api.boot)
        Actions(form, runs, libraries, install).connect()
    for block in getattr(tab, "blocks", {}).values():
        block.do_not_save_to_config = True  # else the host's ui-config.json freezes our defaults
    return [(tab, TITLE, ELEM_ID)]


def boot_html(boot: str) -> str:
    """What the heartbeat needs: which page this is, the routes, and the token for them."""
    return (
        f'<span data-boot="{view.text(boot)}" data-prefix="{view.text(PREFIX)}" data-token="{view.text(TOKEN)}"'
        ' role="alert"></span>'
    )


def _listed(name: str, text: str | None, shown: str | None) -> Update:
    """The list of a field with its marks; its value only where another is shown."""
    value = {} if text == shown else {"value": text}
    return gr.update(choices=form_page.marked_choices(name), **value)


class Actions:
    """What happens when a button is pressed. Every function returns updates and raises nothing the user could mend."""

    def __init__(self, form: Form, runs: RunView, libraries: Any, install: Any):
        self.form, self.runs, self.libraries, self.install = form, runs, libraries, install

    # --- the form --------------------------------------------------------------------------------------------------

    def start(self, memory: str, chosen: str | None, keep: bool, far: str, source: str, *values: Any) -> list[Update]:
        """Queue a run and show it."""
        try:
            settings = form_page.checked(form_page.settled(self.form.settings(source, *values), far))
            chosen = api.start_run(settings, bool(keep))
            download = "" if learns_picks(settings) else rewards.note(settings["reward"])
            said = view.note(f"Run {chosen} is started. {download}".strip(), "good")
        except ImageRewardError as error:
            said = view.note(str(error), "error")
        return [said, *self.runs.refresh(memory, chosen)]

    def estimate(self, source: str, *values: Any) -> str:
        """The memory of the run that the form describes; needs no prompts."""
        settings = self.form.settings(source, *values)
        try:
            with _estimating():
                found = view.estimate(api.estimated(settings))
        except HTTPException as error:
            return view.note(str(error.detail), "warning")
        except ImageRewardError as error:
            return view.note(str(error), "error")
        if learns_picks(settings):
            return found + picks.note(settings)
        return found + view.note(rewards.note(settings["reward"]), "warning")

    def begin_estimate(self) -> str:
        """What stands there while it is computed."""
        return view.note("Computing: the training step runs on tensors without data …")

    def budget(self, name: str, title: str | None) -> list[Update]:
        """Fill in what "how far" decides."""
        decided = form_page.budget(name, title)
        return [gr.update(value=decided[field]) for field in ("steps", "learning_rate", "held_out")]

    def chosen(self, name: str, title: str | None) -> list[Update]:
        """Another checkpoint: what it is, and what follows from its family."""
        path = refl_host.checkpoint_path(form_page.meant("checkpoint", title))
        family = form_page.checkpoints.family(path)
        guidance = refl_host.guidance() or usual_guidance(family)
        return [form_page.about(title or ""), gr.update(value=guidance), *self.budget(name, title)]

    def refresh_checkpoints(self, title: str | None) -> list[Update]:
        """The host's list anew; where nothing is chosen, what the host has selected."""
        refl_host.refresh_checkpoints()
        known = {item["title"] for item in refl_host.checkpoints()}
        title = form_page.meant("checkpoint", title)
        kept = title if title in known else refl_host.selected_checkpoint()
        return [self._checkpoints(kept), form_page.about(kept)]

    @staticmethod
    def _checkpoints(title: str) -> Update:
        value = form_page.shown("checkpoint", title) if title else None
        return gr.update(choices=form_page.marked_choices("checkpoint"), value=value)

    def load_file(self, file: Any, source: str) -> list[Update]:
        """The prompts of a file into the box."""
        if file is None:
            return [gr.update(), gr.update()]
        try:
            text = form_page.read_file(file)
        except ImageRewardError as error:
            return [gr.update(), view.note(str(error), "error")]
        return [gr.update(value=text), form_page.prompts_note(source, text)]

    def our_prompts(self, source: str) -> list[Update]:
        """The prompts that a new page begins with."""
        text = form_page.STARTER.read_text(encoding="utf-8").strip()
        return [gr.update(value=text), form_page.prompts_note(source, text)]

    def of_source(self, source: str, text: str) -> list[Update]:
        """Which prompts are learnt from."""
        return [gr.update(visible=source != form_page.IMAGES), form_page.prompts_note(source, text)]

    def learning_from(self, learn: str, taste: str | None, file: str | None) -> list[Update]:
        """What is shown for a reward, or for picks, and the tastes that have picks."""
        of_picks = learn == FROM_PICKS
        known = list(dict.fromkeys([*picks.tastes(), *filter(None, [taste])])) if of_picks else []
        choices = gr.update(choices=known, value=taste or known[0]) if of_picks else gr.update()
        told = self.picked(taste, file) if of_picks else ""
        return [gr.update(visible=not of_picks), gr.update(visible=of_picks), choices, told]

    def picked(self, taste: str | None, file: str | None) -> str:
        """How many picks there are, and whether they suffice."""
        return picks.note({"picks": taste or "", "picks_file": file or ""})

    def clone(self, run_id: str | None) -> list[Update]:
        """A run's settings into the form."""
        try:
            return ["", *self.form.filled(form_page.of_run(str(run_id)))]
        except ImageRewardError as error:
            return [view.note(str(error), "error"), *self.form.filled({})]

    # --- saved settings --------------------------------------------------------------------------------------------

    def save(self, name: str, source: str, *values: Any) -> list[Update]:
        """Keep the advanced settings under a name."""
        try:
            form_page.store().save(name or "", form_page.kept_settings(self.form.settings(source, *values)))
        except ImageRewardError as error:
            return [gr.update(), view.note(str(error), "error")]
        name = name.strip()
        return [gr.update(choices=form_page.saved_names(), value=name), view.note(f"Saved as {name}.")]

    def load(self, name: str | None) -> list[Update]:
        """Fill in settings that were saved."""
        try:
            found = form_page.store().all().get(name or "")
        except ImageRewardError as error:
            return [view.note(str(error), "error"), *self.form.filled({})]
        if found is None:
            return [view.note("Saved settings: choose a name first.", "error"), *self.form.filled({})]
        kept = {key: value for key, value in found.items() if key in BY_NAME}
        return [view.note(f"Filled in {name}."), *self.form.filled(kept)]

    def forget(self, name: str | None) -> list[Update]:
        """Delete saved settings."""
        try:
            form_page.store().delete(name or "")
        except ImageRewardError as error:
            return [gr.update(), view.note(str(error), "error")]
        return [gr.update(choices=form_page.saved_names(), value=None), view.note(f"Deleted {name}." if name else "")]

    # --- the page --------------------------------------------------------------------------------------------------

    def tick(
        self, memory: str, chosen: str | None, far: str, title: str | None = None, reward: str | None = None
    ) -> list[Update]:
        """The heartbeat's look: at the first of a page, also at what the host has selected by now, and into the files
        of checkpoints and scorers. title, reward: what the form's lists show.
        """
        memory, *updates = self.runs.refresh(memory, chosen)
        before, memory = looked(memory)
        found = api.installer.status()
        missing = bool(found["missing"]) and not found["installing"]
        choice: list[Update] = [gr.update()] * 9
        if not before:  # a button may have been pressed before: the memory alone does not tell
            choice = self._first_look(far, title, reward)
        return [*choice, view.libraries(found), gr.update(visible=missing), memory, *updates]

    def _first_look(self, far: str, title: str | None, reward: str | None) -> list[Update]:
        """Marks in the lists, and what the host has selected. Its answer may take seconds to reach the page: what was
        chosen by hand before it stays, and a field that has its value already is not sent one.
        """
        built = {name: self.form.widgets[name].value for name in ("checkpoint", "reward")}
        by_hand = bool(title) and title != built["checkpoint"]
        wanted = form_page.meant("checkpoint", title) if by_hand else refl_host.selected_checkpoint()
        text = form_page.shown("checkpoint", wanted) if wanted else None
        follows = [gr.update()] * 5 if by_hand else self.chosen(far, wanted)
        numbers = [self.form.widgets[name].value for name in ("guidance", "steps", "learning_rate", "held_out")]
        follows[1:] = [
            gr.update() if update.get("value", value) == value else update
            for update, value in zip(follows[1:], numbers)
        ]
        kept = reward if reward and reward != built["reward"] else rewards.default()
        scored = form_page.shown("reward", form_page.meant("reward", kept))
        return [
            _listed("checkpoint", text, title),
            *follows,
            _listed("reward", scored, reward),
            *(gr.update(choices=form_page.marked_choices(name)) for name in form_page.SCORERS[1:]),
        ]

    def install_libraries(self) -> list[Update]:
        """Start filling the folder of libraries."""
        api.installer.start()
        return [view.libraries(api.installer.status()), gr.update(visible=False)]

    def connect(self) -> None:
        """The events."""
        form, runs, widgets = self.form, self.runs, self.form.widgets
        checkpoint, prompts = widgets["checkpoint"], widgets["prompts"]
        decided = [widgets[name] for name in ("steps", "learning_rate", "held_out")]
        follows = [form.about, widgets["guidance"], *decided]  # from the checkpoint
        scorers = [widgets[name] for name in form_page.SCORERS]
        here = [runs.memory, runs.runs]
        form.start.click(self.start, [*here, form.keep, form.far, *form.inputs], [form.said, *runs.outputs], **QUIET)
        computing = form.estimate.click(self.begin_estimate, None, form.said, **QUIET)
        computing.then(self.estimate, form.inputs, form.said, **QUIET)
        form.far.input(self.budget, [form.far, checkpoint], decided, **QUIET)
        checkpoint.input(self.chosen, [form.far, checkpoint], follows, **QUIET)
        form.refresh.click(self.refresh_checkpoints, checkpoint, [checkpoint, form.about], **QUIET)
        form.file.upload(self.load_file, [form.file, form.source], [prompts, form.count], **QUIET)
        form.starter.click(self.our_prompts, form.source, [prompts, form.count], **QUIET)
        form.source.input(self.of_source, [form.source, prompts], [prompts, form.count], **QUIET)
        prompts.blur(form_page.prompts_note, [form.source, prompts], form.count, **QUIET)
        whose = [widgets["picks"], widgets["picks_file"]]
        shown = [form.of_reward, form.of_picks, widgets["picks"], form.picks_count]
        widgets["learn"].change(self.learning_from, [widgets["learn"], *whose], shown, **QUIET)
        widgets["picks"].input(self.picked, whose, form.picks_count, **QUIET)
        widgets["picks_file"].blur(self.picked, whose, form.picks_count, **QUIET)
        form.save.click(self.save, [form.preset_name, *form.inputs], [form.preset, form.said], **QUIET)
        form.load.click(self.load, form.preset, [form.said, *form.inputs], **QUIET)
        form.forget.click(self.forget, form.preset, [form.preset, form.said], **QUIET)
        self.install.click(self.install_libraries, None, [self.libraries, self.install], **QUIET)
        runs.connect()
        runs.clone.click(self.clone, runs.runs, [form.said, *form.inputs], **QUIET)
        runs.tick.click(
            self.tick,
            [*here, form.far, checkpoint, widgets["reward"]],
            [checkpoint, *follows, *scorers, self.libraries, self.install, *runs.outputs],
            **QUIET,
            **host.pressed_anew(),
        )
