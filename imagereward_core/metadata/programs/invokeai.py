"""InvokeAI: `invokeai_metadata` since 3.0, `sd-metadata` and `Dream` before, whose prompts have what is *not* wanted in
square brackets.
"""

from __future__ import annotations

import re
from typing import Any

from .reading import Reading, Texts, string_at

PROGRAM = "InvokeAI"
QUOTED = re.compile(r'\s*"((?:\\.|[^"\\])*)"')
OPTION = re.compile(r"\s-{1,2}[A-Za-z]")
UNWANTED = re.compile(r"\[[^\[\]]*\]")


def read(texts: Texts) -> Reading | None:
    if "invokeai_metadata" in texts:
        prompt = string_at(texts.object("invokeai_metadata"), "positive_prompt")
        return Reading(PROGRAM, prompt, "its metadata hold no positive prompt")
    if "sd-metadata" in texts:
        image = texts.object("sd-metadata").get("image")
        prompt = _weighted(image.get("prompt")) if isinstance(image, dict) else None
        if prompt is not None or "Dream" not in texts:
            return Reading(PROGRAM, prompt, "its metadata hold no prompt")
    if "Dream" in texts:
        return Reading(PROGRAM, _wanted(_command(texts["Dream"])))
    if "invokeai_graph" in texts:
        return Reading(PROGRAM, why="it keeps a graph and no prompt")
    return None


def _weighted(prompt: Any) -> str | None:
    """A prompt, or a list of prompts with weights, of which those above zero are wanted."""
    if isinstance(prompt, str):
        return _wanted(prompt)
    if not isinstance(prompt, list):
        return None
    parts = []
    for part in prompt:
        weight = part.get("weight", 1) if isinstance(part, dict) else 1
        text = string_at(part, "prompt")
        if text is not None and isinstance(weight, (int, float)) and weight > 0:
            parts.append(_wanted(text))
    return ", ".join(filter(None, parts)) if parts else None


def _command(line: str) -> str:
    """The prompt of a command line: `"a cat" -s 50 -S 1`, in old files without the quotes."""
    quoted = QUOTED.match(line)
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    option = OPTION.search(line)
    return line[: option.start()] if option else line


def _wanted(prompt: str) -> str:
    return " ".join(UNWANTED.sub(" ", prompt).split())
