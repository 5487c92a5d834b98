"""Saving, reading and joining images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageFont, PngImagePlugin


class SaveParams:
    """What callbacks around saving get; they may change image, filename and pnginfo."""

    def __init__(self, image: Any, p: Any, filename: str, pnginfo: dict[str, str]):
        self.image, self.p, self.filename, self.pnginfo = image, p, filename, pnginfo


class GridParams:
    """What callbacks get before images are joined."""

    def __init__(self, imgs: list[Any], cols: int, rows: int):
        self.imgs, self.cols, self.rows = imgs, cols, rows


def hide_text(image: Any, text: str) -> None:
    """Forge's and reForge's stealth text: the picture itself gets an alpha channel, in place, that spells the infotext
    in its low bits.
    """
    image.putalpha(255)
    bits = "".join(f"{byte:08b}" for byte in len(text.encode()).to_bytes(4, "big") + text.encode())
    alpha = image.getchannel("A")
    if len(bits) <= image.width * image.height:
        alpha.putdata([254 | int(bit) for bit in bits] + [255] * (image.width * image.height - len(bits)))
        image.putalpha(alpha)


def hidden_text(image: Any) -> str:
    """What `hide_text` wrote."""
    bits = "".join(str(value & 1) for value in image.getchannel("A").tobytes())
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8))
    return data[4 : 4 + int.from_bytes(data[:4], "big")].decode()


def build(host: Any) -> dict[str, Any]:
    """The functions of the `images` module for this host."""

    def save_image(
        image, path, basename, seed=None, prompt=None, extension="png", info=None, p=None, grid=False, suffix="", **_
    ):
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"grid-{seed}" if grid else f"{seed}{suffix}"
        params = SaveParams(image, p, str(folder / f"{stem}.{extension}"), {"parameters": info})
        if host.options.enable_pnginfo and host.options.stealth_pnginfo_option == "Alpha" and extension == "png":
            hide_text(params.image, info)  # before the callbacks: what they change comes too late for it
        host.callbacks.call("on_before_image_saved", params)
        chunks = PngImagePlugin.PngInfo()
        if host.options.enable_pnginfo:
            chunks.add_text("parameters", params.pnginfo["parameters"] or "")
        target = Path(params.filename)
        if host.options.save_images_replace_action != "Replace":
            n = 0
            while target.exists():
                n += 1
                target = Path(params.filename).with_name(f"{Path(params.filename).stem}-{n}.{extension}")
        params.image.save(target, pnginfo=chunks)
        if host.options.save_txt:
            Path(params.filename).with_suffix(".txt").write_text(params.pnginfo["parameters"], encoding="utf-8")
        params.image.already_saved_as = params.filename
        host.callbacks.call("on_image_saved", params)
        return params.filename, None

    def image_grid(imgs, batch_size=1, rows=None):
        rows = min(rows or batch_size, len(imgs))
        cols = math.ceil(len(imgs) / rows)
        host.callbacks.call("on_image_grid", GridParams(imgs, cols, rows))
        width, height = (max(image.size[axis] for image in imgs) for axis in (0, 1))
        grid = Image.new("RGB", (cols * width, rows * height))
        for i, image in enumerate(imgs):
            grid.paste(image, (i % cols * width, i // cols * height))
        grid.tiles = list(imgs)
        return grid

    def read_info_from_image(image):
        return image.info.get("parameters"), dict(image.info)

    def get_font(fontsize):
        return ImageFont.load_default()

    return {
        "save_image": save_image,
        "image_grid": image_grid,
        "read_info_from_image": read_info_from_image,
        "get_font": get_font,
    }
