"""REST: `/imagereward/v1/…`, on every host, with pydantic 1 and 2.

Images come as base64 only: no path and no URL is ever opened for a client. Who may ask, and what a body may hold, is
`guard`'s and `bodies`' matter.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel

from . import host, infotext
from .core import RM, errors, logger, naming, plain_prompt
from .core import module as core_module
from .fields import FIELDS
from .guard import GuardedRoute
from .judges import PANEL_SCALE, Judges, entry, judges_of, stored_name
from .lifecycle import available, holder
from .remember import memory
from .request import InvalidRequest, ScoreRequest

PREFIX = "/imagereward/v1"
Checkpoint = tuple[str | None, str | None]  # name, hash
MAX_IMAGES = 64
MAX_BASE64 = 48 * 2**20  # characters per image
MAX_PIXELS = 64 * 10**6
PATIENCE = 2.0  # seconds that an answer waits for the library to be read


# pydantic 1 and 2 and Python 3.10 all read typing's own names, whatever the class body's annotations mode
class ScoreBody(BaseModel):
    """Images as base64; one `prompt` for all of them or one in `prompts` for each. `panel`: several scorers in place of
    `scorer`, standardised by `constants` ({name: [mean, SD]}) and the registry's.
    """

    images: list[str]
    prompt: str | None = None
    prompts: list[str] | None = None
    scorer: str = "ImageReward-v1.0"
    panel: list[str] | None = None
    constants: dict[str, list[float]] | None = None


class RankBody(BaseModel):
    """Images as base64, ranked for one prompt by a scorer or a panel."""

    images: list[str]
    prompt: str
    scorer: str = "ImageReward-v1.0"
    panel: list[str] | None = None
    constants: dict[str, list[float]] | None = None


class LoadBody(BaseModel):
    """The scorer to load."""

    scorer: str = "ImageReward-v1.0"


# --- what they may send ---------------------------------------------------------------------------


def _refuse(position: int, why: str) -> HTTPException:
    return HTTPException(status_code=422, detail=f"images[{position}]: {why}; send the image file itself as base64")


class Sent(io.BytesIO):
    """An image file that a client sent. The core decodes it when its turn comes, as it does with files: ahead of the
    network, by all cores, large ones one at a time. What is wrong with it is said by its `name`, images[position].
    """

    def __init__(self, data: bytes, position: int):
        super().__init__(data)
        self.name = f"images[{position}]"

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that made it, as its infotext names it."""
        from PIL import Image

        self.seek(0)
        with Image.open(self, formats=core_module("preprocess").formats()) as image:
            return host.checkpoint_of(image)


def sent(text: str, position: int) -> Sent:
    """An image from base64 or a data: URL, whose header has been looked at and whose pixels have not; HTTP 422 naming
    the position for anything else.
    """
    from PIL import Image

    if len(text) > MAX_BASE64:
        raise _refuse(position, f"{len(text)} characters, and {MAX_BASE64} are the limit")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        image = Sent(base64.b64decode(text, validate=True), position)
    except (binascii.Error, ValueError) as error:
        raise _refuse(position, "not base64 (paths and URLs are not accepted)") from error
    try:
        width, height = Image.open(image, formats=core_module("preprocess").formats()).size
    except Exception as error:  # Pillow raises many kinds, one per file format
        raise _refuse(position, f"not an image ({type(error).__name__})") from error
    if width * height > MAX_PIXELS:
        raise _refuse(position, f"{width}x{height} pixels, and {MAX_PIXELS} are the limit")
    return image


def _images(texts: list[str]) -> list[Sent]:
    """The images of a body, which lets go of them; all are looked at before anything is scored."""
    if not texts or len(texts) > MAX_IMAGES:
        raise HTTPException(status_code=422, detail=f"images: 1 to {MAX_IMAGES} are accepted, found {len(texts)}")
    found: list[Sent] = []
    for position, text in enumerate(texts):
        found.append(sent(text, position))
        texts[position] = ""  # or memory would hold each image twice
    return found


def _prompts(body: ScoreBody) -> list[str]:
    if (body.prompt is None) == (body.prompts is None):
        raise HTTPException(status_code=422, detail="give either prompt (one for all images) or prompts (one for each)")
    prompts = [body.prompt or ""] * len(body.images) if body.prompts is None else body.prompts
    if len(prompts) != len(body.images):
        raise HTTPException(
            status_code=422, detail=f"{len(prompts)} prompts for {len(body.images)} images: the numbers must be equal"
        )
    return [plain_prompt(prompt) for prompt in prompts]


def _known(scorer: str) -> str:
    names = available(host.models_dir())
    if scorer not in names:
        raise HTTPException(status_code=404, detail=f"there is no scorer {scorer!r}; there are: {', '.join(names)}")
    return scorer


def _run(work: Any) -> Any:
    """Do GPU work one at a time with the host's generation; our errors become answers."""
    with host.generation_lock():
        return _answered(work)


def _answered(work: Any) -> Any:
    try:
        return work()
    except errors.ImageError as error:  # which of them it is, its name says
        raise HTTPException(status_code=422, detail=str(error)) from error
    except errors.ImageRewardError as error:
        logger.warning("%s", error)
        raise HTTPException(status_code=503, detail=str(error)) from error


def _judges(body: ScoreBody | RankBody) -> Judges:
    """Who judges: the body's panel, else its scorer. HTTP 404 for a name that is not known, 422 for a wrong panel."""
    for name in body.panel or [body.scorer]:
        _known(name)
    wanted = {"scorer": body.scorer, "panel": body.panel or [], "panel_constants": body.constants}
    try:
        request = ScoreRequest.from_api(wanted)
    except InvalidRequest as error:
        raise HTTPException(status_code=422, detail=str(error)) from error
    return judges_of(request.scorers, bool(request.panel), host.models_dir(), given=request.constants)


