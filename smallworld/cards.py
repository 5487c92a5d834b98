"""Model cards: one JSON file per weights file. What can be measured is written by measurement, the rest by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from imagereward_core.atomic import write_json
from imagereward_core.hashing import file_digest

MEASURED = {
    "oracle": ("oracle",),
    "tiny-sd": ("autoencoder", "tiny-sd"),
    "tiny-flow": ("tiny-flow",),
    "tiny-imagereward": ("tiny-imagereward",),
}
"""Which results of :func:`smallworld.evaluate.evaluate_all` belong on which card."""


def file_facts(path: Path) -> dict[str, Any]:
    """Name, size, sha256 and number of parameters of a safetensors file."""
    parameters = 0
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            part = file.get_slice(name)
            if part.get_dtype().startswith(("F", "BF")):
                count = 1
                for extent in part.get_shape():
                    count *= extent
                parameters += count
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path), "parameters": parameters}


def update_cards(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Write file facts and measured quality into the cards of ``folder``; returns their paths."""
    cards = []
    for name, keys in MEASURED.items():
        path = folder / f"{name}.json"
        card = json.loads(path.read_text(encoding="utf-8"))
        card |= file_facts(folder / f"{name}.safetensors")
        card["quality"] = _rounded({key: result[key] for key in keys})
        write_json(path, card, indent=2)
        cards.append(path)
    return cards


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value
