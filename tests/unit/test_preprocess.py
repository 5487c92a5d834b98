import contextlib
import io
import os
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from imagereward_core.errors import ImageError
from imagereward_core.preprocess import (
    MEAN,
    STD,
    image_size,
    normalize,
    open_image,
    pil_to_pixels,
    resize_and_crop,
    tensor_to_pixels,
)


def noise(size=(300, 200), mode="RGB", seed=0):
    width, height = size
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 / width, y * 255 / height, (x + y) % 255], -1).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (224, 224), (224, 500), (64, 64)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "1", "CMYK"])
def test_resampling_happens_in_the_images_own_mode(size, mode):
    image = noise(size, mode)
    width, height = size
    scale = 224 / min(size)
    target = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
    resized = image if min(size) == 224 else image.resize(target, Image.Resampling.BICUBIC)
    left, top = round((target[0] - 224) / 2), round((target[1] - 224) / 2)
    expected = resized.crop((left, top, left + 224, top + 224)).convert("RGB")
    assert scale > 0 and np.array_equal(np.array(resize_and_crop(image)), np.array(expected))


def test_pixels_are_normalised_with_clips_statistics():
    image = noise((224, 224))
    pixels = pil_to_pixels(image)
    expected = (np.array(image, dtype=np.float32) / 255 - np.array(MEAN)) / np.array(STD)
    assert pixels.shape == (3, 224, 224) and pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_extreme_shapes():
    wide = noise((3000, 7))  # resized whole this would be 96,000 × 224
    assert resize_and_crop(wide).size == (224, 224)
    whole = wide.resize((96000, 224), Image.Resampling.BICUBIC).crop((47888, 0, 48112, 224))
    assert np.abs(np.array(resize_and_crop(wide), int) - np.array(whole, int)).max() <= 1
    assert resize_and_crop(noise((10000, 10))).size == (224, 224)
    assert resize_and_crop(Image.new("RGB", (1, 1), (9, 8, 7))).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("size", [(512, 512), (640, 400), (100, 150)])
def test_the_differentiable_twin_agrees_with_pillow(size):
    image = smooth(*size)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    theirs, ours = pil_to_pixels(image), tensor_to_pixels(tensor)[0]
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert difference.max() <= 2 and difference.mean() <= 0.5


def test_the_twin_has_gradients():
    images = torch.full((1, 3, 40, 60), 0.5, requires_grad=True)
    tensor_to_pixels(images, 32).sum().backward()
    assert (images.grad[..., 20] != 0).all()
    with pytest.raises(ImageError, match=r"\[B, 3, H, W\]"):
        tensor_to_pixels(torch.zeros(3, 8, 8))


def test_normalize_keeps_the_dtype():
    assert normalize(torch.zeros(3, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    array = np.array([[0, 256 * 10, 256 * 200, 65535]] * 4, dtype=np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(array).save(path)
    assert np.array(open_image(path)).tolist() == [[0, 10, 200, 255]] * 4


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    red, green, blue = open_image(path).convert("RGB").getpixel((5, 5))
    assert red > 200 and blue < 50


def test_exif_rotation_is_an_option(tmp_path):
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif)
    assert open_image(path).size == (40, 20)
    assert open_image(path, exif_transpose=True).size == (20, 40)


def test_arrays():
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    assert open_image(array).size == (5, 4)
    assert open_image(array[:, :, 0]).mode == "L" and open_image(array[:, :, :1]).mode == "L"
    for wrong in (array.astype(np.float32), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError, match="uint8"):
            open_image(wrong)


def png_bytes(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_unreadable_files_are_named(tmp_path):
    cases = {
        "missing.png": (None, "no such image"),
        "empty.png": (b"", "0 bytes"),
        "text.png": (b"<html>not an image</html>", "not an image"),
        "cut.png": (png_bytes(noise())[:5000], "damaged or incomplete"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError, match=message) as caught:
            open_image(path)
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="found NoneType"):
        open_image(None)
    with pytest.raises(ImageError, match="floating-point"):
        open_image(Image.new("F", (4, 4)))


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="safety limit"):
        open_image(path)


class Undecodable(Image.Image):
    """An image whose decoder fails with what it was given."""

    def __init__(self, error):
        super().__init__()
        self.filename, self.error = "photo.png", error

    def load(self):
        raise self.error


FOREIGN = [
    ZeroDivisionError("integer division by zero"), MemoryError(), SyntaxError("broken"), OverflowError("too large"),
    RuntimeError("Failed to decode frame 0"), struct.error("unpack requires 4 bytes"), RecursionError(), KeyError("x"),
    AssertionError(), EOFError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), Image.DecompressionBombError("bomb"),
]  # fmt: skip


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises_names_the_image(tmp_path, monkeypatch, error):
    with pytest.raises(ImageError, match="photo.png") as caught:
        open_image(Undecodable(error))
    assert caught.value.__cause__ is error
    path = tmp_path / "opened.png"
    path.write_bytes(png_bytes(noise((4, 4))))

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(ImageError, match="opened.png"):
        open_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_damaged_images_are_errors_of_ours(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    noise((24, 16)).save(path)
    data, generator = path.read_bytes(), np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(data)
        for place in generator.integers(0, min(len(data), 400), 4):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ImageError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert open_image(path).size


def test_only_the_formats_we_support_are_tried(tmp_path):
    """Pillow hands PostScript to a program outside; a suffix tells nothing."""
    for name, content in (
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"),
        ("b.png", b"P6 1 1 255\n\0\0\0"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=rf"{name} is not an image that Pillow"):
            open_image(tmp_path / name)
    for suffix in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
        noise((8, 8)).save(tmp_path / f"c.{suffix}")
        assert open_image(tmp_path / f"c.{suffix}").size == (8, 8)
    assert image_size(tmp_path / "c.png") == (8, 8)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX's")
def test_pipes_and_devices_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to("/dev/zero")
    for name in ("x.png", "y.png"):
        with pytest.raises(ImageError, match=rf"{name} is no file but a pipe"):
            open_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b.png", "half \ud800 pair.png", "x" * 5000 + ".png"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(ImageError, match="cannot read"):
        open_image(name)
