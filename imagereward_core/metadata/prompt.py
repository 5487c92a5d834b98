"""THE answer to "which prompt was this image made from?", for the command line, the WebUI, ReFL and everybody else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MetadataError
from .files import read_caption, read_image
from .formats import exif, places, read_texts
from .formats.charset import decode, decode_latin
from .found import INFOTEXT, TEXT_FILE, ForeignText, FoundPrompt, NoPrompt
from .programs import readings

if TYPE_CHECKING:
    from PIL import Image

CAPTIONS = (".txt", ".caption")  # what a text file beside an image is called, the first that holds a prompt counts


def prompt_of(path: str | os.PathLike[str], caption_first: bool = False) -> FoundPrompt | NoPrompt | ForeignText:
    """The prompt of an image file: the one it holds, else that of the text file beside it (`cat.png` and `cat.txt` or
    `cat.caption`); with `caption_first` the other way round, as training sets are captioned.

    Read are AUTOMATIC1111's infotext and its relatives', Fooocus, RuinedFooocus, SwarmUI, NovelAI, InvokeAI, Easy
    Diffusion, ComfyUI and Civitai (see `programs`) in PNG, JPEG, WebP, AVIF and GIF. Raises MetadataError naming the
    file if it cannot be read or is damaged.
    """
    if caption_first:
        caption = caption_of(path)
        if isinstance(caption, FoundPrompt):
            return caption
    try:
        texts = read_texts(read_image(path))
    except MetadataError as error:
        raise MetadataError(f"cannot read the metadata of {os.fspath(path)}: {error}") from error
    return prompt_among(texts, path)


def prompt_among(
    texts: Mapping[str, str], path: str | os.PathLike[str] | None = None
) -> FoundPrompt | NoPrompt | ForeignText:
    """The same from an image's texts by their places (`formats.places`), and the text file beside `path` if given."""
    inside, borrowed = _answer(texts, INFOTEXT)
    if path is None or (isinstance(inside, FoundPrompt) and not borrowed):
        return inside
    beside = caption_of(path)
    if isinstance(beside, FoundPrompt):
        return beside
    return beside if inside == NoPrompt() else inside


def caption_of(path: str | os.PathLike[str]) -> FoundPrompt | NoPrompt | ForeignText:
    """The prompt in the text file beside an image. Infotext and other programs' settings in it are read as in images;
    anything else is a caption from its first word to its last.
    """
    answer: NoPrompt | ForeignText = NoPrompt()
    for suffix in CAPTIONS if Path(path).name else ():
        file = Path(path).with_suffix(suffix)
        text = read_caption(file)
        if text is None:
            continue
        found, _ = _answer({places.PARAMETERS: text}, TEXT_FILE)
        if isinstance(found, FoundPrompt):
            return found
        answer = NoPrompt(f"{file.name} beside it is empty") if found == NoPrompt() else found
    return answer


def prompt_in_image(image: Image.Image) -> FoundPrompt | NoPrompt | ForeignText:
    """The prompt that an image opened by Pillow carries with it (`Image.info`)."""
    return prompt_among(_texts_of(image.info))


def _texts_of(info: Mapping[Any, Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    block = info.get("exif")
    if isinstance(block, bytes) and block.removeprefix(exif.PREFIX):
        with contextlib.suppress(MetadataError):  # the image is here all the same, and what else it carries
            texts = exif.read_texts(block.removeprefix(exif.PREFIX))
    for name, value in info.items():
        if name in places.PNG_KEYWORDS and isinstance(value, str):
            texts[name] = value if type(value) is not str else _repaired(value)
    comment = info.get("comment")
    if isinstance(comment, (bytes, str)):
        texts[places.COMMENT] = comment if isinstance(comment, str) else decode(comment).rstrip("\0")
    return texts


def _repaired(text: str) -> str:
    """Pillow reads PNG's tEXt as Latin-1 (and iTXt into a class of its own); see `decode_latin`."""
    try:
        return decode_latin(text.encode("latin-1"))
    except UnicodeEncodeError:
        return text


def _answer(texts: Mapping[str, str], source: str) -> tuple[FoundPrompt | NoPrompt | ForeignText, bool]:
    """(the answer, whether its prompt is borrowed)."""
    foreign: ForeignText | None = None
    empty: NoPrompt | None = None
    for reading in readings(texts):
        if reading.prompt and reading.prompt.strip():
            return FoundPrompt(reading.prompt.strip(), source, reading.program), reading.borrowed
        if reading.prompt is None:
            foreign = foreign or ForeignText(reading.program, reading.why)
        else:
            empty = empty or NoPrompt(f"{reading.program or 'the program that made it'} was given an empty prompt")
    return foreign or empty or NoPrompt(), False
