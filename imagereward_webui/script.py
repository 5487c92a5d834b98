"""The two Script classes. Every hook translates and calls; the work is in `job.Job`."""

from __future__ import annotations

from typing import Any

from modules import scripts

from . import host, infotext, panel, xyz
from .core import logger
from .job import Job, clear, refuse
from .lifecycle import holder
from .request import DROPDOWN_LIMIT_LABEL, InvalidRequest, ScoreRequest

JOB, DROPDOWN, REFUSED = "_imagereward_job", "_imagereward_dropdown", "_imagereward_refused"


def resolve(p: Any, args: tuple[Any, ...]) -> ScoreRequest:
    """The request for this job: the accordion's, changed by the dropdown script and then by X/Y/Z axes."""
    request = ScoreRequest.from_ui(args)
    dropdown = getattr(p, DROPDOWN, None)
    if dropdown is not None:
        if not request.enabled:
            request = ScoreRequest(scorer=host.option("default_scorer"))
        request = request.with_dropdown(*dropdown)
    axes = getattr(p, xyz.AXES_ATTRIBUTE, None)
    return request.with_values(axes) if axes else request


def needs_every_image(p: Any) -> str:
    """Why this job's images must all come back, or "" when they may be filtered."""
    if getattr(p, "_ad_inner", False):
        return "ADetailer needs every image of its inner pass"
    if getattr(p, "txt2img_upscale", False):
        return "the upscale button replaces one image in the gallery"
    if getattr(p, DROPDOWN, None) is None and (title := host.driving_script(p)):
        return f"{title} needs every image"
    return ""


class ImageRewardAccordion(scripts.Script):
    """The engine: an always-visible accordion, and the hooks that serve the dropdown script too."""

    section = "accordions"
    create_group = False

    def title(self):
        return "ImageReward"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        inputs, self.infotext_fields, self.paste_field_names = panel.accordion(self.elem_id)
        return inputs

    def before_process(self, p, *args):
        setattr(p, JOB, None)
        setattr(p, REFUSED, None)
        try:
            request = resolve(p, args)
        except InvalidRequest as error:  # an exception here would be swallowed: generate, and say why there is no score
            logger.warning("%s", error)
            p.comment(f"ImageReward: not scored: {error}")
            setattr(p, REFUSED, f"not scored: {error}")
            return
        if request.enabled:
            setattr(
                p,
                JOB,
                Job(
                    p,
                    request,
                    host,
                    holder,
                    keep_all=needs_every_image(p),
                    script=infotext.DROPDOWN_TITLE if getattr(p, DROPDOWN, None) is not None else "",
                    on_result=xyz.write_rows if host.driving_script(p) == xyz.SCRIPT_TITLE else None,
                ),
            )

    def process(self, p, *args):
        clear(p, host.option("key"))
        if job := getattr(p, JOB, None):
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
    """Where hidden images will be moved, give each image a file name of its own, so that it is that file and no older
    one.
    """
    from pathlib import Path

    from .files import unused_path

    job = getattr(params.p, JOB, None)
    if job and job.files.acts and job.current(params.p, params.image):
        params.filename = str(unused_path(Path(params.filename)))


def image_saved(params: Any) -> None:
    """Remember where the host wrote an image of ours, and put the scores of an X/Y/Z plot beside its grid."""
    xyz.grid_saved(params)
    job = getattr(params.p, JOB, None)
    entry = job.current(params.p, params.image) if job else None
    if entry:
        entry.path = params.filename


__all__ = ["ImageRewardAccordion", "ImageRewardScript", "before_image_saved", "image_saved"]
