"""Which part of an infotext, or of a caption, is its prompt.

`parse_infotext` reads as web UIs do, for whom any three `key: value` pairs are settings. Captions are full of such
pairs (`artist: someone, rating: safe`), and tools write lines of settings that belong to no prompt. So a line counts as
settings here only if it holds a setting that image generators write, with a value such a setting has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from ..naming import DISAGREEMENT_KEY, PANEL_KEY, pair_keys
from ..registry import MODELS
from .infotext import ENOUGH, NEGATIVE, pairs_in, sections, without

NUMBER = r"-?\d+(?:\.\d*)?"
SIZE = "Size"
GENERATION = {  # settings that every generator of infotext writes, and what their values look like
    "Steps": re.compile(r"\d+"),
    "Sampler": re.compile(r".+"),
    "Schedule type": re.compile(r".+"),
    "CFG scale": re.compile(NUMBER),
    "Distilled CFG Scale": re.compile(NUMBER),
    "Seed": re.compile(r"-?\d+"),
    SIZE: re.compile(r"\d+x\d+"),
    "Model hash": re.compile(r"[0-9a-fA-F]{6,}"),
    "Denoising strength": re.compile(NUMBER),
    "Clip skip": re.compile(r"\d+"),
}
# What the host's Extras tab and its usual extensions write into a JPEG or WebP in place of the infotext.
EXTRAS = "Postprocess "
EXTRAS_TOO = frozenset(("GFPGAN visibility", "CodeFormer visibility", "CodeFormer weight", "Rembg", "SUPIR"))
SCORE_KEYS = frozenset((PANEL_KEY, DISAGREEMENT_KEY, *(info.key for info in MODELS)))
LOOKED_AT = 2000  # pairs of a line
LINES = 4  # lines at the end that can be settings: the host's, and one for a score


@dataclass(frozen=True)
class OwnWords:
    """`prompt` as it is written, "" if there is none. `settings`: the line that was under it, less a score of ours.
    `extras`: that line tells how an image was processed and not what it was made from. `borrowed`: there is no such
    line, but one that was made for a score, so that the prompt may be the one scored against.
    """

    prompt: str
    settings: str = ""
    extras: bool = False
    borrowed: bool = False


def own_words(text: str) -> OwnWords:
    """The prompt of an infotext or a caption."""
    head, last, _ = sections(text)
    body = (head + last if last else text).replace("\r\n", "\n").rstrip()
    settings: list[str] = []
    scored = False
    for _ in range(LINES):
        if not body or settings:
            break
        start = body.rfind("\n") + 1
        last = body[start:]
        kept = without(last, _scores(last)).strip()
        if kept and not _is_settings(kept):
            body = body[:start] + kept
            break
        if _is_made_for_a_score(last, kept):
            scored = True
        else:
            settings.append(kept)
        body = body[:start].rstrip()
    negative = NEGATIVE.search(body)
    prompt = body[: negative.start()] if negative else body
    line = "".join(settings)
    return OwnWords(prompt.strip(), line, _is_extras(line), scored and not line)


def _scores(line: str) -> set[str]:
    """The keys of the scores in a line: ours, and what stands with a model's name under any other name."""
    values = {key: value for _, _, key, value in islice(pairs_in(line), LOOKED_AT)}
    found: set[str] = set()
    for key, value in values.items():
        if not re.fullmatch(NUMBER, value.strip()):
            continue
        if key in SCORE_KEYS or f"{key} model" in values:
            found |= {*pair_keys(key), f"{key} note"}
    return found | {f"{key} note" for key in SCORE_KEYS}


def _is_made_for_a_score(line: str, kept: str) -> bool:
    """Whether we added this line to have a place for a score; the image's size is a pair that such a line needs."""
    return kept != line.strip() and (not kept or re.fullmatch(rf"{SIZE}: \d+x\d+", kept) is not None)


def _is_settings(line: str) -> bool:
    pairs = list(islice(pairs_in(line), LOOKED_AT))
    if not any(_is_generation(key, value) or _is_tool(key) for _, _, key, value in pairs):
        return False
    return len(pairs) >= ENOUGH or line[: pairs[0][0]].strip() == ""


def _is_extras(line: str) -> bool:
    pairs = list(islice(pairs_in(line), LOOKED_AT))
    tools = any(_is_tool(key) for _, _, key, _ in pairs)
    return tools and not any(_is_generation(key, value) and key != SIZE for _, _, key, value in pairs)


def _is_generation(key: str, value: str) -> bool:
    return key in GENERATION and GENERATION[key].fullmatch(value.strip()) is not None


def _is_tool(key: str) -> bool:
    return key.startswith(EXTRAS) or key in EXTRAS_TOO
