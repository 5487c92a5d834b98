"""What this host is and has. Every question whose answer differs between hosts is asked here and nowhere else.

Known hosts: AUTOMATIC1111 1.10 (gradio 3.41.2), Forge (gradio 4.40), reForge (gradio 3.41.2).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .core import logger
from .core import module as core_module
from .options import BY_NAME, PREFIX


def module(name: str) -> Any:
    """A module of the host, by its name below `modules`."""
    return importlib.import_module(f"modules.{name}")


def _optional(name: str) -> Any | None:
    """A module that only some hosts have. Those that have it imported it long before they call us."""
    return sys.modules.get(name)


def option(name: str) -> Any:
    """A setting of ours; its default before the host has registered it."""
    return module("shared").opts.data.get(PREFIX + name, BY_NAME[name].default)


def name() -> str:
    """The host's name, for the status page and the log."""
    if _optional("modules_forge") is None:
        return "AUTOMATIC1111"
    if _optional("backend.memory_management") is None:
        return "reForge"
    return "Forge Neo" if hasattr(getattr(_optional("backend.args"), "dynamic_args", None), "wan") else "Forge"


# --- paths ----------------------------------------------------------------------------------------


def models_dir() -> Path:
    """Where reward models lie: the command line wins over the setting, the default is models/ImageReward."""
    given = getattr(module("shared").cmd_opts, "imagereward_models_path", None) or option("models_dir")
    return Path(given) if given else Path(module("paths").models_path) / "ImageReward"


def library_place() -> Path:
    """Where this host keeps the library and the tastes beside it."""
    return Path(module("paths").data_path) / core_module("library.place").FILE_NAME


def output_folders() -> list[str]:
    """Where this host saves pictures: its own settings, which nobody's request can change here."""
    opts = module("shared").opts
    names = ("samples", "txt2img_samples", "img2img_samples", "extras_samples", "save")
    given = [str(getattr(opts, f"outdir_{name}", None) or "") for name in names]
    base = module("paths").data_path
    return [os.path.join(base, folder) for folder in given if folder]


def more_folders() -> list[str]:
    """Folders that the user names for the library tab, beside those that the host saves to."""
    base = module("paths").data_path
    given = [os.path.expanduser(part.strip()) for part in str(option("library_folders")).split(";")]
    return [os.path.join(base, folder) for folder in given if folder]


def paste_into_txt2img(button: Any, text: Any) -> bool:
    """Have a button fill txt2img from the infotext in a textbox, as the host's own buttons do, and go there. To be said
    while the UI is built; False where the host has no such thing.
    """
    paste = _optional("modules.infotext_utils") or _optional("modules.generation_parameters_copypaste")
    if paste is None or not hasattr(paste, "ParamBinding"):
        return False
    binding = paste.ParamBinding
    paste.register_paste_params_button(binding(paste_button=button, tabname="txt2img", source_text_component=text))
    return True


# --- device and memory ----------------------------------------------------------------------------


def device() -> str:
    """The device to score on, as a torch device name; `--use-cpu imagereward` and `--use-cpu all` count."""
    chosen = option("device")
    if chosen != "auto":
        return chosen
    devices = module("devices")
    ask = getattr(devices, "get_device_for", None)
    return str(ask("imagereward") if ask else devices.device)


def vram_gb(device_name: str) -> float | None:
    """Total memory of a CUDA device in GiB; None for anything else."""
    if not device_name.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_properties(torch.device(device_name)).total_memory / 2**30


def make_room(size: int, device_name: str) -> None:
    """Ask the memory manager of Forge or reForge for `size` free bytes; others need no asking."""
    if device_name == "cpu":
        return
    manager = _optional("backend.memory_management") or _optional("ldm_patched.modules.model_management")
    if manager is not None:
        import torch

        manager.free_memory(size, torch.device(device_name))


def collect_garbage() -> None:
    """Give memory back to the device and, where the C library can, to the system."""
    import ctypes
    import gc

    gc.collect()
    module("devices").torch_gc()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def no_checkpoint_loading() -> Iterator[None]:
    """Hold off while the host loads a checkpoint: A1111 then patches torch's layers for the whole process."""
    lock = getattr(getattr(_optional("modules.sd_models"), "model_data", None), "lock", None)
    with lock if lock is not None else contextlib.nullcontext():
        yield


def generation_lock() -> Any:
    """The host's lock around generation. Not re-entrant: never take it inside a hook."""
    return module("call_queue").queue_lock


# --- a running job --------------------------------------------------------------------------------


