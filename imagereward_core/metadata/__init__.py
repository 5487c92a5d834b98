"""Scores and prompts in image files: read, and written without re-encoding, in one atomic step.

`prompt_of` answers which prompt an image was made from, whichever program made it. The score's text is AUTOMATIC1111's
infotext (see `infotext`), in the PNG chunk `parameters` or the EXIF UserComment of JPEG, WebP and AVIF.
"""

from __future__ import annotations

import os

from ..errors import MetadataError
from .files import read_image
from .formats import read_text
from .found import ForeignText, FoundPrompt, NoPrompt, reason
from .infotext import StoredScore, get_score
from .prompt import caption_of, prompt_in_image, prompt_of
from .writing import write_score

__all__ = [
    "ForeignText",
    "FoundPrompt",
    "NoPrompt",
    "caption_of",
    "prompt_in_image",
    "prompt_of",
    "read_infotext",
    "read_prompt",
    "read_score",
    "reason",
    "write_score",
]


def read_infotext(path: str | os.PathLike[str]) -> str | None:
    """The infotext in an image file, None if it has none. Raises MetadataError naming the file if it is damaged."""
    try:
        return read_text(read_image(path))
    except MetadataError as error:
        raise MetadataError(f"cannot read the metadata of {os.fspath(path)}: {error}") from error


def read_prompt(path: str | os.PathLike[str]) -> FoundPrompt | None:
    """The prompt an image was made from, None if it has none that can be read; `prompt_of` also says why."""
    found = prompt_of(path)
    return found if isinstance(found, FoundPrompt) else None


def read_score(path: str | os.PathLike[str], key: str = "ImageReward") -> StoredScore | None:
    """The score kept in an image file under `key`, None if there is none."""
    return get_score(read_infotext(path) or "", key)
