"""The two Script classes. Every hook translates and calls; the work is in `job.Job`."""

from __future__ import annotations

from typing import Any

from modules import scripts

from . import extras_table, host, infotext, panel, plot_output
from . import session as sessions
from .core import logger
from .job import clear
from .report import refuse
from .request import DROPDOWN_LIMIT_LABEL, InvalidRequest, ScoreRequest
from .start import DROPDOWN, resolve, scored_frame, start_job

JOB, REFUSED = "_imagereward_job", "_imagereward_refused"


class ImageRewardAccordion(scripts.Script):
    """The engine: an always-visible accordion, and the hooks that serve the dropdown script too."""

    section = "accordions"
    create_group = False

    def title(self):
        return infotext.ACCORDION_TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        inputs, self.infotext_fields, self.paste_field_names = panel.accordion(self.elem_id)
        return inputs

    def before_process(self, p, *args):
        setattr(p, JOB, None)
        setattr(p, REFUSED, None)
        session = sessions.of(p)
        try:
            request = resolve(p, args)
            if request.enabled and not host.scores_generations():
                raise InvalidRequest(panel.NO_HOOK)
        except InvalidRequest as error:  # an exception here would be swallowed: generate, and say why there is no score
            logger.warning("%s", error)
            reason = f"not scored: {error}"
            p.comment(f"ImageReward: {reason}")
            setattr(p, REFUSED, reason)
            if session is not None:
                session.refused = reason
            return
        if request.enabled:
            setattr(p, JOB, start_job(p, request, session))

    def process(self, p, *args):
        clear(p)
        if job := getattr(p, JOB, None):
            if frames := host.frames(p):
                job.keep_frames(p, scored_frame(frames))
            job.announce(p)

    def before_process_batch(self, p, *args, **kwargs):
        if (job := getattr(p, JOB, None)) and job.enough():
            p.prompts = []  # the host's own way to end a job early

    def postprocess_image_after_composite(self, p, pp, *args):
        if job := getattr(p, JOB, None):
            job.score(p, pp.image)

    def postprocess(self, p, processed, *args):
        if job := getattr(p, JOB, None):
            setattr(p, JOB, None)
            job.finish(p, processed)
        elif refused := getattr(p, REFUSED, None):
            refuse(processed, refused)


class ImageRewardScript(scripts.Script):
    """The dropdown script: validates its two inputs, leaves them on `p` for the engine, and generates."""

    def title(self):
        return infotext.DROPDOWN_TITLE

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        inputs, self.infotext_fields = panel.dropdown(self.elem_id)
        return inputs

    def run(self, p, filter_low=False, limit=None, *extra):
        try:
            if missing := host.missing_arguments(p):
                raise InvalidRequest(
                    f'"{DROPDOWN_LIMIT_LABEL}" can\'t be told: script_args needs exactly two values, [filter, limit],'
                    f" and has {2 - missing}."
                )
            ScoreRequest().with_dropdown(filter_low, limit)
        except InvalidRequest as error:
            raise host.input_error(p, error) from error
        setattr(p, DROPDOWN, (filter_low, limit))
        try:
            return host.process_images(p)
        finally:
            setattr(p, DROPDOWN, None)
            p.extra_generation_params.pop("Script", None)


def before_image_saved(params: Any) -> None:
    """Where hidden images will be moved, or files are remembered that the host numbers, give each image a file name of
    its own, so that it is that file and no older one.
    """
    from pathlib import Path

    from .files import unused_path

    job = getattr(params.p, JOB, None)
    if job and job.current(params.p, params.image):
        wanted = job.files.acts or (job.remembers and host.numbers_files())
    else:
        wanted = extras_table.is_remembered(params.image) and host.numbers_files()
    if wanted:
        params.filename = str(unused_path(Path(params.filename)))


def image_saved(params: Any) -> None:
    """Remember where the host wrote an image of ours or of the Extras tab, and put the scores of an X/Y/Z plot beside
    its grid.
    """
    plot_output.grid_saved(params)
    extras_table.image_saved(params)
    job = getattr(params.p, JOB, None)
    entry = job.current(params.p, params.image) if job else None
    if job and entry:
        job.image_saved(params.p, entry, params)


__all__ = ["ImageRewardAccordion", "ImageRewardScript", "before_image_saved", "image_saved"]
