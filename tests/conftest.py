"""Shared fixtures. Data that is not part of the project lies beside it in ../shared; tests that use it skip without
it.
"""

from __future__ import annotations

import gc
import importlib.abc
import json
import os
import pathlib
import signal
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"  # our own: made by the references on seeded weights, see its README files
SHARED = pathlib.Path(os.environ.get("IMAGEREWARD_SHARED", ROOT.parent / "shared"))

sys.path.insert(0, str(ROOT))
# A shell starts what it puts into the background with Ctrl-C ignored, and children inherit that: not in a test.
signal.signal(signal.SIGINT, signal.default_int_handler)


class _Hidden(importlib.abc.MetaPathFinder):
    """Makes the packages named in IMAGEREWARD_TEST_HIDE absent, to test what happens where they are not installed."""

    names = set(os.environ.get("IMAGEREWARD_TEST_HIDE", "").split(",")) - {""}

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r} (hidden by the test)", name=fullname)
        return None


if _Hidden.names:
    sys.meta_path.insert(0, _Hidden())


def shared(*parts: str) -> pathlib.Path:
    """A file or folder of the shared test data; skips the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the shared test data {'/'.join(parts)}")
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_no_network():
    """Small models are fastest on one thread, and a test that reaches for the network is wrong."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
    except ImportError:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage(_one_thread_and_no_network):
    """What earlier files have imported stays, so collections need not look at it again: every unloading of a scorer
    asks for one, and with torch, transformers and the hosts' stand-ins they were half of the time of such tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden() -> dict:
    """The reference's scores on seeded full-size weights (tests/golden/golden.json), with the image paths."""
    data = json.loads((GOLDEN / "golden.json").read_text())
    data["paths"] = [GOLDEN / "images" / name for name in data["images"]]
    return data


@pytest.fixture(scope="session")
def golden_file(golden, tmp_path_factory) -> pathlib.Path:
    """The seeded full-size weights as .safetensors: 447 M parameters, the published key names and shapes."""
    from safetensors.torch import save_file

    kept = os.environ.get("IMAGEREWARD_GOLDEN")  # made once for several runs, removed by whoever set this
    path = pathlib.Path(kept) if kept else tmp_path_factory.mktemp("golden") / "golden.safetensors"
    if path.exists():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)

    from imagereward_core.atomic import replacing
    from tests.golden.make_state import make_state

    with replacing(path) as temporary:  # several runs may want it at once: none may see half of it
        save_file(make_state(golden["seed"]), temporary)
    yield path
    if not kept:
        path.unlink()


@pytest.fixture(scope="session")
def golden_model(golden_file):
    """The scorer on the seeded full-size weights, fp32 on the CPU."""
    import imagereward_core as RM

    return RM.load(golden_file, device="cpu", precision="fp32")


@pytest.fixture
def all_cores():
    """Every core for one test: sums come out in another order then, so other tests must not inherit it."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


def tiny_config(**changes):
    """A reward model small enough to build in a test: the published form with other numbers."""
    from imagereward_core.config import ModelConfig, TextConfig, VisionConfig

    return ModelConfig(
        **{
            "vision": VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2),
            "text": TextConfig(width=32, depth=2, heads=2, intermediate=64, max_positions=64),
            "projection": 16,
            "head": (16, 8),
            "mean": 0.0,
            "std": 1.0,
            **changes,
        }
    )


def random_state(config, seed: int = 0) -> dict:
    """Seeded weights whose scores differ from image to image and prompt to prompt."""
    import torch

    from imagereward_core.model import RewardModel

    generator = torch.Generator().manual_seed(seed)
    state = RewardModel(config).state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in key.lower() and key.endswith("weight"):
                state[key] = 1 + 0.1 * noise
            else:
                state[key] = noise * (
                    0.02 if key.endswith("bias") else 0.5 if "embed" in key else tensor[0].numel() ** -0.5
                )
    return state


@pytest.fixture
def tiny_file(tmp_path) -> pathlib.Path:
    """A small random reward model on disk, with its config in the metadata."""
    from safetensors.torch import save_file

    from imagereward_core.config import METADATA_KEY

    config = tiny_config()
    path = tmp_path / "tiny.safetensors"
    save_file(random_state(config), path, metadata={METADATA_KEY: config.to_json()})
    return path


@pytest.fixture
def tiny_model(tiny_file):
    """The scorer of `tiny_file`."""
    import imagereward_core as RM

    return RM.load(tiny_file, device="cpu")
