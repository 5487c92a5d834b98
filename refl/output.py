"""The result of a run: checked for at the start, and written so that it replaces nothing that exists."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagereward_core import atomic, runs
from imagereward_core.locks import lock_for

from . import checkpoint
from .backend import Backend
from .config import ReFLConfig
from .dial import Dial
from .errors import ConfigError, SaveError
from .export import check_output, export, result_folder, result_name, result_suffix
from .runfiles import own_errors


def wanted_name(config: ReFLConfig) -> str:
    """The result's name, if it is free."""
    return result_name(config, Path(config.pretrained_model_name_or_path))


def _taken(config: ReFLConfig) -> Callable[[str], bool]:
    return runs.taken_names(result_folder(config), suffix=result_suffix(config))


def check_start(config: ReFLConfig, *, name_is_new: bool) -> None:
    """Before anything is loaded: the folders can be written, and a name that was asked for is free.

    name_is_new: nobody has promised this name to the run yet, and the run begins here.
    """
    with own_errors():
        for folder, what in ((config.output_dir, "the run's files"), (result_folder(config), "the result")):
            runs.check_writable(folder, what)
    if name_is_new and config.output_name and _taken(config)(config.output_name):
        raise ConfigError(
            f"output_name: there is a {config.output_name} in {result_folder(config)} already, and it is never"
            " replaced: give another name, or none"
        )


def check_room(config: ReFLConfig, backend: Backend, parameters: int) -> None:
    """SaveError unless the disks have room for the states of this run and for its result. parameters: how many numbers
    are trained.
    """
    states = Path(config.output_dir) / runs.Name.CHECKPOINTS
    each = parameters * 4 * (4 if config.use_ema else 3)  # weights, their average and two moments, in fp32
    kept = config.checkpoints_total_limit + 2  # and the best, and one in the writing
    there = sum(path.stat().st_size for path in states.rglob("*") if path.is_file())
    result = parameters * 4 if config.output == "lora" else _size(backend.source)  # fp16, perhaps by two names each
    with own_errors():
        runs.check_space(
            [
                (states, max(0, each * kept - there), f"{kept} saved states"),
                (result_folder(config), result, "the result"),
            ]
        )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(file.stat().st_size for file in files)


def write(config: ReFLConfig, backend: Backend, step: int, dial: Dial | None = None) -> tuple[Path, str]:
    """(file or folder, a note if it had to be named otherwise). The UNet holds the weights to write. dial: what it does
    at which strength, for the file's metadata and for the card that the hosts keep beside a LoRA.
    """
    check_output(config, backend.source)
    folder, name = result_folder(config), wanted_name(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_for(folder):  # two runs that end together do not choose the same name
            free = runs.free_name(name, _taken(config))
            named = dataclasses.replace(config, output_name=free)
            path = export(named, backend, folder, step, dial.metadata() if dial else None)
            _write_card(path, dial)
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(f"cannot write the result in {folder}: {error}") from error
    note = "" if free == name else f"There is a {name} in {folder} already: the result is called {free}."
    return path, note


def _write_card(path: Path, dial: Dial | None) -> None:
    """The user's metadata of a LoRA as A1111 and Forge keep it: a click on the LoRA puts it into the prompt at this
    strength. A card that is there already, of whomever, stays.
    """
    card = path.with_suffix(".json")
    if dial is not None and dial.use is not None and path.is_file() and not card.exists():
        atomic.write_json(card, {"preferred weight": dial.use, "notes": dial.advice}, indent=1)


def begin_branch(source: Path, step: int, target: str | None, changes: dict[str, Any]) -> Path:
    """`python -m refl branch`: the folder of a new run that goes on from a saved state of another. Without a folder it
    lies beside that run's; without a name its result has that of the run with the update, and a number if it is taken.
    """
    folder = Path(target or f"{source}-from-{step}")
    try:
        settings = runs.read_settings(source)
        config = ReFLConfig.from_dict({**settings, **changes, "output_dir": os.fspath(folder)})
        taken, named = _taken(config), "output_name" in changes
        name = config.output_name if named else runs.free_name(runs.branch_name(settings, step), taken)
        if taken(name):
            raise ConfigError(f"output_name: there is a {name} in {result_folder(config)} already: give another name")
        runs.branch(source, step, folder, {**changes, "output_name": name})
    except runs.RunUnwritable as error:
        raise SaveError(str(error)) from error
    except runs.RunError as error:
        raise ConfigError(str(error)) from error
    return folder


def write_again(folder: Path, step: int | None, changes: dict[str, Any]) -> tuple[Path, str]:
    """`python -m refl export`: the result of a saved state, under a name that is free. A name given in `changes` must
    be.
    """
    from .export import export_state

    with own_errors():
        settings = runs.read_settings(folder)
    if not checkpoint.saved(folder / runs.Name.CHECKPOINTS):
        raise ConfigError(f"{folder} holds no saved state")
    config = ReFLConfig.from_dict({**settings, **changes})
    config = dataclasses.replace(config, export_dir=os.fspath(config.export_dir or folder))
    check_start(config, name_is_new="output_name" in changes)
    name = wanted_name(config)
    with lock_for(result_folder(config)):
        free = runs.free_name(name, _taken(config))
        path = export_state(folder, step, {**changes, "output_name": free, "export_dir": config.export_dir})
    return path, "" if free == name else f"There is a {name} already: the result is called {free}."
