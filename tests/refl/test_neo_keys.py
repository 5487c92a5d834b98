"""Our LoRA files of flow-matching families in Forge Neo's own loader: its key maps on networks of the published size.
And networks, prompts and pictures beside Neo's own modules.

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

from .neo_forward import ENGINES
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


@pytest.fixture(scope="module")
def forwards():
    return answer("neo_forward")


@pytest.mark.parametrize("key", KNOWN)
def test_a_network_is_computed_as_in_neo(forwards, key):
    """Anima's rotary powers are rounded to half precision there; ComfyUI and diffusers do not do that."""
    found = forwards[key]
    assert found.get("network_exact", found["network"]) < 1e-5 and found["network"] < 1e-3


@pytest.mark.parametrize("key", ENGINES)
def test_prompts_are_encoded_as_by_neo(forwards, key):
    """By its text engine, klein's, Qwen-Image's and Z-Image's with its own tokeniser."""
    assert forwards[key]["prompts"] < 1e-5


def test_kleins_pictures_are_encoded_and_decoded_as_by_neo(forwards):
    """By its autoencoder, whose file under its names ours is read from."""
    assert forwards["flux2"]["latents"] < 1e-5 and forwards["flux2"]["pictures"] < 1e-5


def test_what_the_page_says_of_that():
    kept = json.loads((ROOT / "docs/refl/neo_forward.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs/refl.md").read_text(encoding="utf-8").split())
    said = page.partition("were run beside Forge Neo's own modules")[2].partition(" - ")[0]
    families = [found for name, found in kept.items() if name != "torch"]
    networks = max(found.get("network_exact", found["network"]) for found in families)
    prompts = max(found["prompts"] for found in families if "prompts" in found)
    latents, pictures = kept["flux2"]["latents"], kept["flux2"]["pictures"]
    assert len(families) == len(KNOWN)
    for what, size in (
        ("networks' output by at most", networks),
        ("prompts by at most", prompts),
        ("latents by", latents),
        ("pictures by", pictures),
        ("Anima's by", kept["anima"]["network"]),
    ):
        assert f"{what} {size:.0e}".replace("e-0", "e-") in said
