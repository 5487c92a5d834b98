"""Infotext: the generation parameters that Stable Diffusion web UIs keep with an image, and a score's place in them.

    a cat, (sharp:1.2)
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, Seed: 1, Size: 512x512, ImageReward: 0.5812, ImageReward model: ImageReward-v1.0

AUTOMATIC1111's reader takes the last line for settings if it finds at least three `key: value` pairs there; else every
line belongs to the prompts. Keys are words of letters, digits, space, `-` and `/`; values with a comma, colon or line
break are JSON strings. A score is therefore pairs *inside* that line: a line of its own would turn all settings into
prompt text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from ..errors import MetadataError
from ..naming import pair_keys
from ..prompts import plain_prompt

ENOUGH = 3  # pairs that make a line a settings line
KEY = re.compile(r"[\w \-/]+")
QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=,|$)')
NEGATIVE = re.compile(r"^[^\S\n]*Negative prompt:", re.MULTILINE)
# What other extensions append below the settings line: dynamic prompts its templates, the original ImageReward script
# its score.
APPENDED = re.compile(r"\n(?=(?:Negative )?Template:|ImageReward Score:)")
OLD_SCORE = re.compile(r"\nImageReward Score:[^\n]*")


@dataclass(frozen=True)
class Infotext:
    """The parts of an infotext. `trailer` holds lines that other extensions append below the settings."""

    prompt: str = ""
    negative_prompt: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    trailer: str = ""

    def get(self, key: str) -> str | None:
        """The last value of that setting, None if it is not there."""
        return next((value for name, value in reversed(self.settings) if name == key), None)


@dataclass(frozen=True)
class StoredScore:
    """A score as it is kept with an image. `key` is its setting's name, `model` tells which weights produced it,
    `prompt` is the text it was scored against (None where the scorer reads no prompt).
    """

    value: float
    model: str
    prompt: str | None = None
    key: str = "ImageReward"


def format_score(value: float) -> str:
    """A score as stored: four decimals, never "-0.0000"."""
    text = f"{value:.4f}"
    return "0.0000" if text == "-0.0000" else text


def quote(value: str) -> str:
    """A settings value as it is written: as it is, or as a JSON string where it would not be read back otherwise."""
    plain = value and value == value.strip() and not value.startswith('"') and not any(mark in value for mark in ",:\n")
    return value if plain else json.dumps(value, ensure_ascii=False)


def unquote(value: str) -> str:
    """Inverse of `quote`; what is no JSON string is returned unchanged."""
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    try:
        text = json.loads(value, strict=False)
    except ValueError:
        return value
    return text if isinstance(text, str) else value


def parse_infotext(text: str) -> Infotext:
    """Read any text; without a settings line it is prompt (and negative prompt) only."""
    head, line, tail = sections(text)
    head = head.removesuffix("\n") if line else head.rstrip()
    negative = NEGATIVE.search(head)
    prompt = head[: negative.start()].removesuffix("\n") if negative else head
    return Infotext(
        prompt=prompt,
        negative_prompt=head[negative.end() :].removeprefix(" ") if negative else "",
        settings=tuple((key, unquote(value)) for _, _, key, value in pairs_in(line)),
        trailer=tail.strip(),
    )


def build_infotext(info: Infotext) -> str:
    """Inverse of `parse_infotext`. Raises MetadataError for what the format cannot hold, such as one or two settings, a
    key with a dot, or a prompt with a line that starts with "Negative prompt:".
    """
    parts = [info.prompt] if info.prompt else []
    if info.negative_prompt:
        parts.append(f"Negative prompt: {info.negative_prompt}")
    if info.settings:
        parts.append(", ".join(f"{key}: {quote(value)}" for key, value in info.settings))
    if info.trailer:
        parts.append(info.trailer)
    text = "\n".join(parts)
    if parse_infotext(text) != info:
        raise MetadataError(
            f"these generation parameters cannot be written so that they are read back the same: {text[:200]!r}"
        )
    return text


def get_score(text: str, key: str = "ImageReward") -> StoredScore | None:
    """The score kept under `key`, or None. A score of the original ImageReward script (a line of its own) has model
    "".
    """
    info = parse_infotext(text)
    raw, model, prompt = (info.get(name) for name in pair_keys(key))
    if raw is None and key == "ImageReward" and (old := OLD_SCORE.search(f"\n{info.trailer}")):
        raw = old.group().partition(":")[2]
    try:
        value = float(raw) if raw is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        return None
    return StoredScore(value, model or "", plain_prompt(info.prompt) if prompt is None else prompt, key)


def with_score(text: str, score: StoredScore, size: tuple[int, int] | None = None, takes_prompt: bool = True) -> str:
    """`text` with that score in its settings line, in place of an older one of the same key; all else stays as it is.

    The prompt scored against is written only if it is not the text's own. A text without settings gets a settings line;
    the third pair it needs is the image's `size` (width, height), or the prompt where that is unknown. An empty text
    takes the prompt as its own, unless the image's prompt stands elsewhere (`takes_prompt` False). Raises MetadataError
    for a score that is not finite and for another program's JSON.
    """
    if not math.isfinite(score.value):
        raise MetadataError(f"a score must be a finite number, found {score.value}")
    if _is_json_object(text):
        raise MetadataError("the image's parameters are another program's JSON, which has no place for a score")
    head, line, tail = sections(text)
    if not text.strip():
        prompt = score.prompt or ""
        own = head = prompt if takes_prompt and _survives(prompt) else ""
    else:
        own = parse_infotext(text).prompt
        head = head if line else head.rstrip()
    if head and not line:
        head += "\n"
    if score.key == "ImageReward":
        tail = OLD_SCORE.sub("", tail)
    kept = without(line, set(pair_keys(score.key)))
    pairs = _pairs_of(score, plain_prompt(own), _count(kept), None if line else size)
    result = head + ", ".join([kept, *pairs] if kept else pairs) + tail
    if not _reads_back(result, score):
        raise MetadataError(
            f"a score cannot be added to these settings so that it is read back the same: {line[-200:]!r}"
        )
    return result


def _pairs_of(score: StoredScore, own: str, beside: int, size: tuple[int, int] | None) -> list[str]:
    """A score's pairs as they are written. `own` is the prompt the text itself holds, `beside` the number of pairs that
    stand in the line already, `size` the image's where it may be added.
    """
    value_key, model_key, prompt_key = pair_keys(score.key)
    pairs = [f"{value_key}: {format_score(score.value)}", f"{model_key}: {quote(score.model or 'unknown')}"]
    if size is not None:
        pairs.insert(0, f"Size: {size[0]}x{size[1]}")
    another = score.prompt is not None and score.prompt != own
    if another or beside + len(pairs) < ENOUGH:
        pairs.append(f"{prompt_key}: {quote(own if score.prompt is None else score.prompt)}")
    return pairs


def _reads_back(text: str, score: StoredScore) -> bool:
    """Whether a reader finds this score in the text, value and prompt."""
    written = get_score(text, score.key)
    if written is None or format_score(written.value) != format_score(score.value):
        return False
    return score.prompt is None or score.prompt == written.prompt


def with_settings(text: str, changes: Mapping[str, str | None]) -> str:
    """`text` with these settings, each in place of its older self; None takes one out. Without a settings line it stays
    as it is: there is none of ours in it, and a line of fewer than three pairs would be read as prompt.
    """
    head, line, tail = sections(text)
    if not line:
        return text
    kept = without(line, set(changes))
    pairs = [f"{key}: {quote(value)}" for key, value in changes.items() if value is not None]
    return head + ", ".join([*([kept] if kept else []), *pairs]) + tail


def pairs_in(line: str) -> Iterator[tuple[int, int, str, str]]:
    """(start, end, key, value as written) of every pair in a line, found as AUTOMATIC1111's reader finds them.

    A key is the longest run of key characters before a colon, from its first letter or digit on. Looking for runs and
    not for keys keeps this linear in the length of the line.
    """
    position = 0
    while run := KEY.search(line, position):
        position = run.end()
        key = run.group().lstrip(" -/")
        if line[position : position + 1] != ":" or len(key) < 2:
            continue
        start = _skip_blank(line, position + 1)
        quoted = QUOTED.match(line, start)
        comma = line.find(",", start)
        end = quoted.end() if quoted else comma if comma >= 0 else len(line)
        yield position - len(key), end, key, line[start:end]
        position = end


def _skip_blank(line: str, position: int) -> int:
    while line[position : position + 1].isspace():
        position += 1
    return position


def _count(line: str) -> int:
    return sum(1 for _ in islice(pairs_in(line), ENOUGH))


def sections(text: str) -> tuple[str, str, str]:
    """(lines above, the settings line, what follows); joined they are `text`. Without settings: (text, "", "")."""
    end = len(text.rstrip())
    start = text.rfind("\n", 0, end) + 1
    last = _count(text[start:end]) >= ENOUGH
    if not last or APPENDED.match(f"\n{text[start : start + 40]}"):
        for mark in reversed(list(APPENDED.finditer(text, 0, end))):
            above = text.rfind("\n", 0, mark.start()) + 1
            if _count(text[above : mark.start()]) >= ENOUGH and not APPENDED.match(f"\n{text[above : above + 40]}"):
                return text[:above], text[above : mark.start()], text[mark.start() :]
    return (text[:start], text[start:end], text[end:]) if last else (text, "", "")


def without(line: str, keys: set[str]) -> str:
    """The line less the pairs of these keys and their commas."""
    kept, position = [], 0
    for start, end, key, _ in pairs_in(line):
        if key in keys:
            kept.append(line[position:start])
            position = end + (line[end : end + 1] == ",")
            position += line[position : position + 1] == " "
    return "".join([*kept, line[position:]]).rstrip(", ")


def _survives(prompt: str) -> bool:
    """Whether a prompt written as the text of an infotext is read back the same, by us and by AUTOMATIC1111's reader
    (which strips every line).
    """
    stripped = "\n".join(part.strip() for part in prompt.strip().split("\n"))
    return prompt == stripped and not NEGATIVE.search(prompt)


def _is_json_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