def show_progress(text: str | None) -> None:
    """Text in the host's progress bar; None takes ours away."""
    module("shared").state.textinfo = text


def cut_short() -> bool:
    """Whether the image under way is only half drawn: Interrupt and Skip end its sampling, "after the current image"
    does not.
    """
    state = module("shared").state
    return bool(state.interrupted or state.skipped)


def interrupted() -> bool:
    """Whether the user pressed Interrupt or Skip, also for after the current image."""
    state = module("shared").state
    return bool(state.interrupted or state.skipped or getattr(state, "stopping_generation", False))


def at_last_image() -> bool:
    """Extras tab: whether this is the last image of its batch (or the host does not say)."""
    state = module("shared").state
    return getattr(state, "job_no", 0) >= getattr(state, "job_count", 0)


def extras_file() -> str:
    """Extras tab: the file that is being worked on, as far as the host says it ("" for an image without one). To be
    asked before anything else is shown in the progress bar.
    """
    return str(module("shared").state.textinfo or "")


def job_id() -> str:
    """What tells the running job, or the last one, from others."""
    return str(getattr(module("shared").state, "job_timestamp", ""))


def process_images(p: Any) -> Any:
    return module("processing").process_images(p)


def input_error(p: Any, error: Exception) -> Exception:
    """What to raise for a bad input: the API answers 422 with the message, the UI shows it in red."""
    if getattr(p, "is_api", False):
        from fastapi import HTTPException

        return HTTPException(status_code=422, detail=str(error))
    return error


def missing_arguments(p: Any) -> int:
    """How many arguments too few (or, negative, too many) the API client sent; its list shifts all scripts after it."""
    expected = getattr(getattr(p, "scripts", None), "inputs", None)
    given = getattr(p, "script_args", None)
    return len(expected) - len(given) if getattr(p, "is_api", False) and expected and given else 0


def frames(p: Any) -> int:
    """How many frames the video has that this job makes; 0 where its images are images. Forge Neo makes a batch of more
    than four a video if the model is one for videos.
    """
    arguments = getattr(_optional("backend.args"), "dynamic_args", None)
    if not getattr(arguments, "wan", False) or not getattr(module("shared").sd_model, "is_wan", False):
        return 0
    return p.batch_size if p.batch_size > 1 else 0


def scores_generations() -> bool:
    """Whether this host calls scripts with each final picture. SD.Next does not, and would write our functions, which
    other hosts ask for each image's score, into the files as they stand.
    """
    return hasattr(module("scripts").Script, "postprocess_image_after_composite")


def infotext_names() -> list[str]:
    """The names under which this host and its extensions keep settings in infotexts."""
    labels = getattr(module("shared").opts, "data_labels", None) or {}
    return [str(row.infotext) for row in labels.values() if getattr(row, "infotext", None)]


def make_room_for_pictures() -> None:
    """Make the folder in which the host keeps pictures that a component shows. Forge Neo names one that a fresh
    installation does not have, or that was cleaned away since: every gallery with a picture that is in no file fails.
    """
    folder = str(getattr(module("shared").opts, "temp_dir", None) or "")
    if folder:
        with contextlib.suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)


def before_results_are_sent(refresh: Callable[[Any], None]) -> None:
    """Call `refresh(processed)` each time a result is written down for page or client, which is after all scripts. The
    folder for its pictures is there then.
    """
    processed = module("processing").Processed
    write = getattr(processed.js, "imagereward_original", processed.js)

    @functools.wraps(write)
    def js(self: Any, *args: Any, **kwargs: Any) -> Any:
        make_room_for_pictures()
        refresh(self)
        return write(self, *args, **kwargs)

    vars(js)["imagereward_original"] = write
    processed.js = js


def driving_script(p: Any) -> str | None:
    """Title of the selected script that drives this job, or None. It calls process_images itself and needs every
    image.
    """
    args = getattr(p, "script_args", None)
    index = args[0] if isinstance(args, (list, tuple)) and args else None
    if not isinstance(index, int) or index <= 0:
        return None
    scripts = getattr(getattr(p, "scripts", None), "selectable_scripts", [])
    return scripts[index - 1].title() if index <= len(scripts) else "another script"


def checkpoint(p: Any) -> tuple[str | None, str | None]:
    """(name, hash) of the checkpoint that a job runs with, as infotexts name it; None where the host does not say."""
    found = (getattr(p, "sd_model_name", None), getattr(p, "sd_model_hash", None))
    name, digest = (str(value) if value else None for value in found)
    return name, digest.lower() if digest else None


