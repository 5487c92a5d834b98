"""Drawn pictures with known preferences: a coloured shape on a coloured ground, and prompts that ask for one."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "yellow": (235, 215, 50)}
SHAPES = ("circle", "square", "triangle")


def draw(colour: str, shape: str, seed: int, size: int = 32, clutter: int = 0) -> Image.Image:
    """A picture of `shape` in `colour` at a random place; `clutter` random grey bars over it."""
    rng = random.Random(seed)
    ground = tuple(rng.randint(100, 160) for _ in range(3))
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)
    width = rng.randint(size // 3, size // 2)
    left, top = rng.randint(2, size - width - 2), rng.randint(2, size - width - 2)
    box = (left, top, left + width, top + width)
    if shape == "circle":
        pen.ellipse(box, COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, COLOURS[colour])
    else:
        pen.polygon([(left, top + width), (left + width, top + width), (left + width // 2, top)], COLOURS[colour])
    for _ in range(clutter):
        x, y = rng.randint(0, size), rng.randint(0, size)
        pen.line((x, y, rng.randint(0, size), rng.randint(0, size)), (rng.randint(0, 60),) * 3, 1)
    return image


def write_rankings(folder: Path, prompts: int, seed: int = 0, size: int = 32, k: int = 4) -> Path:
    """`prompts` items of k pictures, ranked by colour asked for first, then by tidiness; returns the JSON."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number in range(prompts):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        names, utility = [], []
        for index in range(k):
            match = index % 2 == 0
            shown = colour if match else rng.choice([name for name in COLOURS if name != colour])
            clutter = rng.choice((0, 8))
            name = f"{number}-{index}.png"
            draw(shown, shape, rng.randrange(1 << 30), size, clutter).save(folder / name)
            names.append(name)
            utility.append(2 * match - (clutter > 0))
        order = sorted(set(utility), reverse=True)
        items.append(
            {
                "id": f"{number:04d}",
                "prompt": f"a {colour} {shape}, number {number}",
                "generations": names,
                "ranking": [order.index(u) + 1 for u in utility],
            }
        )
    path = folder / "rankings.json"
    path.write_text(json.dumps(items))
    return path
