"""A picture's own name: the digest of its decoded pixels, which survives moving, renaming and rewritten metadata."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from ..errors import ImageError
from ..preprocess import open_image
from .records import Seen

if TYPE_CHECKING:
    from PIL import Image

DIGEST_BYTES = 16


def look(path: str | os.PathLike[str]) -> Seen:
    """The file's size, time and pixels. Raises ImageError if it cannot be read."""
    place = stored_path(path)
    try:
        before = os.stat(place)
    except OSError as error:
        raise ImageError(f"cannot read {place}: {error.strerror or error}") from error
    image = open_image(place)
    try:
        digest = pixel_digest(image)
        width, height = image.size
    except MemoryError as error:
        raise ImageError(f"{place} is too large to be read: {error}") from error
    finally:
        image.close()
    return Seen(place, digest, width, height, before.st_size, before.st_mtime_ns)


def pixel_digest(image: Image.Image) -> bytes:
    """Digest of a picture's size and pixels, as RGB; as RGBA where something shows through."""
    mode = "RGB"
    if "A" in image.getbands() or "transparency" in image.info:
        whole = image.convert("RGBA")
        low, _ = whole.getchannel("A").getextrema()
        mode = "RGB" if low == 255 else "RGBA"
    pixels = image.convert(mode)
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hasher.update(f"{mode} {pixels.width}x{pixels.height}".encode())
    hasher.update(pixels.tobytes())
    return hasher.digest()


def stored_path(path: str | os.PathLike[str]) -> str:
    """A path as the library keeps it: absolute; on Windows with the case that the file system has."""
    return os.path.realpath(path) if os.name == "nt" else os.path.abspath(path)
