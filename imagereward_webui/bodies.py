"""What a request may carry: JSON, said to be JSON, of limited size, depth and number of values, and no value that JSON
or an answer in JSON cannot hold. Whatever passes here is plain data; FastAPI then checks it against the route's model.
"""

from __future__ import annotations

import json
import math
from types import TracebackType
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

MEGABYTE = 1 << 20
LIMITS = {"score": 192 * MEGABYTE, "rank": 192 * MEGABYTE, "prompts": 32 * MEGABYTE}  # bytes, by the route's last part
LIMIT = 4 * MEGABYTE  # bytes, of every other route
HELD = 512 * MEGABYTE  # bytes of all bodies that are being answered at one time
DEPTH = 32  # nested lists and objects
VALUES = 100_000  # lists, objects and single values together
LENGTH = 4096  # entries of one list or object
MARKS = 4_000_000  # commas and brackets; counted before parsing, so also those within texts
DIGITS = 400  # of one number; more take Python long to read

FORMS = ("runs", "estimate")  # routes whose `settings` say themselves, by the field's name, what is wrong with a text

_held = 0


def limit(path: str) -> int:
    """Bytes that the body of a request to this route may have."""
    return LIMITS.get(path.rsplit("/", 1)[-1], LIMIT)


class BodyError(ValueError):
    """Something in a body that is not accepted."""


class Reading:
    """The body of one request, counted among all that are held until the block ends."""

    def __init__(self, request: Request, path: str):
        self._request, self._allowed, self._size = request, limit(path), 0
        self._form = path.rsplit("/", 1)[-1] in FORMS

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _held
        _held -= self._size

    async def checked(self) -> Request:
        """A request whose body was read and parsed. Raises HTTPException: 413 too large, 415 not said to be JSON, 422
        not JSON that we take, 503 too many at a time.
        """
        announced = self._request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._allowed:
            raise self._too_large()
        data = bytearray()
        try:
            async for chunk in self._request.stream():
                if chunk and not data:
                    self._require_json()
                self._take(len(chunk))
                data += chunk
        except ClientDisconnect as error:
            raise HTTPException(status_code=400, detail="the connection ended within the body") from error
        if not data:
            return Checked(self._request, b"", None)
        try:
            return Checked(self._request, b"{}", await run_in_threadpool(parse, data, self._form))
        except BodyError as error:
            raise HTTPException(status_code=422, detail=f"the body {error}") from error

    def _require_json(self) -> None:
        """A web page of another site can send any text, but not under this type without asking first."""
        kind = self._request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(
                status_code=415,
                detail=f"the body must be sent as Content-Type: application/json; found {kind or 'none'}",
            )

    def _take(self, size: int) -> None:
        global _held
        self._size += size
        _held += size
        if self._size > self._allowed:
            raise self._too_large()
        if _held > HELD:
            raise HTTPException(
                status_code=503, detail="too many large requests at one time; try again", headers={"Retry-After": "5"}
            )

    def _too_large(self) -> HTTPException:
        return HTTPException(
            status_code=413, detail=f"the body is larger than the {self._allowed // MEGABYTE} MB that this route takes"
        )


class Checked(Request):
    """A request with its body parsed already."""

    def __init__(self, request: Request, body: bytes, data: Any):
        super().__init__(request.scope, request.receive)
        self._checked_body, self._checked_data = body, data

    async def body(self) -> bytes:
        """Not the bytes that came: they are parsed and gone. Empty if none came."""
        return self._checked_body

    async def json(self) -> Any:
        """The parsed body."""
        return self._checked_data


def parse(data: bytes | bytearray, form: bool = False) -> Any:
    """JSON as plain data: strings that UTF-8 can hold, finite numbers, nothing deep or huge. Raises BodyError.

    form: the texts under `settings` may be any; FastAPI never repeats these, and the form names the field.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MARKS:
        raise BodyError("holds too many values")
    try:
        found = json.loads(
            data.decode("utf-8-sig"), parse_float=_finite, parse_int=_whole, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise BodyError("is nested too deeply") from error
    except BodyError:
        raise
    except ValueError as error:  # bytes that are not UTF-8, too
        raise BodyError(f"is not JSON ({error})") from error
    if not isinstance(found, dict):  # older FastAPI would take a list for an empty object
        raise BodyError(f"must be a JSON object, found {type(found).__name__}")
    settings = found.get("settings") if form else None
    _check(found, free=settings if isinstance(settings, dict) else None)
    return found


def _check(found: Any, free: Any) -> None:
    """free: the object whose texts are left to its reader."""
    waiting, seen = [(found, 0, True)], 0
    while waiting:
        value, depth, strict = waiting.pop()
        strict = strict and (free is None or value is not free)
        seen += 1
        if seen > VALUES:
            raise BodyError(f"holds more than {VALUES} values")
        if isinstance(value, str):
            if strict:
                _check_text(value)
        elif isinstance(value, (list, dict)):
            if depth >= DEPTH:
                raise BodyError("is nested too deeply")
            if len(value) > LENGTH:
                raise BodyError(f"holds a list of {len(value)} entries; {LENGTH} are the most")
            if isinstance(value, dict):
                waiting.extend((key, depth + 1, strict) for key in value)
            inner = value.values() if isinstance(value, dict) else value
            waiting.extend((item, depth + 1, strict) for item in inner)


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # half a surrogate pair, which no answer could repeat
        raise BodyError(f"holds text that is no Unicode: {ascii(text[error.start])}") from error


def _finite(text: str) -> float:
    number = float(text) if len(text) <= DIGITS else math.inf
    if not math.isfinite(number):
        raise BodyError(f"holds the number {text[:20]}, which is out of range")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise BodyError(f"holds the number {text[:20]}…, which is out of range")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise BodyError(f"holds {text}, which JSON has not")
