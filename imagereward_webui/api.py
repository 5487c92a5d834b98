"""REST: `/imagereward/v1/…`, on every host, with pydantic 1 and 2.

Images come as base64 only: no path and no URL is ever opened for a client.
"""

from __future__ import annotations

import base64
import binascii
import io
import secrets
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic
from pydantic import BaseModel

from . import host, infotext
from .core import RM, errors, logger, naming, plain_prompt, registry
from .fields import FIELDS
from .lifecycle import available, holder

PREFIX = "/imagereward/v1"
MAX_IMAGES = 64
MAX_BASE64 = 48 * 2**20  # characters per image
MAX_PIXELS = 64 * 10**6


# pydantic 1 and 2 and Python 3.10 all read typing's own names, whatever the class body's annotations mode
class ScoreBody(BaseModel):
    """Images as base64; one `prompt` for all of them or one in `prompts` for each."""

    images: list[str]
    prompt: str | None = None
    prompts: list[str] | None = None
    scorer: str = "ImageReward-v1.0"


class RankBody(BaseModel):
    """Images as base64, ranked for one prompt."""

    images: list[str]
    prompt: str
    scorer: str = "ImageReward-v1.0"


class LoadBody(BaseModel):
    """The scorer to load."""

    scorer: str = "ImageReward-v1.0"


# --- who may ask ----------------------------------------------------------------------------------


def credentials() -> list[tuple[str, str]]:
    """Every user:password pair of --api-auth, --gradio-auth and --gradio-auth-path; empty: the server is open."""
    options = host.module("shared").cmd_opts
    lines = [getattr(options, "api_auth", None), getattr(options, "gradio_auth", None)]
    if path := getattr(options, "gradio_auth_path", None):
        with open(path, encoding="utf-8") as file:
            lines += file.read().splitlines()
    pairs = [pair.strip() for line in lines if line for pair in line.replace('"', "").split(",")]
    return [(user, password) for user, _, password in (pair.partition(":") for pair in pairs if pair)]


async def authorise(request: Request) -> None:
    """HTTP Basic against the host's own accounts. All pairs are compared, in constant time."""
    known = credentials()
    if not known:
        return
    given = await HTTPBasic(auto_error=False)(request)
    user, password = (given.username.encode(), given.password.encode()) if given else (b"", b"")
    hits = [
        secrets.compare_digest(user, name.encode()) & secrets.compare_digest(password, word.encode())
        for name, word in known
    ]
    if not any(hits):
        raise HTTPException(
            status_code=401, detail="Incorrect username or password", headers={"WWW-Authenticate": "Basic"}
        )


# --- what they may send ---------------------------------------------------------------------------


def decode_image(text: str, position: int) -> Any:
    """A base64 (or data: URL) image as PIL; HTTP 422 naming the position for anything else."""
    from PIL import Image

    def refuse(why: str) -> HTTPException:
        return HTTPException(status_code=422, detail=f"images[{position}]: {why}; send the image file itself as base64")

    if len(text) > MAX_BASE64:
        raise refuse(f"{len(text)} characters, and {MAX_BASE64} are the limit")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        if image.width * image.height > MAX_PIXELS:
            raise refuse(f"{image.width}x{image.height} pixels, and {MAX_PIXELS} are the limit")
        image.load()
    except (binascii.Error, ValueError) as error:
        raise refuse("not base64 (paths and URLs are not accepted)") from error
    except HTTPException:
        raise
    except Exception as error:  # Pillow raises many kinds, one per file format
        raise refuse(f"not an image ({type(error).__name__})") from error
    return image


def _images(texts: list[str]) -> list[Any]:
    if not texts or len(texts) > MAX_IMAGES:
        raise HTTPException(status_code=422, detail=f"images: 1 to {MAX_IMAGES} are accepted, found {len(texts)}")
    return [decode_image(text, i) for i, text in enumerate(texts)]


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
        try:
            return work()
        except errors.ImageRewardError as error:
            logger.warning("%s", error)
            raise HTTPException(status_code=503, detail=str(error)) from error


def _score(scorer: str, prompts: str | list[str], images: list[Any]) -> list[float]:
    """Scores, after which the memory policy applies as it does after a generation."""

    def work() -> list[float]:
        try:
            return holder.score(scorer, prompts, images)
        finally:
            holder.after_job()

    return _run(work)


# --- the routes -----------------------------------------------------------------------------------

router = APIRouter(prefix=PREFIX, tags=["ImageReward"])


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
    info = registry.describe(name)
    own_key = infotext.usable_key(host.option("key"), host.infotext_names())[0]
    scale = info.scale
    return {
        "name": name,
        "key": naming.score_key(info, own_key),
        "former_keys": [info.key] if naming.score_key(info, own_key) != info.key else [],
        "low": scale.low,
        "high": scale.high,
        "mean": scale.mean,
        "std": scale.std,
        "uses_prompt": info.uses_prompt,
        "higher_is_better": info.higher_is_better,
    }


@router.get("/schema")
def schema() -> dict:
    """The accordion's arguments in order, for `alwayson_scripts: {"ImageReward": {"args": [...]}}`, or by name in one
    dict; and of every scorer the key of its score in infotexts and what its numbers mean.
    """
    return {
        "title": "ImageReward",
        "scorers": [describe(name) for name in available(host.models_dir())],
        "key": infotext.usable_key(host.option("key"), host.infotext_names())[0],
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
    """One score per image, in order."""
    scorer, prompts, images = _known(body.scorer), _prompts(body), _images(body.images)
    return {"scorer": scorer, "scores": _score(scorer, prompts, images)}


@router.post("/rank")
def rank(body: RankBody) -> dict:
    """`ranking[i]` is the rank of image i, 1 = best; equal scores rank in order of appearance."""
    scorer, images = _known(body.scorer), _images(body.images)
    scores = _score(scorer, plain_prompt(body.prompt), images)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return {"scorer": scorer, "ranking": [order.index(i) + 1 for i in range(len(scores))], "scores": scores}


@router.post("/load")
def load(body: LoadBody) -> dict:
    """Load a scorer now instead of at the first use."""
    scorer = _known(body.scorer)
    _run(lambda: holder.load(scorer))
    return holder.status()


@router.post("/unload")
def unload() -> dict:
    """Free the scorer's memory, when the running job has ended; asking twice is fine."""
    return {"freed_megabytes": round(_run(holder.unload), 1)}


def mount(_demo: Any, app: FastAPI) -> None:
    """Add the routes to a new app (a callback of `on_app_started`)."""
    app.include_router(router, dependencies=[Depends(authorise)])
