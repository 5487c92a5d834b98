"""From the host's `p` to a job: what is asked of it, and what stands in the way."""

from __future__ import annotations

from typing import Any

from . import host, infotext, scorer_list
from . import session as sessions
from .job import Job
from .lifecycle import holder
from .options import FRAME_FIRST, FRAME_LAST, FRAME_NONE
from .remember import memory
from .request import ScoreRequest

DROPDOWN = "_imagereward_dropdown"
AXES = "imagereward_axes"


def resolve(p: Any, args: tuple[Any, ...]) -> ScoreRequest:
    """The request for this job: the accordion's, changed by the dropdown script and then by X/Y/Z axes."""
    request = ScoreRequest.from_ui(args)
    dropdown = getattr(p, DROPDOWN, None)
    if dropdown is not None:
        if not request.enabled:
            request = ScoreRequest(scorer=scorer_list.preferred(host.option("default_scorer"))[0])
        request = request.with_dropdown(*dropdown)
    axes = getattr(p, AXES, None)
    return request.with_values(axes) if axes else request


def request_of(p: Any) -> ScoreRequest:
    """The request of a job whose accordion's arguments are not at hand, as the host passes them to our hooks."""
    scripts = getattr(getattr(p, "scripts", None), "alwayson_scripts", [])
    accordion = next((script for script in scripts if script.title() == infotext.ACCORDION_TITLE), None)
    arguments = () if accordion is None else tuple(p.script_args[accordion.args_from : accordion.args_to])
    return resolve(p, arguments)


def needs_every_image(p: Any) -> str:
    """Why this job's images must all come back, or "" when they may be filtered."""
    if getattr(p, "_ad_inner", False):
        return "ADetailer needs every image of its inner pass"
    if getattr(p, "txt2img_upscale", False):
        return "the upscale button replaces one image in the gallery"
    session = sessions.of(p)
    if getattr(p, DROPDOWN, None) is not None or (session is not None and session.independent):
        return ""
    title = session.title if session is not None else host.driving_script(p)
    return f"{title} needs every image" if title else ""


def scored_frame(frames: int) -> int | None:
    """Which frame of a video is scored, by the setting."""
    wanted = host.option("video_frame")
    if wanted == FRAME_NONE:
        return None
    return 0 if wanted == FRAME_FIRST else frames - 1 if wanted == FRAME_LAST else frames // 2


def start_job(p: Any, request: ScoreRequest, session: Any = None) -> Job:
    """The job that scores what `p` makes."""
    dropdown = getattr(p, DROPDOWN, None) is not None
    job = Job(
        p,
        request,
        host,
        holder,
        keep_all=needs_every_image(p),
        script=infotext.DROPDOWN_TITLE if dropdown else "",
        session=session,
        memory=memory if memory.of_one_person() else None,
    )
    chosen, why = scorer_list.preferred(host.option("default_scorer")) if dropdown else ("", "")
    if why and chosen == request.scorer:
        job.notes.append(why)
    return job
