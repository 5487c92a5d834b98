"""A host with the extension loaded, and a scorer whose scores each test knows."""

from __future__ import annotations

import pytest

from imagereward_core.preprocess import open_image

from .fakehost import FakeHost

TITLE = "ImageReward - generate human preference scores"


class RedScorer:
    """Scores a picture by how red it is: (red - 50) / 10. The fake sampler paints red = the seed's last two digits."""

    def __init__(self, name="ImageReward-v1.0", device="cpu"):
        import torch

        self.name, self.device, self.net = name, device, torch.nn.Linear(1000, 250)  # 250 × 1001 × 4 bytes
        self.calls: list[tuple[str, tuple[int, int]]] = []
        self.failure: Exception | None = None
        self.moves: list[str] = []

    def score_pairs(self, prompts, images):
        if self.failure is not None:
            raise self.failure
        images = [open_image(image) for image in images]
        self.calls += [(prompt, image.size) for prompt, image in zip(prompts, images)]
        return [(image.convert("RGB").getpixel((0, 0))[0] - 50) / 10 for image in images]

    def to(self, device):
        self.device = device
        self.moves.append(device)
        return self


class Loader:
    """Stands in for the loading of weights; remembers each load."""

    def __init__(self):
        self.loads: list[tuple[str, str]] = []
        self.scorer = RedScorer()
        self.failure: Exception | None = None

    def __call__(self, name, device, precision, folder, progress=None):
        self.loads.append((name, device))
        if self.failure is not None:
            raise self.failure
        self.scorer.name, self.scorer.device = name, device
        return self.scorer


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def host(tmp_path, loader):
    with FakeHost(tmp_path) as fake:
        assert fake.errors == []
        fake.part("lifecycle").holder._load = loader
        fake.options.data["imagereward_remember"] = False  # test_remember.py is about that
        yield fake
        fake.part("remember").memory.close()


@pytest.fixture
def generate(host):
    """Run a txt2img job of `seeds` images (seeds 100+…) with the accordion on; nothing may fail silently."""

    def run(seeds=4, batch_size=2, start=148, accordion=None, **kwargs):
        n_iter = -(-seeds // batch_size)
        processed = host.txt2img(
            seed=start, batch_size=batch_size, n_iter=n_iter, accordion={} if accordion is None else accordion, **kwargs
        )
        assert host.errors == []
        return processed

    return run
