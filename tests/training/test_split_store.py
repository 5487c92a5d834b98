"""Splits without leakage, and caches that survive being killed."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagereward_core.errors import DataError
from imagereward_core.preprocess import open_image, pil_to_pixels
from imagereward_train.cache import PixelCache
from imagereward_train.items import Item, normal_prompt
from imagereward_train.records import Records, read_metrics
from imagereward_train.split import split_items, without_overlap
from imagereward_train.store import RowStore


def items_of(spec):
    return [Item(str(n), prompt, images, ((0, 1),)) for n, (prompt, images) in enumerate(spec)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.lists(st.integers(0, 60), min_size=2, max_size=3, unique=True)),
        min_size=4,
        max_size=40,
    ),
    st.integers(0, 5),
)
def test_no_prompt_and_no_image_on_both_sides(spec, seed):
    items = items_of(
        [(f"Prompt  {p}" if i % 2 else f"prompt {p} ", tuple(map(str, images))) for i, (p, images) in enumerate(spec)]
    )
    try:
        parts = split_items(items, 0.2, 0.2, seed)
    except DataError as error:
        assert "too few" in str(error)
        return
    assert sorted(item.id for part in parts for item in part) == sorted(item.id for item in items)
    for first in range(3):
        for second in range(first):
            assert not {normal_prompt(i.prompt) for i in parts[first]} & {
                normal_prompt(i.prompt) for i in parts[second]
            }
            assert not {x for i in parts[first] for x in i.images} & {x for i in parts[second] for x in i.images}


def test_split_holds_the_fractions_and_depends_on_the_seed_alone():
    items = items_of([(f"p{n}", (f"{n}a", f"{n}b")) for n in range(200)])
    train, valid, test = split_items(items, 0.1, 0.2, 7)
    assert (len(train), len(valid), len(test)) == (140, 20, 40)
    again = split_items(list(reversed(items)), 0.1, 0.2, 7)
    assert [{i.id for i in part} for part in again] == [{i.id for i in part} for part in (train, valid, test)]
    assert {i.id for i in split_items(items, 0.1, 0.2, 8)[1]} != {i.id for i in valid}


@pytest.mark.parametrize("fractions", [(1.0, 0.0), (-0.1, 0.0), (0.6, 0.4)])
def test_split_refuses_fractions_that_leave_nothing(fractions):
    with pytest.raises(DataError, match="leave something to train on"):
        split_items(items_of([("a", ("1", "2"))]), *fractions)


def test_without_overlap():
    items = items_of([("A b", ("1", "2")), ("c", ("3", "4")), ("d", ("5", "6"))])
    held_out = items_of([("a  B", ("9", "8")), ("e", ("6", "7"))])
    assert [item.prompt for item in without_overlap(items, held_out)] == ["c"]


def store(folder, **changes):
    return RowStore(folder, (2, 3), "float32", {"kind": "t", **changes})


def array(value):
    return np.full((2, 3), value, dtype=np.float32)


def test_rows_come_back_after_reopening(tmp_path):
    first = store(tmp_path)
    first.append([("a", array(1)), ("b", array(2)), ("a", array(9))])
    second = store(tmp_path)
    assert len(second) == 2 and "b" in second and "c" not in second
    assert second.rows(["b", "a", "b"])[:, 0, 0].tolist() == [2, 1, 2]
    second.append([("c", array(3))])
    assert second.rows(["c"])[0, 1, 2] == 3
    assert json.loads((second.folder / "manifest.json").read_text()) == {
        "shape": [2, 3],
        "dtype": "float32",
        "kind": "t",
    }
    assert store(tmp_path, other=1).folder != first.folder


@pytest.mark.parametrize("torn", range(1, 25))
def test_a_torn_row_is_written_again(tmp_path, torn):
    first = store(tmp_path)
    first.append([("a", array(1)), ("b", array(2))])
    rows = first.folder / "rows.bin"
    rows.write_bytes(rows.read_bytes()[: 48 - torn])  # killed before the second row was whole
    second = store(tmp_path)
    assert len(second) == 1
    second.append([("b", array(5)), ("c", array(6))])
    assert store(tmp_path).rows(["a", "b", "c"])[:, 0, 0].tolist() == [1, 5, 6]


def test_a_torn_index_line_is_written_again(tmp_path):
    first = store(tmp_path)
    first.append([("a", array(1)), ("b", array(2))])
    index = first.folder / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-2])
    second = store(tmp_path)
    assert len(second) == 1
    second.append([("b", array(7))])
    assert store(tmp_path).rows(["a", "b"])[:, 0, 0].tolist() == [1, 7]


def test_rows_of_another_shape_are_refused(tmp_path):
    with pytest.raises(DataError, match="must be float32"):
        store(tmp_path).append([("a", np.zeros((3, 2), dtype=np.float32))])


def test_cached_pixels_are_the_scorers_own_and_are_read_once(tmp_path, monkeypatch):
    paths = []
    for number, size in enumerate([(40, 30), (16, 50), (16, 16)]):
        rng = np.random.default_rng(number)
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(paths[-1])
    cache = PixelCache(tmp_path / "cache", 16)
    seen = []
    assert cache.build([*paths, paths[0]], lambda *values: seen.append(values[:3])) == {}
    assert seen == [("images", 3, 3)]
    wanted = torch.stack([pil_to_pixels(open_image(path), 16) for path in paths])
    assert torch.equal(cache.pixels(paths), wanted)

    again = PixelCache(tmp_path / "cache", 16)
    monkeypatch.setattr(again, "_read", lambda path: pytest.fail("decoded twice"))
    assert again.build(paths) == {}
    assert torch.equal(again.pixels(paths[::-1]), wanted.flip(0))
    assert again.build([str(tmp_path / "gone.png")]) == {
        str(tmp_path / "gone.png"): f"no such image: {tmp_path / 'gone.png'}"
    }


def test_a_changed_image_is_cached_anew(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 16), (255, 0, 0)).save(path)
    cache = PixelCache(tmp_path / "cache", 16)
    cache.build([str(path)])
    Image.new("RGB", (16, 17), (0, 255, 0)).save(path)
    fresh = PixelCache(tmp_path / "cache", 16)
    fresh.build([str(path)])
    assert fresh.pixels([str(path)])[0, 1].mean() > 1 and len(fresh.store) == 2


def test_a_torn_line_of_the_metrics_hides_no_other(tmp_path):
    lines = ['{"kind": "train", "update": 1}', '{"kind": "tra', "[1]", '{"kind": "valid", "update": null}']
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*lines, '{"kind": "train", "update": 2}', '{"kind": "train", "update": 3}']))
    assert [event["update"] for event in read_metrics(path)] == [1, 2, 3]
    Records(tmp_path, tensorboard=False, resume_at=2).close()
    assert [event["update"] for event in read_metrics(path)] == [1, 2]
