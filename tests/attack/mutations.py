"""Hostile inputs, each a function of a random generator alone: bytes, texts and JSON values."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

WORDS = (
    "a cat", "(", ")", "[", "]", "((", "))", "<lora:x:1>", "<", ":", ">", ":1.2)", "1", "0.5", ".", "|", "BREAK", "AND",
    "\\", "\\(", "\n", "\r\n", "\t", ", ", '"', '\\"', "{", "}", "Negative prompt: ", "Steps: 20, ", "Seed: 1, ",
    "Sampler: Euler a, ", "ImageReward: ", "ImageReward: 0.5, ", "Size: 8x8, ", "nan", "1e999", "-", "\0", "\x1b[2J",
    "\ud800", "\udfff", "\u202e", "é", "猫", "🐈", "\u2028", "=cmd()", "__wild__", "{a|b}", "[a:b:0.5]", "embedding:x",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    1 << 63,
)
LONG = 100_000  # characters of the longest repetition: what a quadratic pattern takes minutes for


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with one to eight wounds; a PNG's checksums are mended every other time, or no decoder would look on."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(WOUNDS)(rng, data, seeds)
    if data[:4] == b"\x89PNG" and rng.random() < 0.5:
        data = mended_png(data)
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    width, value = rng.choice((1, 2, 4, 8)), rng.choice(NUMBERS)
    if len(data) > width:
        place = _place(rng, data)
        data[place : place + width] = (value & (1 << 8 * width) - 1).to_bytes(width, rng.choice(("little", "big")))


def _cut(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    place = _place(rng, data)
    del data[place : place + rng.choice((1, 2, 4, 16, 256))]


def _repeat(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    place, length = _place(rng, data), rng.choice((1, 4, 16, 64))
    data[place:place] = data[place : place + length] * rng.choice((1, 2, 50, 1000))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start = rng.randrange(len(other) + 1)
    data[_place(rng, data) :] = other[start:]


def _fill(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    place, length = _place(rng, data), rng.choice((4, 32, 512))
    data[place : place + length] = bytes([rng.choice((0, 0x20, 0x7F, 0xFF))]) * length


def _place(rng: random.Random, data: bytearray) -> int:
    """Mostly near the beginning, where the headers are."""
    near = min(len(data), rng.choice((16, 64, 512, len(data) or 1)))
    return rng.randrange(near) if near else 0


WOUNDS = (_flip, _number, _number, _cut, _remove, _repeat, _splice, _fill)


def mended_png(data: bytes | bytearray) -> bytearray:
    """The same chunks with right checksums, as far as there are whole chunks."""
    mended, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        if len(body) < 4 + length:
            break
        mended += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return mended + data[place:]


def text(rng: random.Random) -> str:
    """Words of prompts and infotexts in disorder; one in twenty is a long repetition."""
    if rng.random() < 0.05:
        unit = "".join(rng.choice(WORDS) for _ in range(rng.choice((1, 1, 2, 3))))
        return rng.choice(WORDS) + unit * (LONG // max(len(unit), 1)) + rng.choice(WORDS)
    return "".join(rng.choice(WORDS) for _ in range(rng.randrange(60)))


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and some that only Python's reader takes for one."""
    kinds = 8 if depth < 4 else 6
    kind = rng.randrange(kinds)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice((0, -1, 1, 10**6, 2**63, -(2**70), 10**300))
    if kind == 2:
        return rng.choice((0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")))
    if kind < 6:
        return text(rng)[:2000]
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3, 70)))]
    return {text(rng)[:30]: value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}


def body(rng: random.Random, schema: dict[str, Any], known: dict[str, Any], samples: dict[str, list[Any]]) -> Any:
    """A value by an OpenAPI schema, right in most places and anything in some. samples: values known to be good."""
    if rng.random() < 0.08:
        return value(rng)
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return body(rng, rng.choice(choices), known, samples)
    kind = schema.get("type")
    if kind == "object":
        found = {}
        for name, inner in schema.get("properties", {}).items():
            if rng.random() < 0.9:
                good = samples.get(name)
                found[name] = rng.choice(good) if good and rng.random() < 0.6 else body(rng, inner, known, samples)
        if not schema.get("properties") or rng.random() < 0.05:
            found[rng.choice(list(samples) or ["x"])] = value(rng)
        return found
    if kind == "array":
        return [body(rng, schema.get("items", {}), known, samples) for _ in range(rng.choice((0, 1, 2, 65)))]
    if kind == "string":
        return text(rng)[:500]
    if kind == "integer":
        return rng.choice((0, 1, -5, 2**70))
    if kind == "number":
        return rng.choice((0.5, 1e300))
    if kind == "boolean":
        return rng.random() < 0.5
    return value(rng)


def as_json(rng: random.Random, found: Any) -> bytes:
    """JSON as a client sends it; at times wounded, deep, or with numbers out of all range."""
    raw = json.dumps(found, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    chance = rng.random()
    if chance < 0.05:
        return mutated(rng, [raw])
    if chance < 0.08:
        return b'{"settings": ' + b"[" * rng.choice((40, 2000, 200_000)) + b"]" * rng.choice((0, 40)) + b"}"
    if chance < 0.11:
        return raw.replace(b"0.5", b"1e999").replace(b": 1", b": " + b"9" * rng.choice((20, 5000)))
    return raw
