"""What stands beside a scorer's number: how little it says of today's pictures, and which weights gave it."""

import re
from pathlib import Path

from imagereward_core import registry

TABLE = Path(__file__).parents[2] / "docs" / "scorers.md"


def test_the_numbers_are_those_of_the_documents_table():
    """The column MMRB2, with its source beside it."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    head = next(number for number, line in enumerate(lines) if "MMRB2 (2025 generators)" in line)
    column = [cell.strip() for cell in lines[head].split("|")].index("MMRB2 (2025 generators)")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines[head + 2 : head + 9]]
    known = {row[1].removesuffix(" score"): row[column] for row in rows if re.fullmatch(r"[\d.]+", row[column])}
    names = {"ImageReward": "ImageReward-v1.0"}
    found = {names.get(name, name): float(text) / 100 for name, text in known.items() if "/" not in name}
    assert {info.name: info.modern for info in registry.MODELS if info.modern} == found and len(found) == 3


def test_what_is_said():
    text = registry.caveat("ImageReward-v1.0")
    assert "54 % of pairs" in text and "chance is 50 %" in text
    assert registry.caveat("mine [0123456789]") == registry.caveat("MPS") == ""
    assert registry.describe("mine.safetensors").modern is None


def test_the_digest_of_weights():
    info = registry.get("ImageReward-v1.0")
    assert registry.weights_digest("mine [4f0a9c31d2]", info) == "4f0a9c31d2"
    known = next(info for info in registry.MODELS if info.sources and info.sources[0].sha256)
    assert registry.weights_digest(known.name, known) == known.sources[0].sha256
    assert registry.weights_digest("x", registry.describe("x.safetensors")) == ""
