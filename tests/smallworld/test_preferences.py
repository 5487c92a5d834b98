"""Planted flaws, graded ties, ImageRewardDB's file format."""

import json

import numpy as np
import pytest
from PIL import Image

from smallworld.preferences import (
    PENALTIES,
    Item,
    flawed_picture,
    possible_flaws,
    sample_item,
    sample_pair,
    write_preferences,
)
from smallworld.world import parse_caption

PAIR = parse_caption("a large red star above a small blue circle on a black background")
SINGLE = parse_caption("a red star on a black background")


def test_equal_penalties_share_a_rank():
    blank = [Image.new("RGB", (64, 64))] * 5
    item = Item(SINGLE, blank, [("blur",), (), ("colour",), ("blur", "noise"), ("shape", "clutter")], [1.0] * 5)
    assert item.ranking == [2, 1, 3, 3, 4]


def test_only_flaws_that_the_caption_allows():
    assert set(possible_flaws(PAIR)) == set(PENALTIES)
    assert set(PENALTIES) - set(possible_flaws(SINGLE)) == {"relation", "size"}
    assert flawed_picture(SINGLE, ("relation",), np.random.default_rng(0)) is None


@pytest.mark.parametrize("flaw", ["background", "colour", "shape", "size", "relation", "missing", "extra", "clutter"])
def test_the_oracle_sees_the_planted_flaw_and_no_other(oracle, flaw):
    from smallworld.oracle import judge

    rng = np.random.default_rng(7)
    expected = {"missing": "count", "extra": "count"}.get(flaw, flaw)
    found = 0
    items = [sample_pair(flaw, rng, held_out=True) for _ in range(20)]
    for item in items:
        clean, flawed = oracle.read(item.pictures)
        assert min(judge(item.scene, clean).values()) == 1
        assert clean.clutter == 0
        wrong = {name for name, right in judge(item.scene, flawed).items() if right < 1}
        if flaw == "clutter":
            found += flawed.clutter > 0 and not wrong
        else:
            found += expected in wrong
    assert found >= 19


@pytest.mark.parametrize("flaw", ["blur", "noise"])
def test_degradations_change_the_texture(flaw):
    clean = flawed_picture(SINGLE, (), np.random.default_rng(3))
    flawed = flawed_picture(SINGLE, (flaw,), np.random.default_rng(3))
    detail = [
        np.abs(np.diff(np.asarray(picture).astype(float), axis=1)).max(axis=(0, 2)).mean()
        for picture in (clean, flawed)
    ]
    assert detail[1] < 0.8 * detail[0] if flaw == "blur" else detail[1] > 1.2 * detail[0]


def test_items_repeat_with_their_seed():
    one, two = (sample_item(np.random.default_rng(11), held_out=True) for _ in range(2))
    assert one.scene == two.scene
    assert one.flaws == two.flaws
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one.pictures, two.pictures))
    assert one.scene.held_out


def test_the_written_file_is_imagereward_format(tmp_path):
    path = write_preferences(tmp_path, "train", 6, 1)
    items = json.loads(path.read_text(encoding="utf-8"))
    assert len({item["id"] for item in items}) == len(items) == 6
    for item in items:
        assert parse_caption(item["prompt"]) is not None
        assert len(item["generations"]) == len(item["ranking"]) == 4
        assert min(item["ranking"]) == 1 < max(item["ranking"])
        assert all(Image.open(tmp_path / name).size == (64, 64) for name in item["generations"])


def test_the_trainer_reads_it(tmp_path):
    formats = pytest.importorskip("imagereward_train.formats")
    reading = formats.read_items(write_preferences(tmp_path, "train", 6, 1))
    assert len(reading.items) == 6
    assert not reading.problems


def test_a_view_redraws_its_share_of_the_items(tmp_path):
    def black(pictures):
        return [Image.new("RGB", picture.size) for picture in pictures]

    path = write_preferences(tmp_path, "some", 10, 2, view=black, view_share=0.5)
    redrawn = [
        np.asarray(Image.open(tmp_path / item["generations"][0])).max() == 0
        for item in json.loads(path.read_text(encoding="utf-8"))
    ]
    assert 1 <= sum(redrawn) <= 9


def test_shuffled_rankings_keep_pictures_and_ranks_but_not_who_has_which(tmp_path):
    plain, shuffled = (
        json.loads(write_preferences(tmp_path / name, "x", 30, 3, shuffled=name == "b").read_text(encoding="utf-8"))
        for name in ("a", "b")
    )
    assert all(sorted(one["ranking"]) == sorted(other["ranking"]) for one, other in zip(plain, shuffled))
    assert sum(one["ranking"] != other["ranking"] for one, other in zip(plain, shuffled)) > 15


def test_degrees_weigh_what_can_be_half_wrong():
    scene = parse_caption("a large red star on a white background")
    flaws = [("shape",), ("shape",), ("clutter",), ("blur", "shape"), ()]
    item = Item(scene, [], flaws, [0.25, 1.0, 0.25, 0.5, 1.0])  # penalties 0.5, 2, 1 (never in part), 2, 0
    assert item.ranking == [2, 4, 3, 4, 1]
