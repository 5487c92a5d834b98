"""Our LoRA files of flow-matching families in Forge Neo's own loader: its key maps on networks of the published size.
And Anima's forward beside Neo's own.

IMAGEREWARD_HOST_NEO names its source tree; without it these tests are skipped. They import its backend, so this Python
needs what that needs (its environment has it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refl.families import FLOWS

from .neo_keys import LARGER, TARGETS

ROOT = Path(__file__).parents[2]
TREE = os.environ.get("IMAGEREWARD_HOST_NEO", "")
KNOWN = ("flux", "flux2", "z-image", "lumina2", "qwen-image", "anima")  # Neo has no class for Stable Diffusion 3


def answer(program: str):
    """The last line that a program prints, of JSON."""
    if not TREE:
        pytest.skip("no IMAGEREWARD_HOST_NEO: the source tree of that host")
    command = [sys.executable, "-m", f"tests.refl.{program}", TREE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    lacking = [line for line in done.stderr.splitlines() if line.startswith("ModuleNotFoundError")]
    if lacking:
        pytest.skip(f"this Python lacks what Forge Neo needs: {lacking[-1]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers():
    return answer("neo_keys")


@pytest.mark.parametrize("key", FLOWS)
def test_neo_has_the_families_that_we_say(answers, key):
    assert all(answers[key][targets]["known"] == (key in KNOWN) for targets in TARGETS)


@pytest.mark.parametrize("key", (*KNOWN, *LARGER))
def test_single_files_are_as_neo_has_them(answers, key):
    """The published network under the names of single files has Neo's tensors, in Neo's sizes."""
    found = answers[key]["attention"]
    # Neo renames these when it loads a file
    theirs, ours = found["host_only"], [name.replace("_norm.scale", "_norm.weight") for name in found["file_only"]]
    assert (sorted(theirs), found["other_shapes"]) == (sorted(ours), [])


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("key", (*KNOWN, *LARGER))
def test_neo_takes_every_adapter_to_its_place(answers, key, targets):
    """By Neo's own load_lora_for_models, which uses nothing of a file of which it does not know enough names."""
    found, wanted = answers[key][targets]["found"], answers[key][targets]["wanted"]
    assert answers[key][targets]["adapters"] >= 80  # of the published depth
    assert found.keys() == wanted.keys()
    assert all(fits for fits, _ in found.values())
    assert {place: square for place, (_, square) in found.items()} == pytest.approx(wanted, rel=1e-3)


def test_anima_is_computed_as_in_neo():
    """By Neo's modules and text engine; it rounds its rotary powers to half precision, ComfyUI and diffusers do not."""
    found = answer("neo_anima")
    assert found["network_exact"] < 1e-5 and found["network"] < 1e-3 and found["prompts"] < 1e-5


def test_what_the_page_says_of_that():
    kept = json.loads((ROOT / "docs/refl/anima_neo.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs/refl.md").read_text(encoding="utf-8").split())
    said = page.partition("Anima was run beside Forge Neo's")[2].partition("half precision")[0]
    for name in ("prompts", "network_exact", "network"):
        assert f"by {kept[name]:.0e}".replace("e-0", "e-") in said
