"""How the network shares a CPU with the decoders."""

import time

import pytest
import torch

from imagereward_core import load
from imagereward_core.bulk import Row, score_rows

from .conftest import WEIGHTS


def busy(seconds):
    """Use so much of a core."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("decoding", "network", "last"), [(0.05, 0.0, 1), (0.0, 0.1, 2)])
def test_the_network_has_one_thread_where_the_decoders_have_more_to_do(
    pictures, two_threads, monkeypatch, decoding, network, last
):
    scorer = load(str(WEIGHTS), device="cpu")
    preprocess, encode, seen = scorer.preprocess, scorer.encode_images, []

    def slow_preprocess(image):
        busy(decoding)
        return preprocess(image)

    def slow_encode(pixels):
        seen.append(torch.get_num_threads())
        busy(network * len(pixels))
        return encode(pixels)

    monkeypatch.setattr(scorer, "preprocess", slow_preprocess)
    monkeypatch.setattr(scorer, "encode_images", slow_encode)
    rows = [Row(path.name, str(path), "a red circle") for path in sorted(pictures.iterdir())]
    found = [scored for batch in score_rows(rows, scorer, batch_size=2) for scored in batch]
    assert len(found) == len(rows) and seen[:2] == [1, 1]  # the two that are measured
    assert set(seen[2:]) == {last}
    assert torch.get_num_threads() == 2  # given back


def test_threads_are_given_back_where_nobody_reads_to_the_end(pictures, two_threads):
    scorer = load(str(WEIGHTS), device="cpu")
    rows = [Row(path.name, str(path), "a red circle") for path in sorted(pictures.iterdir())] * 3
    results = score_rows(rows, scorer, batch_size=2)
    for _ in range(5):
        next(results)
    results.close()
    assert torch.get_num_threads() == 2
