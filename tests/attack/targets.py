"""What is attacked. A target makes an input from a random generator, and feeds it; errors of ours are answers."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import re
import struct
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, features

from . import mutations

PARTS = ("x", "20260101-000000", "..", "%2e%2e", "a%00b", "é", "%ff")  # of addresses, where a route has a name
Feed = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """`make(rng)` is one input; `feed(input)` raises what `answers` names, or it is a finding."""

    make: Callable[[random.Random], bytes]
    feed: Feed
    answers: tuple[type[BaseException], ...]


class Damaged(AssertionError):
    """A file of the user's was harmed, or an answer is no answer."""


def pictures(folder: Path) -> dict[str, bytes]:
    """One small image of each format that carries a prompt, and some that do not, by the name's ending."""
    from imagereward_core.metadata import write_score
    from imagereward_core.metadata.infotext import StoredScore

    image = Image.linear_gradient("L").resize((16, 12)).convert("RGB")
    found = {}
    formats = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}
    if features.check("avif"):
        formats["avif"] = "AVIF"
    for ending, name in formats.items():
        path = folder / f"seed.{ending}"
        image.save(path, name)
        if ending in ("png", "jpg", "webp", "avif"):
            write_score(path, StoredScore(0.5, "ImageReward-v1.0", "a cat"))
        found[ending] = path.read_bytes()
    return found


def metadata(folder: Path) -> Target:
    """Prompt and score read and written; what was an image before is the same image after."""
    from imagereward_core.errors import ImageRewardError
    from imagereward_core.metadata import read_prompt, read_score, write_score
    from imagereward_core.metadata.infotext import StoredScore

    seeds = pictures(folder)
    names = [ending for ending in seeds if ending in ("png", "jpg", "webp", "avif")]

    def make(rng: random.Random) -> bytes:
        return mutations.mutated(rng, [seeds[rng.choice(names)]])

    def feed(data: bytes) -> None:
        path = folder / "input.png"  # readers go by the content
        path.write_bytes(data)
        before = _pixels(data)
        for read in (read_prompt, read_score):
            with contextlib.suppress(ImageRewardError):
                read(path)
        try:
            write_score(path, StoredScore(1.25, "ImageReward-v1.0", "a cat"))
        except ImageRewardError:
            if path.read_bytes() != data:
                raise Damaged("a refused file was changed") from None
            raise
        if before is not None and _pixels(path.read_bytes()) != before:
            raise Damaged("the pixels are others after a score was written")

    return Target(make, feed, (ImageRewardError,))


def _pixels(data: bytes) -> Any:
    if data[4:8] == b"ftyp":  # decoding AVIF takes a hostile file's word for its size; `images` tries our own opening
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > 1 << 22:
                return None
            return image.size, image.convert("RGB").tobytes()
    except Exception:  # noqa: BLE001 - no image for Pillow, whatever it raises
        return None


def images(folder: Path) -> Target:
    """Files opened to be scored."""
    from imagereward_core.errors import ImageRewardError
    from imagereward_core.preprocess import open_image

    seeds = list(pictures(folder).values())
    path = folder / "input.png"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        open_image(path, exif_transpose=len(data) % 2 == 0)

    return Target(lambda rng: mutations.mutated(rng, seeds), feed, (ImageRewardError,))


def texts(folder: Path) -> Target:
    """Prompts and infotexts: parsed, built, scores put in and read out again."""
    from imagereward_core.errors import ImageRewardError
    from imagereward_core.metadata.infotext import StoredScore, build_infotext, get_score, parse_infotext, with_score
    from imagereward_core.prompts import plain_prompt

    def feed(data: bytes) -> None:
        text = data.decode("utf-8", "surrogatepass")
        plain_prompt(text)
        found = parse_infotext(text)
        get_score(text)
        with contextlib.suppress(ImageRewardError):
            build_infotext(found)
        again = with_score(text, StoredScore(0.5, "ImageReward-v1.0", "a cat"))
        score = get_score(again)
        if score is None or abs(score.value - 0.5) > 1e-6:
            raise Damaged("a score that was put into an infotext is not found there")

    return Target(lambda rng: mutations.text(rng).encode("utf-8", "surrogatepass"), feed, (ImageRewardError,))


def prompt_files(folder: Path) -> Target:
    """Files of prompts that a user gives: JSON, JSONL, tables, text."""
    from imagereward_core import prompt_files as reader
    from imagereward_core.errors import ImageRewardError

    rows = [{"prompt": "a cat", "id": 1}, {"prompt": "a dog, red", "id": 2}]
    seeds = {
        "json": json.dumps(rows).encode(),
        "jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "csv": b'id,prompt\n1,a cat\n2,"a dog, red"\n',
        "tsv": b"id\tprompt\n1\ta cat\n",
        "txt": b"a cat\na dog\n",
    }

    def make(rng: random.Random) -> bytes:
        ending = rng.choice(list(seeds))
        if rng.random() < 0.3:
            return ending.encode() + b"\n" + mutations.text(rng).encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            deep = rng.choice((b"[", b'{"prompt":', b'"')) * rng.choice((100, 200_000))
            return ending.encode() + b"\n" + deep
        return ending.encode() + b"\n" + mutations.mutated(rng, [seeds[ending]])

    def feed(data: bytes) -> None:
        ending, _, content = data.partition(b"\n")
        reader.prompts_in(f"p.{ending.decode('latin-1')}", content)

    return Target(make, feed, (ImageRewardError,))


