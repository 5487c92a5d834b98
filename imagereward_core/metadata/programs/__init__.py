"""Which program made an image, and from which prompt: one small reader for each family of programs.

A reader takes the image's texts by their places and answers with a `Reading`, or None where they are not its program's.
A new program is a file here and a line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from . import comfyui, easydiffusion, fooocus, invokeai, novelai, swarmui, unknown, webui
from .reading import Reading, Texts

# Infotext in front, as it is in words; then those that are sure of their program; then those that take what is left.
READERS: tuple[Callable[[Texts], Reading | None], ...] = (
    easydiffusion.read_lines,
    webui.read,
    novelai.read,
    swarmui.read,
    comfyui.read,
    invokeai.read,
    easydiffusion.read,
    fooocus.read,
    unknown.read,
)


def readings(texts: Mapping[str, str]) -> Iterator[Reading]:
    """What every reader that knows these texts makes of them, in the order of `READERS`."""
    known = Texts(texts)
    for read in READERS:
        reading = read(known)
        if reading is not None:
            yield reading
