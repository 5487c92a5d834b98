"""Writing and reading infotexts by the rules of the format: prompt, negative prompt, one settings line of at least
three pairs.
"""

from __future__ import annotations

import json
import re
from typing import Any

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text


def create(
    p: Any,
    prompts: list[str],
    seeds: list[int],
    subseeds: list[int],
    use_main_prompt: bool = False,
    index: int | None = None,
    all_negative_prompts: list[str] | None = None,
    iteration: int = 0,
    position_in_batch: int = 0,
) -> str:
    """`index` is local to the lists given: to the batch in the main loop, to the job from Processed."""
    if use_main_prompt:
        index = 0
    elif index is None:
        index = position_in_batch + iteration * p.batch_size
    negative = all_negative_prompts if all_negative_prompts is not None else p.all_negative_prompts
    pairs: dict[str, Any] = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "CFG scale": p.cfg_scale,
        "Seed": p.all_seeds[0] if use_main_prompt else seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model": getattr(p, "model", None),
        **p.extra_generation_params,
        "Version": "fake",
    }
    for key, value in pairs.items():
        if isinstance(value, list):
            pairs[key] = value[index]
        elif callable(value):
            pairs[key] = value(p=p, index=index, use_main_prompt=use_main_prompt, all_prompts=prompts)
    line = ", ".join(f"{key}: {quote(value)}" for key, value in pairs.items() if value is not None)
    text = p.prompt if use_main_prompt else prompts[index]
    below = f"\nNegative prompt: {negative[index]}" if negative[index] else ""
    return f"{text}{below}\n{line}"


def parse(text: str) -> dict[str, Any]:
    """The pairs of the last line if it has three or more; all else is prompt, and then negative prompt."""
    *lines, last = text.strip().split("\n")
    pairs = PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    result: dict[str, Any] = {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}
    parts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    into = "Prompt"
    for line in lines:
        if line.startswith("Negative prompt:"):
            into, line = "Negative prompt", line[len("Negative prompt:") :].strip()
        parts[into].append(line)
    return {**result, **{key: "\n".join(value) for key, value in parts.items()}}
