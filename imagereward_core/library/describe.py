"""How a picture was made, and what it was scored, as its file says it. Everything is read by `metadata`; this only
names the parts.
"""

from __future__ import annotations

import dataclasses
import math
import os

from ..errors import MetadataError
from ..metadata import read_infotext, read_prompt
from ..metadata.infotext import Infotext, get_score, parse_infotext
from ..naming import PANEL_KEY, score_key
from ..prompts import EXTRA_NETWORK, plain_prompt
from ..registry import MODELS
from .records import Made, Score

LORAS = ("lora", "lyco")  # the tags that load a LoRA


def described(path: str | os.PathLike[str]) -> tuple[Made, tuple[Score, ...]]:
    """(how the picture was made, the scores its file holds). What cannot be read is as if it were not there: the
    pixels may be whole all the same.
    """
    try:
        text = read_infotext(path) or ""
        found = read_prompt(path)
    except MetadataError:
        return Made(), ()
    info = parse_infotext(text)
    return made_of(info, found.text if found else ""), scores_of(text, info)


def made_of(info: Infotext, prompt: str) -> Made:
    """The prompt that was found (another program's, too), and an infotext's settings, if it has any."""
    return Made(
        prompt=prompt.strip() or None,
        negative=info.negative_prompt.strip() or None if info.settings else None,
        seed=_whole(info.get("Seed")),
        sampler=info.get("Sampler") or None,
        steps=_whole(info.get("Steps")),
        cfg=_number(info.get("CFG scale")),
        checkpoint=info.get("Model") or None,
        checkpoint_hash=(info.get("Model hash") or "").lower() or None,
        loras=loras_of(prompt),
        program=info.get("Version") or None,
    )


def filled(made: Made, other: Made) -> Made:
    """`made`, with what it leaves open taken from `other`."""
    known = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return dataclasses.replace(other, **{name: value for name, value in known.items() if value not in (None, ())})


def loras_of(prompt: str) -> tuple[tuple[str, float | None], ...]:
    """The LoRAs a prompt loads with their weights, by name: `<lora:name:0.8>`; without a number the weight is 1. Of one
    that is named twice the last counts. None for a weight that cannot be read.
    """
    found: dict[str, float | None] = {}
    for tag in EXTRA_NETWORK.findall(prompt):
        kind, name, *weights = tag[1:-1].split(":")
        if kind.lower() in LORAS and name.strip():
            plain = [weight for weight in weights if "=" not in weight]
            found[name.strip()] = _number(plain[0]) if plain else 1.0
    return tuple(sorted(found.items()))


def scores_of(text: str, info: Infotext) -> tuple[Score, ...]:
    """The scores in an infotext: those of the registry's keys, and of every other key with a "… model" beside it. Of a
    panel its scorers' own: what they have in common follows from these.
    """
    named = [key.removesuffix(" model") for key, _ in info.settings if key.endswith(" model")]
    named = [key for key in named if key != PANEL_KEY]
    own = plain_prompt(info.prompt)
    scores = []
    for key in dict.fromkeys([*map(score_key, MODELS), *named]):
        stored = get_score(text, key)
        if stored is not None:
            other = stored.prompt if stored.prompt != own else None
            scores.append(Score(stored.model or key, stored.value, prompt=other))
    return tuple(scores)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str | None) -> int | None:
    """A whole number; int() itself refuses thousands of digits, and takes time for them."""
    text = (text or "").strip()
    return int(text) if text.lstrip("-").isascii() and text.lstrip("-").isdecimal() and len(text) <= 20 else None
