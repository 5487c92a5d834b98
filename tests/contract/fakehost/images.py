"""Saving, reading and joining images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin


class SaveParams:
    """What callbacks around saving get; they may change image, filename and pnginfo."""

    def __init__(self, image: Any, p: Any, filename: str, pnginfo: dict[str, str]):
        self.image, self.p, self.filename, self.pnginfo = image, p, filename, pnginfo


def build(host: Any) -> dict[str, Any]:
    """The functions of the `images` module for this host."""

    def save_image(image, path, basename, seed=None, prompt=None, extension="png", info=None, p=None, grid=False, suffix="", **_):
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"grid-{seed}" if grid else f"{seed}{suffix}"
        params = SaveParams(image, p, str(folder / f"{stem}.{extension}"), {"parameters": info})
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
        width, height = (max(image.size[axis] for image in imgs) for axis in (0, 1))
        grid = Image.new("RGB", (cols * width, rows * height))
        for i, image in enumerate(imgs):
            grid.paste(image, (i % cols * width, i // cols * height))
        grid.tiles = list(imgs)
        return grid

    def read_info_from_image(image):
        return image.info.get("parameters"), dict(image.info)

    return {"save_image": save_image, "image_grid": image_grid, "read_info_from_image": read_info_from_image}
