"""Images to normalised pixels, exactly as the published preprocessing does it, and a differentiable twin for tensors.

Order matters: shorter side to `size` with bicubic resampling on the image *in its own mode* (Pillow samples palette
images with nearest neighbour, RGBA with premultiplied alpha), centre crop, then RGB, then CLIP's mean and standard
deviation.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from .errors import ImageError
from .image_files import FORMATS

if TYPE_CHECKING:
    import torch
    from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP (Radford et al. 2021)
STD = (0.26862954, 0.26130258, 0.27577711)
LARGE = 1 << 24  # pixels of a file above which it is decoded alone
_LARGE_ONE = threading.Lock()
HUGE = 1 << 24  # pixels of the resized image above which only the part that survives the crop is resampled


def open_image(source: Any, exif_transpose: bool = False) -> Image.Image:
    """A PIL image from a PIL image, a path, a numpy array [H, W], [H, W, 1|3|4] of uint8, or the bytes of an encoded
    file, also as a binary file object, which is read from its beginning; first frame of animations.

    Files are of the formats in `image_files.FORMATS`; others are not tried: Pillow hands EPS to another program.
    `exif_transpose` turns the image as its camera says; the published model was trained without, so it is off.
    Raises ImageError with the path and the cause for whatever cannot be read.
    """
    from PIL import Image, ImageOps

    if isinstance(source, Image.Image):
        image, name = source, getattr(source, "filename", "") or "image"
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        image = _open_file(name)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name = "the image given as bytes"
        image = _open_encoded(io.BytesIO(source), name)
    elif hasattr(source, "read") and hasattr(source, "seek"):
        name = str(getattr(source, "name", "") or "the image given as a file object")
        source.seek(0)
        image = _open_encoded(source, name)
    elif type(source).__module__ == "numpy" and hasattr(source, "dtype"):
        image, name = _from_array(source), "array"
    else:
        raise ImageError(
            f"an image must be a PIL image, a path, a numpy array or an encoded file's bytes, found"
            f" {type(source).__name__}"
        )
    with _decoding(name, "cannot read", "The file is damaged or incomplete; save it again or leave it out"):
        image.load()
        if exif_transpose:
            image = ImageOps.exif_transpose(image)
        return _eight_bit(image, str(name))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) as the file's header says. Raises ImageError as `open_image` does."""
    with _open_file(os.fspath(path)) as image:
        return image.size


@contextmanager
def alone_if_large(source: Any) -> Iterator[None]:
    """Inside, no other thread decodes a large file: one needs `LARGE` pixels and more at once, and their sum over all
    cores would fill the memory. What is decoded already, or cannot be opened, does not wait.
    """
    with _LARGE_ONE if _pixels_to_decode(source) > LARGE else nullcontext():
        yield


def _pixels_to_decode(source: Any) -> int:
    try:
        if isinstance(source, (str, os.PathLike)):
            width, height = image_size(source)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            with _open_encoded(io.BytesIO(source), "") as image:
                width, height = image.size
        elif isinstance(source, io.BytesIO):
            source.seek(0)
            width, height = _open_encoded(source, "").size
        else:
            return 0
    except ImageError:
        return 0  # what is wrong is said where it is read
    return width * height


@contextmanager
def _decoding(name: str, problem: str, advice: str = "") -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError that names the image: decoders are foreign code, and on damaged
    files they fail in ways that nobody listed (ZeroDivisionError, RuntimeError, struct.error, MemoryError, …).
    """
    from PIL import Image

    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is larger than Pillow's safety limit: {error}") from error
    except Exception as error:  # noqa: BLE001 - see above
        cause = str(error) or type(error).__name__
        raise ImageError(f"{problem} {name}: {cause}" + (f". {advice}" if advice else "")) from error


def _open_file(path: str) -> Image.Image:
    try:
        state = os.stat(path)
    except FileNotFoundError as error:
        raise ImageError(f"no such image: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: NUL or half a surrogate pair in the name
        raise ImageError(f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(state.st_mode):
        raise ImageError(f"{path} is a folder: pass the image files in it")
    if not stat.S_ISREG(state.st_mode):
        raise ImageError(f"{path} is no file but a pipe, a socket or a device")
    if state.st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes)")
    return _open_encoded(path, path)


def _open_encoded(file: Any, name: str) -> Image.Image:
    from PIL import Image

    known = formats()
    with _decoding(name, "cannot open"):
        try:
            return Image.open(file, formats=known)
        except (Image.UnidentifiedImageError, SyntaxError) as error:
            raise ImageError(
                f"{name} is not an image that Pillow {_pillow_version()} can read as one of {', '.join(known)}: {error}"
            ) from error


def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has a decoder for."""
    from PIL import Image

    Image.preinit()
    if not all(name in Image.OPEN for name in FORMATS):
        Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _pillow_version() -> str:
    import PIL

    return PIL.__version__