def weights(folder: Path) -> Target:
    """Weights files, by all that looks at one before it trusts it."""
    import torch
    from safetensors.torch import save

    from imagereward_core.errors import ImageRewardError
    from imagereward_core.weights import checkpoint, convert

    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    pickled, plain = buffer.getvalue(), save(state, {"format": "pt", convert.ORIGIN_KEY: '{"file": "x.pt"}'})
    path, original = folder / "input.safetensors", folder / "input.pt"

    def make(rng: random.Random) -> bytes:
        chance = rng.random()
        if chance < 0.02:
            return _with_header(_entries(rng.choice((1000, 300_000))))
        if chance < 0.06:
            return _with_header(rng.choice((b"[", b'{"a":')) * rng.choice((100, 200_000)))
        if chance < 0.5:
            header = json.loads(plain[8 : 8 + struct.unpack("<Q", plain[:8])[0]])
            header[rng.choice(list(header))] = mutations.value(rng)
            return _with_header(json.dumps(header).encode()) + plain[-32:]
        return mutations.mutated(rng, [pickled if chance < 0.75 else plain])

    def feed(data: bytes) -> None:
        for place in (path, original):
            place.write_bytes(data)
            checkpoint.inspect(place)
        convert.origin(path)
        convert.usable(path, original)
        for place in (path, original):  # what the first is refused for, the second is: one name for each kind of file
            found, _ = checkpoint.read_state(place)
            checkpoint.recognise(found)

    return Target(make, feed, (ImageRewardError,))


def _with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def _entries(count: int) -> bytes:
    entry = '"t{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    return ("{" + ",".join(entry.format(number) for number in range(count)) + "}").encode()


def api(folder: Path) -> Target:
    """Every route with bodies after the app's own OpenAPI, on a stand-in host; any status from 500 on is a finding,
    but for the answer "not now" (503).
    """
    import fastapi
    from fastapi.testclient import TestClient

    client, paths, known = _app(folder, fastapi, TestClient)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    samples = _samples(client, png)

    def make(rng: random.Random) -> bytes:
        method, path, schema = rng.choice(paths)
        path = re.sub(r"\{\w+\}", lambda _: rng.choice(PARTS), path)
        if rng.random() < 0.1:
            path += "?after=" + rng.choice(("-1", "1e9", "x", "9" * 30, "9" * 5000))
        sent = mutations.as_json(rng, mutations.body(rng, schema, known, samples)) if schema else b""
        return f"{method} {path}\n".encode() + sent

    def feed(data: bytes) -> None:
        first, _, sent = data.partition(b"\n")
        method, _, path = first.decode().partition(" ")
        headers = {"Content-Type": "application/json"} if sent else {}
        answer = client.request(method, path, content=sent, headers=headers)
        if answer.status_code >= 500 and answer.status_code != 503:
            raise Damaged(f"{method} {path} answers {answer.status_code}")

    return Target(make, feed, ())


def _samples(client: Any, png: str) -> dict[str, list[Any]]:
    """Good values by the name of a field, the form's own among them."""
    found: dict[str, list[Any]] = {
        "images": [[png], [png, png], ["x"], [png[:40]]],
        "prompt": ["a cat"],
        "prompts": [["a cat"], ["a", "b"]],
        "scorer": ["ImageReward-v1.0", "CLIP"],
        "command": ["pause", "stop"],
        "name": ["p.json", "p.csv", "p.txt"],
        "text": ['[{"text": "a"}]', "id,prompt\n1,a", "a"],
    }
    options = client.get("/imagereward/v1/refl/options")
    fields = {field["name"]: field.get("default") for field in options.json()["fields"]} if options.is_success else {}
    rng = random.Random(0)
    good: list[Any] = []
    for name in fields:
        for _ in range(6):
            good.append({"prompts": "a cat", name: mutations.value(rng)})
    found["settings"] = [{"prompts": "a cat"}, *good]
    return found


def _app(folder: Path, fastapi: Any, client: Any) -> tuple[Any, list[tuple[str, str, Any]], dict[str, Any]]:
    """(client with the page's token, (method, path, schema of the body) of each route, schemas by name)."""
    from tests.contract.fakehost import FakeHost

    host = FakeHost(folder)
    host.__enter__()
    models = types.ModuleType("modules.sd_models")
    vars(models).update(checkpoints_list={}, model_path=str(folder))
    sys.modules["modules.sd_models"] = models
    refl, holder = host.part("refl_tab.api"), host.part("lifecycle").holder
    holder._load = lambda name, device, *_: types.SimpleNamespace(
        name=name, device=device, net=None, score_pairs=lambda prompts, images: [0.5] * len(images)
    )
    # nothing is installed, and no process started: what these would do is another test's matter
    missing = {"missing": ["diffusers"], "installing": False, "error": ""}
    refl.installer.start, refl.installer.status = (lambda: None), (lambda: missing)
    done = types.SimpleNamespace(returncode=0, stdout='{"text": "x"}', stderr="")
    if hasattr(refl, "subprocess"):
        refl.subprocess = types.SimpleNamespace(run=lambda *_, **__: done, TimeoutExpired=TimeoutError)
    app = fastapi.FastAPI()
    for callback in host.callbacks.lists["on_app_started"]:
        callback(None, app)
    described = app.openapi()
    paths = []
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            paths.append((method.upper(), path, content.get("schema")))
    token = {"X-ImageReward-Token": host.part("guard").TOKEN}
    return client(app, headers=token), paths, described.get("components", {}).get("schemas", {})


TARGETS: dict[str, Callable[[Path], Target]] = {
    "metadata": metadata,
    "images": images,
    "texts": texts,
    "prompt_files": prompt_files,
    "weights": weights,
    "api": api,
}


def available() -> Iterator[str]:
    """The targets whose code is here."""
    import importlib.util

    for name in TARGETS:
        if name == "prompt_files" and importlib.util.find_spec("imagereward_core.prompt_files") is None:
            continue
        if name == "api" and not all(importlib.util.find_spec(part) for part in ("fastapi", "httpx")):
            continue
        yield name
