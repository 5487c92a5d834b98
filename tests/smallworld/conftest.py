"""The shipped weights, loaded once. One torch thread: more only wait for each other on networks this small."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def oracle():
    from smallworld.demo import ORACLE
    from smallworld.oracle import Oracle

    return Oracle.load(ORACLE)


@pytest.fixture(scope="session")
def pipeline():
    pytest.importorskip("diffusers")
    from smallworld import load_pipeline

    return load_pipeline()


@pytest.fixture(scope="session")
def reward():
    import imagereward_core
    from smallworld.pipeline import TINY_REWARD

    return imagereward_core.load(str(TINY_REWARD), device="cpu")