def _from_array(array: Any) -> Image.Image:
    from PIL import Image

    shape = tuple(array.shape)
    if (
        str(array.dtype) != "uint8"
        or len(shape) not in (2, 3)
        or (len(shape) == 3 and shape[2] not in (1, 3, 4))
        or 0 in shape
    ):
        raise ImageError(f"a numpy image must be uint8 [height, width, 3], found {array.dtype} {list(shape)}")
    return Image.fromarray(array[:, :, 0] if len(shape) == 3 and shape[2] == 1 else array)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """16-bit greyscale becomes 8-bit by its high byte; Pillow's own conversion would clip it to white."""
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point pixels of unknown range: convert it to 8 bits first")
    if image.mode == "I" or image.mode.startswith("I;"):
        return image.convert("I").point(lambda value: value / 256).convert("L")
    return image


def resize_and_crop(image: Image.Image, size: int = 224, centre: Callable[[float], int] = round) -> Image.Image:
    """Shorter side to `size` (longer side truncated to an integer), then the centre `size` × `size`, as RGB. ImageError
    for a mode that Pillow cannot convert, or a lack of memory.

    centre: what half a pixel becomes; torchvision rounds, transformers' image processors round down (`math.floor`).
    """
    name = getattr(image, "filename", "") or f"an image of mode {image.mode}"
    with _decoding(str(name), "cannot convert"):
        return _resize_and_crop(image, size, centre)


def _resize_and_crop(image: Image.Image, size: int, centre: Callable[[float], int]) -> Image.Image:
    from PIL import Image

    width, height = image.size
    short = min(width, height)
    new_width, new_height = (
        (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    )
    left, top = centre((new_width - size) / 2), centre((new_height - size) / 2)
    if new_width * new_height > HUGE:
        scale_x, scale_y = width / new_width, height / new_height
        box = (left * scale_x, top * scale_y, (left + size) * scale_x, (top + size) * scale_y)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    else:
        if short != size:
            image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size, top + size))
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's own conversion: transparency is dropped, whatever colours lie under it show."""
    with (
        warnings.catch_warnings()
    ):  # "palette images with transparency expressed in bytes": dropped on purpose, as published
        warnings.simplefilter("ignore", UserWarning)
        return image.convert("RGB")


def pil_to_pixels(image: Image.Image, size: int = 224) -> torch.Tensor:
    """A PIL image → normalised pixels [3, size, size], float32."""
    return normalize(unit_pixels(resize_and_crop(image, size)))


def unit_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as it is → [3, H, W] in [0, 1], float32."""
    import numpy as np
    import torch

    array = np.array(image, dtype=np.uint8)  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div_(255)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1], [..., 3, H, W] → CLIP-normalised."""
    mean = pixels.new_tensor(MEAN).view(3, 1, 1)
    std = pixels.new_tensor(STD).view(3, 1, 1)
    return (pixels - mean) / std


def tensor_to_pixels(images: torch.Tensor, size: int = 224, centre: Callable[[float], int] = round) -> torch.Tensor:
    """Differentiable twin of `pil_to_pixels`: [B, 3, H, W] in [0, 1] → normalised [B, 3, size, size], float32.

    Resampling runs in fp32 with antialiasing, which stays within 2/255 of Pillow's 8-bit result.
    """
    import torch.nn.functional as F

    images = check_batch(images)
    height, width = images.shape[-2:]
    if min(height, width) != size:
        target = (int(size * height / width), size) if width <= height else (size, int(size * width / height))
        for step in (
            (height, target[1]),
            target,
        ):  # as Pillow: first along x, then along y, the overshoot clipped each time
            images = F.interpolate(images, step, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    height, width = images.shape[-2:]
    top, left = centre((height - size) / 2), centre((width - size) / 2)
    return normalize(images[..., top : top + size, left : left + size])


def check_batch(images: torch.Tensor) -> torch.Tensor:
    """Images [B, 3, H, W] as float32; ImageError for another shape."""
    if images.dim() != 4 or images.shape[1] != 3:
        raise ImageError(f"expected images [B, 3, H, W] in [0, 1], found {list(images.shape)}")
    return images.float()