def making(p: Any, prompt: str, negative: str, seed: Any) -> Any:
    """How a job makes one image, as the library keeps it; for what the infotext leaves out by the user's settings."""

    def number(value: Any, kind: Callable[[Any], Any]) -> Any:
        return kind(value) if isinstance(value, (int, float)) else None

    model, digest = checkpoint(p)
    return core_module("library.records").Made(
        prompt=prompt.strip() or None,
        negative=negative.strip() or None,
        seed=number(seed, int),
        sampler=str(getattr(p, "sampler_name", None) or "") or None,
        steps=number(getattr(p, "steps", None), int),
        cfg=number(getattr(p, "cfg_scale", None), float),
        checkpoint=model,
        checkpoint_hash=digest,
        loras=core_module("library.describe").loras_of(prompt),
        program=name(),
    )


# --- images ---------------------------------------------------------------------------------------


def saves_chosen_image(index: int, first: int) -> bool:
    """Whether the host's Save and Zip take just the image that is shown in large: one is, it is no grid (images begin
    at `first`), and the setting says so.
    """
    return index >= max(0, first) and bool(getattr(module("shared").opts, "save_selected_only", False))


def numbers_files() -> bool:
    """Whether the host, where a file of that name is there, writes another one, and tells callbacks the name it wanted
    all the same.
    """
    return getattr(module("shared").opts, "save_images_replace_action", "Replace") != "Replace"


def writes_text_files() -> bool:
    """Whether the host writes a .txt beside each image."""
    return bool(getattr(module("shared").opts, "save_txt", False))


def masks_per_image(p: Any) -> int:
    """How many mask images the host puts into the gallery after each inpainted image."""
    opts = module("shared").opts
    if getattr(p, "mask_for_overlay", None) is None:
        return 0
    return int(bool(getattr(opts, "return_mask", False))) + int(bool(getattr(opts, "return_mask_composite", False)))


def build_grid(p: Any, images: list[Any]) -> tuple[Any | None, str]:
    """The grid of these images by the user's settings: saved if wanted; returned (with its infotext) if wanted."""
    opts, host_images = module("shared").opts, module("images")
    if not (opts.return_grid or opts.grid_save) or (len(images) < 2 and opts.grid_only_if_multiple):
        return None, ""
    grid = host_images.image_grid(images, p.batch_size)
    text = module("processing").create_infotext(
        p,
        p.all_prompts,
        p.all_seeds,
        p.all_subseeds,
        use_main_prompt=True,
        index=0,
        all_negative_prompts=p.all_negative_prompts,
    )
    if opts.enable_pnginfo:
        grid.info["parameters"] = text
    if opts.grid_save:
        host_images.save_image(
            grid,
            p.outpath_grids,
            "grid",
            p.all_seeds[0],
            p.all_prompts[0],
            opts.grid_format,
            info=text,
            short_filename=not opts.grid_extended_filename,
            p=p,
            grid=True,
        )
    return (grid, text) if opts.return_grid else (None, "")


def tool_button(text: str, **settings: Any) -> Any:
    """The host's small button with a sign, which fits beside a field."""
    import gradio

    return getattr(module("ui_components"), "ToolButton", gradio.Button)(text, **settings)


def page_script(code: str) -> dict[str, str]:
    """The argument of an event that runs JavaScript in the page before (or in place of) its function."""
    import gradio

    return {"js" if int(gradio.__version__.split(".")[0]) >= 4 else "_js": code}


def pressed_anew() -> dict[str, str]:
    """The argument of an event that must outlive a lost answer: by default gradio 4 ignores a button until its last
    request has brought data, and a connection that broke brings none.
    """
    import gradio

    return {"trigger_mode": "multiple"} if int(gradio.__version__.split(".")[0]) >= 4 else {}


def font(size: int) -> Any:
    """The font that the host writes on grids with."""
    return module("images").get_font(size)


def read_infotext(image: Any) -> dict[str, Any]:
    """The parsed infotext of an image; empty when it has none."""
    text, _ = module("images").read_info_from_image(image)
    if not text:
        return {}
    paste = _optional("modules.infotext_utils") or module("generation_parameters_copypaste")
    return paste.parse_generation_parameters(text)


def checkpoint_of(image: Any) -> tuple[str | None, str | None]:
    """(name, hash) of the checkpoint that an image's infotext names, None for what it does not."""
    settings = read_infotext(image)
    return settings.get("Model") or None, settings.get("Model hash") or None


def log_ready(version: str) -> None:
    logger.debug("ImageReward %s on %s", version, name())
