"""The routes of the ReFL tab: `/imagereward/v1/refl/…`. The page polls them; nothing here waits for a run."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel

from .. import host
from ..core import errors, logger, prompt_files
from ..core import runs as protocol
from ..guard import TOKEN, Alone, PageRoute  # noqa: F401 - the tab takes the token from here
from ..lifecycle import available
from . import host as refl_host
from . import pictures
from .form import BY_NAME, FIELDS, SettingError, build_config, form_settings
from .libraries import Installer, environment
from .runs import RunError, Runs
from .summaries import setting

PREFIX = "/imagereward/v1/refl"

installer = Installer()
boot = ""  # changes with every page that is built: the tab writes it
_runs: Runs | None = None
_naming = threading.Lock()  # held while a name is chosen and promised; nothing waits inside


def runs() -> Runs:
    """The runs of this host."""
    global _runs
    if _runs is None:
        _runs = Runs(refl_host.runs_folder(), environment, refl_host.lend_gpu, refl_host.take_back)
    return _runs


class RunBody(BaseModel):
    """Settings of a new run by the names in `/options`; `keep_going`: do not end with the WebUI."""

    settings: dict
    keep_going: bool = False


class PromptsBody(BaseModel):
    """A file's name with its bytes in base64, as the page sends them, or with its text."""

    name: str
    text: str = ""
    base64: str | None = None


class StepBody(BaseModel):
    """A saved update of a run."""

    step: int


class BranchBody(StepBody):
    """A saved update to go on from, by how many updates, and at which learning rate (null: that of the run)."""

    updates: int
    learning_rate: float | None = None


class CommandBody(BaseModel):
    """pause, resume, sample, save, stop or stop_now."""

    command: str


def scorers() -> list[str]:
    """What can be chosen as reward or judge."""
    return available(host.models_dir())


router = APIRouter(prefix=PREFIX, tags=["ImageReward ReFL"], route_class=PageRoute)


def _guarded(work: Any) -> Any:
    try:
        return work()
    except (RunError, SettingError, EstimateError, errors.DataError) as error:
        detail = str(error).encode("utf-8", errors="replace").decode()  # a file's name may hold what UTF-8 cannot
        raise HTTPException(status_code=422, detail=detail) from error


@router.get("/options")
def options() -> dict:
    """What the form offers, and what is missing before a run can start."""
    return {
        "fields": [field.describe() for field in FIELDS],
        "checkpoints": [item["title"] for item in refl_host.checkpoints()],
        "selected": refl_host.selected_checkpoint(),
        "rewards": scorers(),
        "guidance": refl_host.guidance(),
        "libraries": installer.status(),
    }


@router.get("/state")
def state() -> dict:
    """The page that is served now (`boot`), and a word that changes with anything the tab shows (`version`)."""
    told = json.dumps([installer.status(), runs().list()], default=str, sort_keys=True)
    return {"boot": boot, "version": hashlib.sha256(told.encode()).hexdigest()[:16]}


@router.get("/schema")
def schema() -> dict:
    """The words of the run protocol: states, commands, kinds of events."""
    return protocol.schema()


@router.post("/libraries")
def libraries() -> dict:
    """Start installing the training libraries into our own folder."""
    installer.start()
    return installer.status()


@router.post("/prompts")
def prompts(body: PromptsBody) -> dict:
    """The prompts in a file. Its bytes say the encoding; a text has been decoded by somebody already."""
    return {"prompts": _guarded(lambda: prompt_files.prompts_in(body.name, _content(body)))}