def _score(body: ScoreBody | RankBody, prompts: list[str]) -> dict[str, Any]:
    """The answer with the scores, after which the memory policy applies as it does after a generation."""
    judges = _judges(body)
    images = _images(body.images)
    stored = {name: stored_name(name, host.models_dir()) for name in judges.names}
    if memory.wanted():
        memory.prepare(stored.values())
    for name in judges.names:
        _answered(functools.partial(holder.prepare, name))  # may take an hour: the host goes on generating meanwhile

    def work() -> dict[str, list[float]]:
        try:
            return holder.score_by(judges.names, prompts, images)
        finally:
            holder.after_job()

    by_scorer = _run(work)
    judged = judges.judged(prompts, by_scorer)
    answer: dict[str, Any] = {"scorer": body.scorer, "scores": [one.score for one in judged]}
    if judges.is_panel:
        answer["panel"] = list(judges.names)
        answer["by_scorer"] = by_scorer
        answer["disagreements"] = [one.disagreement for one in judged]
        answer["standardised_by"] = judges.standardised_by
        answer["constants"] = {name: [found.mean, found.std] for name, found in judges.constants.items()}
    if memory.wanted():
        answer.update(_percentiles(stored, by_scorer, [one.checkpoint() for one in images]))
    return answer


def _percentiles(
    stored: Mapping[str, str], by_scorer: Mapping[str, Sequence[float]], checkpoints: Sequence[Checkpoint]
) -> dict[str, Any]:
    """`percentiles`: {scorer: for each image where its score stands among the user's own pictures, those of the
    checkpoint that the image names if there are enough}. Empty where there are too few to say anything.
    """
    memory.recorder().flush(PATIENCE)
    places = {
        name: [memory.place(stored[name], score, checkpoint) for score, checkpoint in zip(scores, checkpoints)]
        for name, scores in by_scorer.items()
    }
    known = {name: [one and one.as_dict() for one in found] for name, found in places.items() if any(found)}
    return {"percentiles": known} if known else {}


# --- the routes -----------------------------------------------------------------------------------

router = APIRouter(prefix=PREFIX, tags=["ImageReward"], route_class=GuardedRoute)


@router.get("/models")
def models() -> dict:
    """The scorers that can be asked for."""
    return {"models": available(host.models_dir())}


@router.get("/status")
def status() -> dict:
    """Version, host and what is in memory."""
    return {"version": RM.__version__, "host": host.name(), **holder.status()}


def describe(name: str) -> dict:
    """A scorer as pages and clients know it: `low` and `high` are where badges are fully red and fully green."""
    info = entry(name, host.models_dir())
    own_key = infotext.usable_key(host.option("key"), host.infotext_names())[0]
    key = naming.score_key(info, own_key)
    return {
        "name": name,
        "key": key,
        "former_keys": [info.key] if key != info.key else [],
        **_meaning(info.scale),
        "uses_prompt": info.uses_prompt,
        "higher_is_better": info.higher_is_better,
    }


def _meaning(scale: Any) -> dict[str, Any]:
    return {"low": scale.low, "high": scale.high, "mean": scale.mean, "std": scale.std}


@router.get("/schema")
def schema() -> dict:
    """The accordion's arguments in order, for `alwayson_scripts: {"ImageReward": {"args": [...]}}`, or by name in one
    dict; and of every scorer the key of its score in infotexts and what its numbers mean.
    """
    return {
        "title": "ImageReward",
        "scorers": [describe(name) for name in available(host.models_dir())],
        "key": infotext.usable_key(host.option("key"), host.infotext_names())[0],
        "panel": {"key": naming.PANEL_KEY, "disagreement_key": naming.DISAGREEMENT_KEY, **_meaning(PANEL_SCALE)},
        "args": [
            {
                "name": field.attr,
                "label": field.label,
                "type": field.kind,
                "default": field.default,
                "choices": list(field.choices),
                "minimum": field.low if field.kind in ("int", "float") else None,
                "maximum": field.high if field.kind in ("int", "float") else None,
            }
            for field in FIELDS
        ],
    }


@router.post("/score")
def score(body: ScoreBody) -> dict:
    """One score per image, in order. Of a panel the common value, and `by_scorer` each one's own. `percentiles` where
    the library is on and knows enough pictures.
    """
    return _score(body, _prompts(body))


@router.post("/rank")
def rank(body: RankBody) -> dict:
    """`ranking[i]` is the rank of image i, 1 = best; equal scores rank in order of appearance."""
    answer = _score(body, [plain_prompt(body.prompt)] * len(body.images))
    scores = answer["scores"]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return {**answer, "ranking": [order.index(i) + 1 for i in range(len(scores))]}


@router.post("/load")
def load(body: LoadBody) -> dict:
    """Load a scorer now instead of at the first use."""
    scorer = _known(body.scorer)
    _answered(lambda: holder.prepare(scorer))
    _run(lambda: holder.load(scorer))
    return holder.status()


@router.post("/unload")
def unload() -> dict:
    """Free the scorer's memory, when the running job has ended; asking twice is fine."""
    return {"freed_megabytes": round(_run(holder.unload), 1)}


def mount(_demo: Any, app: FastAPI) -> None:
    """Add the routes to a new app (a callback of `on_app_started`)."""
    app.include_router(router)
