"""What planned pairs ask of the host: its checkpoints and samplers by name, and one picture by txt2img."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from .. import host
from ..core import ImageRewardError


def checkpoint_title(name: str, digest: str) -> str:
    """The title of the checkpoint of that hash (any length that the host knows), else of that name; "" if there is
    none.
    """
    known = getattr(host.module("sd_models"), "checkpoint_aliases", {})
    for alias in (digest, name):
        if alias and (found := known.get(alias)) is not None:
            return str(found.title)
    return ""


def has_sampler(name: str) -> bool:
    """Whether the host has a sampler of that name, or one with a schedule in it, as older versions named them."""
    samplers = host.module("sd_samplers")
    known = set(getattr(samplers, "all_samplers_map", {})) | set(getattr(samplers, "samplers_map", {}).values())
    plain, _ = _sampler_and_schedule(name)  # of an unknown name the host makes its first sampler
    return name in known or (plain in known and name.startswith(f"{plain} "))


def _sampler_and_schedule(name: str) -> tuple[str, str | None]:
    split = getattr(host.module("sd_samplers"), "get_sampler_and_scheduler", None)
    return split(name, None) if split is not None else (name, None)


def _txt2img_folder(kind: str) -> str:
    """Where txt2img saves its samples or grids: the folder for all tabs goes before its own."""
    opts = host.module("shared").opts
    return str(getattr(opts, f"outdir_{kind}", "") or getattr(opts, f"outdir_txt2img_{kind}", ""))


def generate(settings: Mapping[str, Any]) -> str | None:
    """Make one picture by txt2img, in the host's queue and without scripts, and save it; its file. None if it was
    interrupted. `settings`: prompt, negative_prompt, seed, width, height; checkpoint (a title), sampler, steps and
    cfg_scale may be None or left out: the host's own then.
    """
    shared, processing = host.module("shared"), host.module("processing")
    sampler, schedule = _sampler_and_schedule(settings["sampler"]) if settings.get("sampler") else (None, None)
    given = {
        "steps": settings.get("steps"),
        "cfg_scale": settings.get("cfg_scale"),
        "sampler_name": sampler,
        "scheduler": schedule if schedule != "Automatic" else None,
    }
    # what is made must be found again: saved, with its settings
    override = {"samples_save": True, "enable_pnginfo": True}
    if settings.get("checkpoint"):
        override["sd_model_checkpoint"] = settings["checkpoint"]
    with host.generation_lock():
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model,
            outpath_samples=_txt2img_folder("samples"),
            outpath_grids=_txt2img_folder("grids"),
            prompt=settings["prompt"],
            negative_prompt=settings["negative_prompt"],
            seed=settings["seed"],
            width=settings["width"],
            height=settings["height"],
            do_not_save_grid=True,
            override_settings=override,
            **{name: value for name, value in given.items() if value is not None},
        )
        shared.state.begin(job="ImageReward pairs")
        try:
            with contextlib.closing(p):
                processed = processing.process_images(p)
            stopped = host.interrupted()
        finally:
            shared.state.end()
    if stopped:
        return None
    for image in processed.images:
        if path := getattr(image, "already_saved_as", None):
            return str(path)
    raise ImageRewardError("the WebUI did not save the picture that it made")