def _content(body: PromptsBody) -> bytes | str:
    if body.base64 is None:
        return body.text
    try:
        return base64.b64decode(body.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SettingError(f"{body.name}: its content is not base64") from error


@router.post("/estimate", dependencies=[Depends(Alone("an estimate"))])
def estimate(body: RunBody) -> dict:
    """Memory the run needs, computed by the training process's own code, with a table of batch and resolution, and
    `seconds` by the pace of an earlier run (null: none). Needs no prompts.
    """
    return _guarded(lambda: estimated(body.settings))


class EstimateError(errors.ImageRewardError, RuntimeError):
    """The training process cannot say what a run needs; the message is its own sentence."""


def estimated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """See `estimate`. Raises SettingError, RunError and EstimateError."""
    config = build_config(settings, needs_prompts=False)
    folder = refl_host.runs_folder()
    path = folder / ".estimate.json"
    protocol.check_writable(folder, "the estimate")
    protocol.write_settings(folder, config, path.name)
    command = [runs().python, "-m", "refl", "estimate", "--table", "--config", str(path)]
    result = _asked(command, "the estimate")
    found = _answer(result.stdout)
    if result.returncode or "error" in found:
        raise EstimateError(str(found.get("error") or f"the estimate failed: {_last_line(result.stderr)}"))
    return {**found, "seconds": runs().seconds(config)}


def _asked(command: list[str], what: str) -> Any:
    """What a process of the trainer's answers. EstimateError if it takes too long."""
    try:
        return subprocess.run(
            command,
            cwd=refl_host.runs_folder(),
            env=environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EstimateError(f"{what} took too long and was given up") from error


def _answer(text: str) -> dict[str, Any]:
    """The JSON object in the last line of a process's output; {} where there is none."""
    try:
        found = json.loads(_last_line(text))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a message"


@router.get("/runs")
def list_runs() -> dict:
    """All runs, newest first."""
    return {"runs": runs().list()}


@router.post("/runs")
def create(body: RunBody) -> dict:
    """Queue a run and answer; it starts as soon as its device is free and the host has lent it."""
    return {"id": _guarded(lambda: start_run(body.settings, body.keep_going))}


def start_run(settings: Mapping[str, Any], keep_going: bool) -> str:
    """Queue a run; its id. Raises SettingError, RunError."""
    if BY_NAME["base"].checked(settings.get("base", BY_NAME["base"].default)) != "auto":
        installer.want("bitsandbytes")
    status = installer.status()
    if status["missing"]:
        raise RunError(
            f"training libraries are missing ({', '.join(status['missing'])}): press Install training libraries first"
        )
    with _naming:
        return runs().create(build_config(settings, runs().promised()), keep_going)


@router.get("/runs/{run_id}")
def show(run_id: str, after: int = 0) -> dict:
    """State of a run with its events from line `after` on."""
    return _guarded(lambda: runs().show(run_id, max(after, 0)))


@router.get("/runs/{run_id}/settings")
def settings(run_id: str) -> dict:
    """Settings of a run in the form's terms, for a clone."""
    return {"settings": form_settings(_guarded(lambda: runs().config(run_id)), runs().promised())}


@router.post("/runs/{run_id}/command")
def command(run_id: str, body: CommandBody) -> dict:
    """Pass a command to a run."""
    _guarded(lambda: runs().command(run_id, body.command))
    return _guarded(lambda: runs().summary(run_id))


@router.delete("/runs/{run_id}")
def delete(run_id: str) -> dict:
    """Delete a run's folder; exported models stay."""
    _guarded(lambda: runs().delete(run_id))
    return {"deleted": run_id}


@router.get("/runs/{run_id}/samples/{name}")
def sample(run_id: str, name: str) -> FileResponse:
    """A contact sheet of a run."""
    return FileResponse(_guarded(lambda: runs().sample(run_id, name)), media_type="image/png")


@router.get("/runs/{run_id}/samples/{name}/small")
def small_sample(run_id: str, name: str) -> Response:
    """The same contact sheet as a small JPEG, for the wall."""
    path = _guarded(lambda: runs().sample(run_id, name))
    content = _guarded(lambda: pictures.small(path, setting(runs().path(run_id), "eval_seeds")))
    return Response(content, media_type="image/jpeg")


@router.post("/runs/{run_id}/branch")
def branch(run_id: str, body: BranchBody) -> dict:
    """Queue a new run that goes on from a saved update of this one."""
    return {"id": _guarded(lambda: begin_branch(run_id, body.step, body.updates, body.learning_rate))}


def begin_branch(run_id: str, step: int, updates: int, learning_rate: float | None) -> str:
    """See `branch`. Raises SettingError, RunError."""
    settings = runs().config(run_id)
    changes: dict[str, Any] = {"max_train_steps": step + int(BY_NAME["steps"].checked(updates))}
    if learning_rate is not None:
        changes["learning_rate"] = BY_NAME["learning_rate"].checked(learning_rate)
    with _naming:
        name = _free_result(settings, protocol.branch_name(settings, step))
        return runs().branch(run_id, step, {**changes, "output_name": name})


def _free_result(settings: Mapping[str, Any], name: str) -> str:
    """The name for a result of these settings, with a number if it is taken or promised."""
    folder = str(settings.get("export_dir") or "")
    promised = [other for place, other in runs().promised() if place == folder]
    return str(protocol.free_name(name, protocol.taken_names(Path(folder), promised)))


@router.post("/runs/{run_id}/export", dependencies=[Depends(Alone("a result"))])
def export(run_id: str, body: StepBody) -> dict:
    """Write a saved update of a run as a result of its own, beside that of the run. Answers when it is written."""
    return {"name": _guarded(lambda: exported(run_id, body.step))}


def exported(run_id: str, step: int) -> str:
    """See `export`: the name of what was written. Raises RunError and EstimateError."""
    settings, path = runs().config(run_id), runs().path(run_id)
    if f"step-{step:06d}" not in [state.name for state in protocol.saved_states(path)]:
        raise RunError(f"update {step} of run {run_id} has no saved state that is still kept")
    with _naming:
        stem = protocol.branch_name(settings, step).replace("-from-", "-at-")
        name = _free_result(settings, stem)
    command = [runs().python, "-m", "refl", "export", "--run-dir", str(path), "--step", str(step)]
    result = _asked([*command, "--output_name", name], "the export")
    if result.returncode:
        raise EstimateError(f"update {step} cannot be exported: {_last_line(result.stderr)}")
    refl_host.refresh_loras()
    refl_host.refresh_checkpoints()
    return name


@router.get("/runs/{run_id}/report")
def report(run_id: str) -> FileResponse:
    """The report of a finished run."""
    path: Path = _guarded(lambda: runs().path(run_id)) / protocol.Name.REPORT
    if not path.is_file():
        raise HTTPException(status_code=404, detail=f"run {run_id} has no report yet")
    return FileResponse(
        path,
        media_type="text/html",
        headers={"Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"},
    )


def mount(_demo: Any, app: FastAPI) -> None:
    """Add the routes to a new app, and watch over runs that an earlier process left behind."""
    app.include_router(router)
    try:
        runs().wake()
    except OSError as error:
        logger.warning("the training runs cannot be read: %s", error)
