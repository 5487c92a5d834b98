"""Fooocus' own scheme (the other one is infotext) and its relatives: JSON with the prompt as it was typed.

Fooocus writes PNG's `parameters` or a UserComment in EXIF's first directory; Fooocus-MRE PNG's `Comment`; RuinedFooocus
has capitals. Whatever else keeps an object with a prompt in these places is read the same.
"""

from __future__ import annotations

from ..formats import places
from .reading import Reading, Texts, string_at

PLACES = (*places.INFOTEXT, "Comment")
NAMES = ("prompt", "Prompt", "positive_prompt", "positivePrompt", "raw_prompt")


def read(texts: Texts) -> Reading | None:
    for data in texts.objects(PLACES):
        prompt = string_at(data, *NAMES)
        if prompt is not None:
            return Reading(_program(data), prompt)
    return None


def _program(data: dict[str, object]) -> str:
    named = string_at(data, "software", "Software", "version", "Version", "metadata_scheme") or ""
    if named.startswith("RuinedFooocus"):
        return "RuinedFooocus"
    if "use_stable_diffusion_model" in data or "Stable Diffusion model" in data:
        return "Easy Diffusion"
    return "Fooocus" if named.lower().startswith("fooocus") or "full_prompt" in data else ""
